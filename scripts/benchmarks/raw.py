"""The raw loop that ours is measured against: ``python -m scripts.benchmarks.raw KIND URL``.

One redis-py connection with hiredis; XACK of the last batch and XREADGROUP of the next in one
round trip; no reply callbacks; JSON decoded. No recovery, no leases, no errors: the least that a
consumer has to do.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from typing import Any

import redis

from .busywork import WORKS
from .names import COUNT, GROUP, KEY
from .notes import note

BLOCK_MS = 800
HELD_S = 60.0


def main(kind: str, url: str) -> None:
    each = KINDS[kind]
    parent = os.getppid()
    connection = connect(url)
    name = f"raw-{os.getpid()}"
    head: tuple[Any, ...] = ("XREADGROUP", "GROUP", GROUP, name, "COUNT", COUNT)
    read = (*head, "BLOCK", BLOCK_MS, "STREAMS", KEY, ">")
    done: list[bytes] = []
    decode = json.JSONDecoder().decode
    while os.getppid() == parent:
        commands = [("XACK", KEY, GROUP, *done), read] if done else [read]
        connection.send_packed_command(connection.pack_commands(commands))
        for _ in commands:
            reply = connection.read_response(disable_decoding=True)
        done = []
        if reply:
            for entry_id, fields in reply[0][1]:
                data = decode(fields[1].decode())
                if each is not None:
                    each(data)
                done.append(entry_id)


def connect(url: str) -> Any:
    """A connection without a client around it."""
    connection = redis.Redis.from_url(url, protocol=2, socket_timeout=None)
    made = connection.connection_pool.make_connection()
    made.connect()
    return made


def _noted(data: Any) -> None:
    now = time.monotonic_ns()
    note(now, now)


def _stamp(data: Any) -> None:
    note(data["at"], time.monotonic_ns())


def _work(data: Any) -> None:
    begin = time.monotonic_ns()
    WORKS[data["do"]](data["n"])
    note(begin, time.monotonic_ns())


def _hold(data: Any) -> None:
    note(time.monotonic_ns(), 1)
    time.sleep(HELD_S)


KINDS: dict[str, Callable[[Any], None] | None] = {
    "nothing": None,
    "noted": _noted,
    "stamp": _stamp,
    "work": _work,
    "hold": _hold,
}


if __name__ == "__main__":
    main(*sys.argv[1:])
