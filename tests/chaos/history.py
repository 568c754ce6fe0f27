"""The whole story of one message, from every witness, in the order of time."""

from __future__ import annotations

import re
from calendar import timegm
from pathlib import Path
from time import strptime

from .executions import Execution
from .faults import Fault
from .stage import clock
from .verdict import Letter, Pushed

AROUND_S = 2.0  # faults that began or ended so shortly before or after
MOST_LINES = 120
_STAMP = re.compile(r"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)\.(\d+)Z ")
_COMMAND = re.compile(rb"(\d{10}\.\d+) (.*)")


def history(
    entry_id: str,
    *,
    directory: Path,
    pushed: list[Pushed],
    executions: list[Execution],
    letters: list[Letter],
    faults: list[Fault],
    pending: dict[str, str],
) -> list[str]:
    """Lines to print."""
    events = [(p.at_s, f"pushed: {p.do} n={p.n}") for p in pushed if p.id == entry_id]
    events += [line for e in executions if e.id == entry_id for line in e.lines()]
    for letter in letters:
        if letter.original_id == entry_id:
            at_s = int(letter.id.partition("-")[0]) / 1000
            events.append((at_s, f"LETTER {letter.id} {letter.reason}: {letter.last_error[:200]}"))
    events += _commands(directory / "commands", entry_id)
    events += _log_lines(directory, entry_id)
    begin_s = min((at for at, _ in events), default=0.0) - AROUND_S
    end_s = max((at for at, _ in events), default=0.0) + AROUND_S
    for fault in faults:
        if fault.overlaps(begin_s, end_s):
            events.append((fault.begin_s, f"FAULT {fault}"))
            if fault.end_s - fault.begin_s > 0.01:
                events.append((fault.end_s, f"END OF FAULT {fault}"))
    lines = [f"  {clock(at_s)} {text}" for at_s, text in sorted(events)]
    if len(lines) > MOST_LINES:
        lines[MOST_LINES // 2 : -MOST_LINES // 2] = ["  ..."]
    return [*lines, f"  pending: {pending.get(entry_id, 'no')}"]


def _commands(path: Path, entry_id: str) -> list[tuple[float, str]]:
    """What Redis was told about it; scripts without their text."""
    found = []
    if path.exists():
        with path.open("rb") as file:
            for line in file:
                if entry_id.encode() in line and (command := _COMMAND.search(line)):
                    text = command[2].decode(errors="replace")
                    found.append((float(command[1]), f"redis: {_short(text, entry_id)}"))
    return found


def _short(text: str, entry_id: str) -> str:
    if len(text) < 300:
        return text
    at = text.find(entry_id)
    return f"{text[:100]} ... {text[max(at - 80, 100) : at + 120]} ..."


def _log_lines(directory: Path, entry_id: str) -> list[tuple[float, str]]:
    found = []
    for path in directory.glob("*/*/*.stderr"):
        for line in path.read_text(errors="replace").splitlines():
            if entry_id in line and (stamp := _STAMP.match(line)):
                at_s = timegm(strptime(stamp[1], "%Y-%m-%dT%H:%M:%S")) + float(f"0.{stamp[2]}")
                found.append((at_s, f"log {path.parent.name}: {line[stamp.end() :][:300]}"))
    return found


def odd_tracebacks(directory: Path) -> list[str]:
    """Tracebacks other than those of handlers that fail on purpose: the line before each, the last
    line of code, and the error."""
    odd = []
    for path in directory.glob("*/*/*.stderr"):
        before, code, inside = "", "", False
        for line in path.read_text(errors="replace").splitlines():
            if line.startswith("Traceback"):
                inside = "handler failed for" not in before
            elif line.startswith(" "):
                code = f"{code[-200:]} {line.strip()}"
            else:
                if inside:
                    odd.append(f"{path.parent.name}: {before[:200]} |{code} | {line[:200]}")
                before, code, inside = line, "", False
    return odd
