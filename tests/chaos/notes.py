"""What the app noted, as one record per execution."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

KILLED_ITSELF = "killed its process"
ENDS = {"E": "ended", "R": "raised", "J": "rejected", "K": KILLED_ITSELF}


@dataclass
class Execution:
    """One run of one message: by which pool (host and life, as in ``A3``) and process, and when.

    end_s: None if it never came to its end; how: "" then. Times are seconds since the epoch.
    """

    n: int
    id: str
    pool: str
    pid: int
    delivery_count: int
    do: str
    begin_s: float
    end_s: float | None = None
    how: str = ""

    @property
    def host(self) -> str:
        return self.pool[0]

    def lines(self) -> list[tuple[float, str]]:
        """What happened when, in words."""
        who = f"pool {self.pool} pid {self.pid}"
        begun = f"STARTED {self.do} delivery {self.delivery_count} {who}"
        lines = [(self.begin_s, begun)]
        if self.end_s is not None:
            lines.append((self.end_s, f"{self.how.upper()} {who}"))
        return lines


def read_notes(directory: Path) -> list[Execution]:
    """All executions, in the order of their start."""
    executions: list[Execution] = []
    for path in directory.glob("*.notes"):
        pool, _, pid = path.stem.partition("-")
        executions += _of_one_process(path.read_text().splitlines(), pool, int(pid))
    return sorted(executions, key=lambda e: e.begin_s)


def _of_one_process(lines: list[str], pool: str, pid: int) -> list[Execution]:
    done: list[Execution] = []
    running: dict[str, Execution] = {}
    for line in lines:
        what, n, entry_id, count, at, do = line.split()
        if what == "S":
            execution = Execution(int(n), entry_id, pool, pid, int(count), do, float(at))
            running[entry_id] = execution
            done.append(execution)
        else:
            execution = running.pop(entry_id)
            execution.end_s, execution.how = float(at), ENDS[what]
    return done
