"""What our commands show on a terminal: a progress bar among log lines, tables by rich."""

from __future__ import annotations

import contextlib
import json
import os
import pty
import re
import select
import signal
import subprocess
import sys
from pathlib import Path

from redis_stream_queue.pool.master.progress import bar
from tests.support.ledger import Ledger
from tests.support.pool import plain_environment

APP = """
import logging, time
from redis_stream_queue import per_message, stream_handler

@stream_handler("work", group="crew")
@per_message
def handler(message):
    logging.warning("handling %s", message.data)
    time.sleep(0.05)
"""
OWNS_ITS_TERMINAL = """
import fcntl, os, sys, termios
os.setsid()
fcntl.ioctl(0, termios.TIOCSCTTY, 0)
os.execv(sys.executable, [sys.executable, *sys.argv[1:]])
"""
LOG_LINE = re.compile(r"\d{4}-\d\d-\d\dT[\d:.]+Z [A-Z]+ (master|slot=\d) pid=\d+ .*")
BAR = re.compile(r"handling \[#*-*\] \d+ of \d+(, \d\d:\d\d left)?")


def shown(command: list[str], cwd: Path, url: str) -> list[str]:
    """The lines that a terminal shows when the command has ended."""
    ours, theirs = pty.openpty()
    env = {**plain_environment(url), "TERM": "xterm", "COLUMNS": "150"}
    process = subprocess.Popen(
        [sys.executable, "-m", *command], cwd=cwd, env=env, stdout=theirs, stderr=theirs
    )
    os.close(theirs)
    raw = b""
    with contextlib.suppress(OSError):  # EIO: everybody has closed it
        while part := os.read(ours, 65_536):
            raw += part
    os.close(ours)
    assert process.wait() == 0, raw.decode()
    return [_on_screen(line) for line in raw.decode().replace("\r\n", "\n").split("\n")]


def _on_screen(written: str) -> str:
    """What is left of a line after its carriage returns and erasures."""
    line, column = "", 0
    for part in re.findall(r"\r|\x1b\[K|\x1b\[[\d;]*m|.", written):
        if part == "\r":
            column = 0
        elif part == "\x1b[K":
            line = line[:column]
        elif not part.startswith("\x1b"):
            line = line[:column] + part + line[column + 1 :]
            column += 1
    return line.rstrip()


def test_log_lines_and_the_progress_bar_do_not_run_into_each_other(
    pool_url: str, ledger: Ledger, tmp_path: Path
) -> None:
    """Lines of the master and of both workers are whole; the bar ends at the end."""
    (tmp_path / "app.py").write_text(APP)
    ledger.push(*range(20))
    command = ["redis_stream_queue.cli.rsq_pool", "--workers", "2", "--burst", "app:handler"]
    lines = [line for line in shown(command, tmp_path, pool_url) if line]

    assert [
        line for line in lines if not LOG_LINE.fullmatch(line) and not BAR.fullmatch(line)
    ] == []
    assert sum(" handling " in line for line in lines) == 20
    assert any("20 of 20" in line for line in lines if BAR.fullmatch(line))


def test_a_pool_whose_terminal_is_closed_drains(
    pool_url: str, ledger: Ledger, tmp_path: Path
) -> None:
    """It gets a SIGHUP then, which reloads where there is a terminal, and where there was none."""
    (tmp_path / "app.py").write_text(APP)
    ours, theirs = pty.openpty()
    command = ["-m", "redis_stream_queue.cli.rsq_pool", "--workers", "1", "app:handler"]
    process = subprocess.Popen(
        [sys.executable, "-c", OWNS_ITS_TERMINAL, *command],
        cwd=tmp_path,
        env=plain_environment(pool_url),
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
    )
    os.close(theirs)
    try:
        _wait_shown(ours, b"ready after")
        process.send_signal(signal.SIGHUP)
        _wait_shown(ours, b"all workers have been replaced")
    finally:
        os.close(ours)
        try:
            assert process.wait(10) == 0
        finally:
            process.kill()


def _wait_shown(terminal: int, text: bytes) -> None:
    shown = b""
    while text not in shown:
        assert select.select([terminal], [], [], 15)[0], shown
        shown += os.read(terminal, 65_536)


def test_the_bar() -> None:
    assert bar(0, 0, 0) == f"handling [{'#' * 30}] 0 of 0"
    assert bar(0, 10, 5000) == f"handling [{'-' * 30}] 0 of 10"
    assert bar(5, 10, 65_000) == f"handling [{'#' * 15}{'-' * 15}] 5 of 10, 01:05 left"


def test_tables_are_by_rich_on_a_terminal_and_plain_in_a_pipe(
    pool_url: str, ledger: Ledger, tmp_path: Path
) -> None:
    """The same cells; what looks like markup of rich's is shown as it is."""
    [first] = ledger.push({})
    ledger.redis.xgroup_create("work", "crew", id="0")
    ledger.redis.xreadgroup("crew", "[bold]me[/bold]", {"work": ">"})
    command = ["redis_stream_queue.cli", "pending", "work", "--group", "crew"]
    env = plain_environment(pool_url)
    piped = subprocess.check_output([sys.executable, "-m", *command], env=env, text=True)
    fancy = shown(command, tmp_path, pool_url)

    for text in (piped, "\n".join(fancy)):
        assert re.search(rf"{first} .*\[bold\]me\[/bold\]", text)
    assert "───" in "".join(fancy)
    assert "───" not in piped
    ledger.redis.xadd("work_dlq", {"reason": "[red]", "delivery_count": "3", "last_error": "E: x"})
    for asked, cells in (
        ("stats work", r"crew +\[bold\]me\[/bold\] +1 "),
        ("dlq list work", r"\[red\] +3 "),
    ):
        table = "\n".join(shown(["redis_stream_queue.cli", *asked.split()], tmp_path, pool_url))
        assert "───" in table
        assert re.search(cells, table)
    as_json = subprocess.check_output([sys.executable, "-m", *command, "--json"], env=env)
    assert json.loads(as_json)["pending"][0]["consumer"] == "[bold]me[/bold]"
