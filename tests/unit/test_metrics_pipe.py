"""The metrics pipe: real pipes, without a pool."""

from __future__ import annotations

import os
import struct
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection

import pytest

from redis_stream_queue.pool.metrics_pipe import MOST_AT_ONCE, Reporter, Reports, pipe
from redis_stream_queue.pool.totals import MAX_SNAPSHOT, NAMES, Totals

NOTHING = dict.fromkeys(NAMES, 0)


class Life:
    """Both ends of one life's pipe; what it has counted is ``totals``."""

    def __init__(self) -> None:
        reader, self.writer = pipe()
        self.totals: Totals = dict(NOTHING)
        self.reporter = Reporter(self.writer, lambda: dict(self.totals))
        self.reports = Reports(reader, "slot=0")

    def write(self, raw: bytes) -> None:
        os.write(self.writer.fileno(), raw)


@pytest.fixture
def life() -> Iterator[Life]:
    made = Life()
    yield made
    made.writer.close()
    made.reports.close()


def test_it_is_multiprocessings_pipe_one_way(life: Life) -> None:
    reader, writer = pipe()
    assert isinstance(reader, Connection)
    assert (reader.readable, reader.writable) == (True, False)
    assert (writer.readable, writer.writable) == (False, True)
    reader.close()
    writer.close()


def test_totals_arrive_and_nothing_is_sent_while_nothing_moves(life: Life) -> None:
    life.reporter.report()
    assert life.reports.read() == NOTHING
    life.totals["acked"] = 7
    for _ in range(3):
        life.reporter.report()
    assert life.reports.read()["acked"] == 7
    assert life.reports.snapshots == 1


def test_a_pipe_that_nobody_reads_stops_nobody(life: Life) -> None:
    """It fills up, no write waits, and the newest comes once it has been read."""
    for acked in range(1, 20_001):
        life.totals["acked"] = acked
        life.reporter.report()
    seen, before = 0, -1
    while life.reports.snapshots > before:
        before = life.reports.snapshots
        life.reports.read()
        assert life.reports.snapshots <= before + MOST_AT_ONCE
        assert life.reports.totals["acked"] >= seen
        seen = life.reports.totals["acked"]
    assert 0 < seen < 20_000
    life.reporter.report()
    assert life.reports.read()["acked"] == 20_000


def test_the_last_one_is_read_after_the_worker_has_gone(life: Life) -> None:
    life.totals["acked"] = 3
    life.reporter.close()
    assert life.reports.read()["acked"] == 3
    assert life.reports.read()["acked"] == 3  # end of file is no fault


def test_a_master_that_is_gone_stops_nobody(life: Life) -> None:
    life.reports.close()
    life.totals["acked"] = 3
    life.reporter.report()
    life.reporter.close()


NONSENSE: dict[str, Callable[[], bytes]] = {
    "half a header": lambda: b"\0\0",
    "a header without a body": lambda: struct.pack("!i", 100),
    "half a body": lambda: struct.pack("!i", 100) + b"x" * 50,
    "too long": lambda: struct.pack("!i", MAX_SNAPSHOT + 1) + b"x" * (MAX_SNAPSHOT + 1),
    "two gigabytes": lambda: struct.pack("!i", 2**31 - 1),
    "more than that": lambda: struct.pack("!iQ", -1, 2**63),
    "a negative length": lambda: struct.pack("!i", -7),
    "an empty frame": lambda: struct.pack("!i", 0),
    "a frame of garbage": lambda: struct.pack("!i", 9) + b"\xc1garbage\xff",
    "text": lambda: b"Segmentation fault\n" * 100,
    "a pipe full of zeros": lambda: bytes(60_000),
    "a pipe full of frames": lambda: (struct.pack("!i", 1) + b"\xc0") * 12_000,
}


@pytest.mark.parametrize("kind", NONSENSE)
def test_nonsense_is_ignored_and_never_waited_for(life: Life, kind: str) -> None:
    """What was known stays known, and reading it ends whatever is written."""
    life.totals["acked"] = 5
    life.reporter.report()
    life.write(NONSENSE[kind]())
    for _ in range(3):
        assert life.reports.read() == {**NOTHING, "acked": 5}


def test_it_is_said_once(life: Life, caplog: pytest.LogCaptureFixture) -> None:
    life.write(b"nonsense" * 10)
    for _ in range(5):
        life.reports.read()
    assert len(caplog.records) == 1
    assert "slot=0" in caplog.text
