"""What every group of figures gets: sizes, rounds, a place for files, and somebody to tell."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path


@dataclass
class Bench:
    """One run.

    rounds: how often each figure is measured, ours and what it is compared with in turn.
    quick: small sizes, for trying out.
    """

    directory: Path
    rounds: int
    quick: bool
    group: str = ""
    _calibrated: dict[str, float] = field(default_factory=dict)

    def size(self, full: int, quick: int) -> int:
        return quick if self.quick else full

    def each_round(self) -> Iterator[int]:
        for number in range(1, self.rounds + 1):
            self.say(f"round {number} of {self.rounds}")
            yield number

    def say(self, text: str) -> None:
        """Progress, on standard error."""
        print(f"{self.group}: {text}", file=sys.stderr, flush=True)

    def new_directory(self) -> Path:
        return Path(tempfile.mkdtemp(dir=self.directory))
