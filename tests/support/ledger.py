"""What the app of the pools' tests (app.py) did, by its notes, and what Redis knows of it."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import redis

from redis_stream_queue import StreamClient, StreamProducer

from .waiting import wait_until

STREAM = "work"
GROUP = "crew"
DLQ = "work_dlq"

SOURCE = Path(__file__).with_name("app.py").read_text()
NOTES_ENV = "RSQ_TEST_NOTES"  # the file that the app writes to; else ``notes`` where the pool runs
HOST_ENV = "RSQ_TEST_HOST"  # what the app calls the host that it runs on


@dataclass(frozen=True)
class Note:
    """What the app noted: which message, in which process of which host, when (seconds since the
    epoch), at which delivery, with which payload. kind: as app.py says, ``started`` first."""

    kind: str
    id: str
    pid: int
    at_s: float
    delivery_count: int
    host: str
    data: dict[str, Any]


class Notes:
    """The notes in a file, in their order; each is read once."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._read_bytes = 0
        self._notes: list[Note] = []

    def all(self) -> list[Note]:
        if self._file.exists():
            with self._file.open("rb") as file:
                file.seek(self._read_bytes)
                new, newline, _ = file.read().rpartition(b"\n")
            self._read_bytes += len(new) + len(newline)
            self._notes += map(self._note, new.splitlines())
        return self._notes

    def of(self, kind: str) -> list[Note]:
        return [note for note in self.all() if note.kind == kind]

    @staticmethod
    def _note(line: bytes) -> Note:
        kind, entry_id, pid, at, count, host, data = line.decode().split(" ", 6)
        return Note(kind, entry_id, int(pid), float(at), int(count), host, json.loads(data))


class Ledger:
    """The notes in ``file``, the server at ``url``, and a producer for the app's stream."""

    def __init__(self, url: str, file: Path) -> None:
        self.redis: Any = redis.Redis.from_url(url)
        self.notes = Notes(file)
        self._producer = StreamProducer(StreamClient.from_url(url), STREAM)

    def push(self, *messages: dict[str, Any]) -> list[str]:
        """Add messages to the app's stream; returns their ids."""
        return self._producer.push_many_sync(list(messages))

    def started(self) -> list[Note]:
        return self.notes.of("started")

    def ended(self) -> list[Note]:
        return self.notes.of("ended")

    def executions(self) -> Counter[str]:
        """How often each message was started."""
        return Counter(note.id for note in self.started())

    def wait_started(self, count: int, timeout_s: float = 15) -> list[Note]:
        return self._wait_notes("started", count, timeout_s)

    def wait_ended(self, count: int, timeout_s: float = 15) -> list[Note]:
        return self._wait_notes("ended", count, timeout_s)

    def _wait_notes(self, kind: str, count: int, timeout_s: float) -> list[Note]:
        what = f"{count} messages {kind}"
        wait_until(lambda: len(self.notes.of(kind)) >= count, timeout_s, what)
        return self.notes.of(kind)

    def pending(self) -> int:
        """Entries in the pending entries list."""
        return int(self.redis.xpending(STREAM, GROUP)["pending"])

    def wait_nothing_pending(self, timeout_s: float = 15) -> None:
        wait_until(lambda: self.pending() == 0, timeout_s, "nothing is pending")

    def is_settled(self, ids: list[str]) -> bool:
        """Is everything read, and nothing left to do?"""
        groups = self.redis.xinfo_groups(STREAM)
        return bool(groups) and (
            groups[0]["last-delivered-id"].decode() == ids[-1] and groups[0]["pending"] == 0
        )

    def wait_settled(self, ids: list[str], timeout_s: float = 15) -> None:
        """Wait until all of these are handled or dead."""
        self.wait(lambda: self.is_settled(ids), "all is handled or dead", timeout_s)

    def consumers(self) -> list[str]:
        """Names in the group, parking names included."""
        return [c["name"].decode() for c in self.redis.xinfo_consumers(STREAM, GROUP)]

    def letters(self) -> list[dict[str, str]]:
        """The dead letters' fields."""
        return [
            {k.decode(): v.decode() for k, v in fields.items()}
            for _, fields in self.redis.xrange(DLQ)
        ]

    def wait(self, fact: Callable[[], bool], what: str, timeout_s: float = 15) -> None:
        wait_until(fact, timeout_s, what)

    def close(self) -> None:
        self.redis.close()
