"""What the app noted, as one record for each execution."""

from __future__ import annotations

from dataclasses import dataclass

from tests.support.ledger import Note

KILLED_ITSELF = "killed its process"
ENDS = {"ended": "ended", "raised": "raised", "rejected": "rejected", "killed": KILLED_ITSELF}


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


def executions(notes: list[Note]) -> list[Execution]:
    """All executions, in the order of their start."""
    found: list[Execution] = []
    running: dict[tuple[str, int, str], Execution] = {}
    for note in notes:
        key = (note.host, note.pid, note.id)
        if note.kind == "started":
            n, do = note.data["n"], note.data["do"]
            running[key] = Execution(
                n, note.id, note.host, note.pid, note.delivery_count, do, note.at_s
            )
            found.append(running[key])
        else:
            execution = running.pop(key)
            execution.end_s, execution.how = note.at_s, ENDS[note.kind]
    return sorted(found, key=lambda execution: execution.begin_s)
