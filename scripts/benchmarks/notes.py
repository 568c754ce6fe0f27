"""What handlers note outside Redis: two numbers a note, one file a process.

A note is one short write, so that it is there at once and whole, whatever becomes of the process.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from typing import NamedTuple

NOTES_ENV = "BENCH_NOTES"  # directory; without it nothing is noted
_pack = struct.Struct("=QQ")
_files: dict[int, int] = {}


class Note(NamedTuple):
    """first, second: what the handler noted, most often times of the monotonic clock in ns."""

    pid: int
    first: int
    second: int


def note(first: int, second: int) -> None:
    """Write a note (about a microsecond)."""
    pid = os.getpid()
    fd = _files.get(pid)
    if fd is None:
        path = os.path.join(os.environ[NOTES_ENV], str(pid))
        fd = _files[pid] = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    os.write(fd, _pack.pack(first, second))


def read_notes(directory: str) -> list[Note]:
    """All notes, those of one process in their order."""
    return list(_all_notes(directory))


def _all_notes(directory: str) -> Iterator[Note]:
    for entry in os.scandir(directory):
        with open(entry.path, "rb") as file:
            content = file.read()
        whole = len(content) - len(content) % _pack.size
        for first, second in _pack.iter_unpack(content[:whole]):
            yield Note(int(entry.name), first, second)


def count_notes(directory: str) -> int:
    """How many there are, without reading them."""
    return sum(entry.stat().st_size for entry in os.scandir(directory)) // _pack.size
