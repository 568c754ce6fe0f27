"""The app of the pools' tests: what a message says happens, and each start and end is noted.

A test copies the text of this file to where its pool runs (``SOURCE`` in ledger.py), with more
behind it where it wants more. The notes are in a file, so that no fault of Redis touches them; each
is one short write, so a kill leaves whole lines.

``{"do": "segfault", "s": 0.5}``: run for half a second, then do that. What may be done:

- raise, reject: at each delivery; raise_first, retry, retry_long: at the first one only
- die, die_first, segfault, exit: end this process; kill_all: end the whole process group
- sleep_first: run so long at the first delivery only; hold_gil: run so long with the GIL
- hold: never end on the host "leaving" (environment: RSQ_TEST_HOST)
- mb (a number): keep so much memory; stubborn: go on when the soft time limit is raised
"""

import asyncio
import ctypes
import json
import os
import signal
import time

from redis_stream_queue import (
    Reject,
    Retry,
    SoftTimeLimitExceeded,
    StreamMessage,
    per_message,
    stream_handler,
)

NOTES = os.path.abspath(os.environ.get("RSQ_TEST_NOTES", "notes"))
HOST = os.environ.get("RSQ_TEST_HOST", "here")

hoard: list[bytearray] = []


def note(kind: str, message: StreamMessage) -> None:
    line = f"{kind} {message.id} {os.getpid()} {time.time():.6f} {message.delivery_count} {HOST} "
    file = os.open(NOTES, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    os.write(file, f"{line}{json.dumps(message.data)}\n".encode())
    os.close(file)


def length_s(message: StreamMessage) -> float:
    """How long it runs."""
    do = message.data.get("do")
    if do == "hold":
        return 600.0 if HOST == "leaving" else 0.0
    if do == "hold_gil" or (do == "sleep_first" and message.delivery_count > 1):
        return 0.0
    return float(message.data.get("s", 0))


def finish(message: StreamMessage) -> None:
    """Do what it says, after it has run."""
    do = message.data.get("do")
    first = message.delivery_count == 1
    if do == "hold_gil":
        ctypes.PyDLL(None).usleep(int(message.data["s"] * 1e6))
    if do in ("die", "segfault", "exit", "kill_all") or (do == "die_first" and first):
        note("killed", message)
    if do == "die" or (do == "die_first" and first):
        os.kill(os.getpid(), signal.SIGKILL)
    if do == "segfault":
        ctypes.string_at(0)
    if do == "exit":
        os._exit(7)
    if do == "kill_all":
        os.killpg(0, signal.SIGKILL)
    if do == "raise" or (do == "raise_first" and first):
        note("raised", message)
        raise ValueError("on purpose")
    if do == "reject":
        note("rejected", message)
        raise Reject("not for us")
    if do == "retry" and first:
        raise Retry(delay_ms=50)
    if do == "retry_long" and first:
        note("raised", message)
        raise Retry(delay_ms=800)
    note("ended", message)


def soft_limit(message: StreamMessage) -> None:
    note("soft", message)
    if message.data.get("stubborn"):
        time.sleep(60)


def act(message: StreamMessage) -> None:
    note("started", message)
    if "mb" in message.data:
        hoard.append(bytearray(os.urandom(1024)) * (1024 * message.data["mb"]))
    try:
        time.sleep(length_s(message))
    except SoftTimeLimitExceeded:
        soft_limit(message)
        raise
    finish(message)


async def act_async(message: StreamMessage) -> None:
    note("started", message)
    try:
        await asyncio.sleep(length_s(message))
    except SoftTimeLimitExceeded:
        soft_limit(message)
        raise
    finish(message)


crew = stream_handler("work", group="crew")


@crew
@per_message
def handler(message: StreamMessage) -> None:
    act(message)


@crew
def batch(messages: list[StreamMessage]) -> list[str]:
    for message in messages:
        act(message)
    return [message.id for message in messages]


@crew
@per_message
async def async_handler(message: StreamMessage) -> None:
    await act_async(message)


@crew
@per_message(concurrency=4)
async def lanes(message: StreamMessage) -> None:
    await act_async(message)
