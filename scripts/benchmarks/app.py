"""The handlers that pools and consumers run here; their memory is a worker's without an app."""

from __future__ import annotations

import asyncio
import time
from typing import Any

from redis_stream_queue import per_message

from .busywork import WORKS
from .notes import note

HELD_S = 60.0
SHORT_S = 0.005


def batch(messages: list[Any]) -> list[str]:
    """Nothing, a batch at a time."""
    return [message.id for message in messages]


async def batch_async(messages: list[Any]) -> list[str]:
    return [message.id for message in messages]


@per_message
def each(message: Any) -> None:
    """Nothing, one by one."""


@per_message
async def each_async(message: Any) -> None:
    pass


@per_message
def noted(message: Any) -> None:
    """Nothing, but note that it was done."""
    now = time.monotonic_ns()
    note(now, now)


@per_message
def stamp(message: Any) -> None:
    """Note when the message was pushed and when it got here."""
    note(message.data["at"], time.monotonic_ns())


@per_message
async def stamp_async(message: Any) -> None:
    note(message.data["at"], time.monotonic_ns())


async def stamp_batch(messages: list[Any]) -> list[str]:
    for message in messages:
        note(message.data["at"], time.monotonic_ns())
    return [message.id for message in messages]


@per_message
def work(message: Any) -> None:
    """Do so much of that work; note begin and end."""
    begin = time.monotonic_ns()
    WORKS[message.data["do"]](message.data["n"])
    note(begin, time.monotonic_ns())


@per_message
def hold(message: Any) -> None:
    """Hang at the first delivery: whoever runs it is to be killed."""
    note(time.monotonic_ns(), message.delivery_count)
    if message.delivery_count == 1:
        time.sleep(HELD_S)


@per_message
def short(message: Any) -> None:
    """Note the start, and take 5 ms."""
    note(time.monotonic_ns(), 0)
    time.sleep(SHORT_S)


@per_message(concurrency=4)
async def short_async(message: Any) -> None:
    note(time.monotonic_ns(), 0)
    await asyncio.sleep(SHORT_S)


@per_message
def held(message: Any) -> None:
    """Hang until it is cancelled; note both."""
    note(time.monotonic_ns(), 0)
    try:
        time.sleep(HELD_S)
    finally:
        note(time.monotonic_ns(), 1)


@per_message(concurrency=4)
async def held_async(message: Any) -> None:
    note(time.monotonic_ns(), 0)
    try:
        await asyncio.sleep(HELD_S)
    finally:
        note(time.monotonic_ns(), 1)
