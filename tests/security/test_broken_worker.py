"""A worker that goes mad harms itself alone: neither the master nor its mates."""

from __future__ import annotations

import json
import os
import signal
from typing import Any, get_origin, get_type_hints

import msgpack
import pytest

from redis_stream_queue.pool import protocol
from redis_stream_queue.pool.scoreboard import Scoreboard
from tests.support.waiting import wait_until

from .conftest import StartPool

# One message goes mad in the way it names, in one of two workers; "after" is any other.
APP = """
import mmap, os, subprocess, time
from redis_stream_queue import per_message, stream_handler
from redis_stream_queue.pool.scoreboard import (
    ALL_ROWS_WORDS, COUNTERS, ID_WORDS, MAX_ROWS, ROW_WORDS, TIMES_WORDS, Field,
)

def scoreboard():
    for fd in map(int, os.listdir("/proc/self/fd")):
        try:
            if "rsq-scoreboard" in os.readlink(f"/proc/self/fd/{fd}"):
                return fd
        except OSError:
            pass

def words():
    fd = scoreboard()
    return memoryview(mmap.mmap(fd, os.fstat(fd).st_size)).cast("Q")

def put(value, *fields):
    w = words()
    for row in range(ROW_WORDS, ALL_ROWS_WORDS, ROW_WORDS):
        for field in fields:
            w[row + field] = value

def nonsense(*fields):
    put(2**64 - 1, *fields)

@stream_handler("s", group="g", retry_delay_ms=10, max_deliveries=1)
@per_message
def handler(message):
    what = message.data
    if what == "shorter":
        os.ftruncate(scoreboard(), 0)
    elif what == "longer":
        os.ftruncate(scoreboard(), 10**7)
    elif what == "held":
        nonsense(Field.HELD)
        put(0, Field.RENEWED_AT)
        time.sleep(2.5)
    elif what == "ids":
        nonsense(*range(Field.CURRENT, Field.BURYING + ID_WORDS))
        time.sleep(1.5)
    elif what == "counters":
        nonsense(*COUNTERS, Field.ACKING_TOTAL, Field.BURYING_TOTAL, Field.BATCH, Field.OWN_MB)
        words()[ALL_ROWS_WORDS:] = memoryview(bytes([255]) * TIMES_WORDS * MAX_ROWS * 8).cast("Q")
        time.sleep(1.5)
    elif what == "times":
        nonsense(Field.BUSY_SINCE, Field.READ_AT, Field.RENEWED_AT, Field.BUSY_UNTIL)
        time.sleep(1.5)
    elif what in ("fifo", "directory", "socket"):
        if what == "fifo":
            os.mkfifo("fifo")
            fd = os.open("fifo", os.O_RDONLY | os.O_NONBLOCK)
        else:
            fd = os.open(".", os.O_RDONLY) if what == "directory" else os.pipe()[0]
        w = words()
        for number in range(ROW_WORDS + Field.DUMP_FD, ALL_ROWS_WORDS, ROW_WORDS):
            w[number] = fd if w[number] else 0
        time.sleep(60)
    elif what == "inherited":
        subprocess.run(["ls", "-l", "/proc/self/fd"], close_fds=False)
    print("did", what, flush=True)
"""


@pytest.mark.parametrize("what", ["shorter", "longer", "held", "ids", "counters", "times", "fifo"])
def test_the_master_and_the_other_worker_go_on(raw: Any, start_pool: StartPool, what: str) -> None:
    raw.xgroup_create("s", "g", "0", mkstream=True)
    pool = start_pool(APP, "--workers", "2", "--time-limit", "2.8").wait_ready()

    raw.xadd("s", {"data": json.dumps(what)})
    for number in range(20):
        raw.xadd("s", {"data": json.dumps(f"after {number}")})
    wait_until(lambda: pool.stdout.count("did after") == 20, 10, "the others are handled")
    wait_until(lambda: raw.xpending("s", "g")["pending"] == 0, 15, "the mad one has ended")
    raw.xadd("s", {"data": json.dumps("after all")})
    wait_until(lambda: "did after all" in pool.stdout, 10, "work goes on")
    pool.send(signal.SIGUSR1)
    pool.wait_log("status: ")
    assert "Exception in callback" not in pool.stderr
    assert pool.drain() == 0


def test_programs_that_handlers_start_inherit_nothing_of_ours(
    raw: Any, start_pool: StartPool
) -> None:
    """Also from a template that was started anew."""
    raw.xgroup_create("s", "g", "0", mkstream=True)
    pool = start_pool(APP, "--workers", "1").wait_ready()
    for expected in (1, 2):
        raw.xadd("s", {"data": json.dumps("inherited")})
        wait_until(lambda n=expected: pool.stdout.count("did inherited") == n, 10, "it is done")  # type: ignore[misc]
        if expected == 1:
            pool.send(signal.SIGHUP)
            pool.wait_log("all workers have been replaced")
    listed = [line.partition(" -> ")[2] for line in pool.stdout.splitlines() if "->" in line]
    assert len(listed) >= 6  # standard streams, twice
    ours = {os.readlink(f"/proc/self/fd/{fd}") for fd in range(1024) if _is_open(fd)}
    made = [target for target in listed if ":" in target and target not in ours]
    assert not made


def _is_open(fd: int) -> bool:
    return os.path.lexists(f"/proc/self/fd/{fd}")


def test_the_shared_rows_keep_their_size() -> None:
    scoreboard = Scoreboard()
    size = os.fstat(scoreboard.fd).st_size
    for wrong in (0, size - 1, size + 1):
        with pytest.raises(PermissionError):
            os.ftruncate(scoreboard.fd, wrong)
    assert not os.get_inheritable(scoreboard.fd)


@pytest.mark.parametrize("value", [None, "x", -1.5, {"a": 1}, [1], 2**63, b"\xff"])
def test_a_message_with_values_of_another_kind_is_none(value: object) -> None:
    for tag, kind in enumerate(protocol._TYPES):
        fields = kind._fields
        if not fields:
            continue
        message = protocol.decode(msgpack.packb([tag] + [value] * len(fields)))
        plain = [get_origin(hint) or hint for hint in get_type_hints(kind).values()]
        fits = all(hint in (Any, type(value)) for hint in plain)
        assert message is None or fits
