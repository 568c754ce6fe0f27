"""What the model knows of one entry of the stream, and of each start of a handler with it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass(eq=False)
class Execution:
    """One start of a handler with one entry."""

    holder: Any
    entry: Entry
    count: int
    outcome: str = "running"


@dataclass(eq=False)
class Entry:
    """One stream entry. A requeued letter is a new one with the same uid, and so is what has waited
    long for its next try: that one keeps its past.

    charged: executions that have to be counted; slack: deliveries that may have been counted
    although no handler saw them.
    """

    id: str
    uid: int
    bad: bool
    charged: int = 0
    slack: int = 0
    finished: bool = False
    forgiven: bool = False  # its group was destroyed: only its place is looked at
    key: str = ""  # it is unique
    executions: list[Execution] = field(default_factory=list)

    def running(self) -> list[Execution]:
        return [e for e in self.executions if e.outcome == "running"]
