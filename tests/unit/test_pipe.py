"""The pipe between master and worker: whole messages, and what does not fit."""

from __future__ import annotations

import asyncio

import pytest

from redis_stream_queue.pool.pipe import MAX_MESSAGE, Channel, pair
from redis_stream_queue.pool.protocol import Leaving, Message, Ready


async def test_a_message_that_does_not_fit_takes_no_other_with_it(
    caplog: pytest.LogCaptureFixture,
) -> None:
    ours, theirs = pair()
    got: asyncio.Queue[Message] = asyncio.Queue()
    sender = Channel(ours, lambda _: None, lambda: None)
    receiver = Channel(theirs, got.put_nowait, lambda: None)
    for message in (Leaving(["first"]), Leaving(["x" * MAX_MESSAGE]), Ready()):
        sender.send(message)
    async with asyncio.timeout(5):
        assert [await got.get(), await got.get()] == [Leaving(["first"]), Ready()]
    assert "does not fit the pipe" in caplog.text
    sender.close()
    receiver.close()
