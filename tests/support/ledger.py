"""An app with modes for pool tests, and the ledger in Redis that says what it did."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import redis

from redis_stream_queue import StreamClient, StreamProducer

from .waiting import wait_until

STREAM = "work"
GROUP = "crew"
DLQ = "work_dlq"

# What a message says happens: {"do": "sleep", "s": 1.5}. Each start and each end is noted.
APP = """
import asyncio, ctypes, os, signal, sys, time
import redis
from redis_stream_queue import Reject, Retry, per_message, stream_handler

ledger = None

def note(kind, message):
    global ledger
    if ledger is None:
        ledger = redis.Redis.from_url(os.environ["REDIS_URL"])
    ledger.rpush(kind, f"{message.id} {os.getpid()} {time.time()} {message.delivery_count}")

def act(message):
    note("started", message)
    do = message.data.get("do", "ok")
    if do == "sleep":
        time.sleep(message.data["s"])
    elif do == "sleep_first" and message.delivery_count == 1:
        time.sleep(message.data["s"])
    elif do == "hold_gil":
        ctypes.PyDLL(None).usleep(int(message.data["s"] * 1e6))
    elif do == "raise":
        raise ValueError("this one always fails")
    elif do == "die":
        os.kill(os.getpid(), signal.SIGKILL)
    elif do == "segfault":
        ctypes.string_at(0)
    elif do == "exit":
        os._exit(7)
    elif do == "reject":
        raise Reject("not for us")
    note("ended", message)

@stream_handler("work", group="crew")
@per_message
def handler(message):
    act(message)

@stream_handler("work", group="crew")
def batch(messages):
    for message in messages:
        act(message)
    return [m.id for m in messages]

@stream_handler("work", group="crew")
@per_message
async def async_handler(message):
    act(message)

@stream_handler("work", group="crew")
@per_message(concurrency=4)
async def lanes(message):
    note("started", message)
    if message.data.get("do") == "raise" and message.delivery_count == 1:
        raise ValueError("the first time")
    await asyncio.sleep(message.data.get("s", 0))
    if message.data.get("do") == "reject":
        raise Reject("not for us")
    note("ended", message)
"""


@dataclass(frozen=True)
class Note:
    """One line of the ledger: when (seconds since the epoch) and where a message was run."""

    id: str
    pid: int
    at_s: float
    delivery_count: int


class Ledger:
    """What the app did, read from the server at ``url``; and a producer for its stream."""

    def __init__(self, url: str) -> None:
        self.redis: Any = redis.Redis.from_url(url)
        self._producer = StreamProducer(StreamClient.from_url(url), STREAM)

    def push(self, *messages: dict[str, Any]) -> list[str]:
        """Add messages to the app's stream; returns their ids."""
        return self._producer.push_many_sync(list(messages))

    def started(self) -> list[Note]:
        return self._notes("started")

    def ended(self) -> list[Note]:
        return self._notes("ended")

    def _notes(self, kind: str) -> list[Note]:
        lines = [line.decode().split() for line in self.redis.lrange(kind, 0, -1)]
        return [Note(i, int(pid), float(at), int(count)) for i, pid, at, count in lines]

    def executions(self) -> Counter[str]:
        """How often each message was started."""
        return Counter(note.id for note in self.started())

    def wait_started(self, count: int, timeout_s: float = 15) -> list[Note]:
        wait_until(
            lambda: self.redis.llen("started") >= count, timeout_s, f"{count} messages started"
        )
        return self.started()

    def wait_ended(self, count: int, timeout_s: float = 15) -> list[Note]:
        wait_until(
            lambda: self.redis.llen("ended") >= count, timeout_s, f"{count} messages handled"
        )
        return self.ended()

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
