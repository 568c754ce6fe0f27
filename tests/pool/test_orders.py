"""A worker in this process, whose master is the test: orders that come while Redis is asked."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator
from typing import Any

import pytest

from redis_stream_queue import ConsumerConfig, StreamClient, StreamMessage, per_message
from redis_stream_queue.delivery.in_flight import InFlight
from redis_stream_queue.delivery.reader import Reader
from redis_stream_queue.handlers import Declaration
from redis_stream_queue.pool import pipe
from redis_stream_queue.pool.protocol import (
    AskForWork,
    Drain,
    Message,
    Pause,
    Ready,
    Resume,
    Start,
    Take,
)
from redis_stream_queue.pool.scoreboard import Scoreboard
from redis_stream_queue.pool.standard_streams import StandardStreams
from redis_stream_queue.pool.worker import loop
from redis_stream_queue.pool.worker.main_thread import MainThread
from tests.support.held import Held
from tests.support.waiting import wait_until_async

STREAM, GROUP, NAME = "orders_work", "crew", "crew:here:1"
LONG_MS = 60_000  # of a read, or a wait for orders, that nobody ends
SOON_S = 5.0


class Master:
    """Says things to one worker. heard: what that has said. ended: messages that it has handled."""

    def __init__(self, client: StreamClient, url: str) -> None:
        self.client = client
        self.scoreboard = Scoreboard()
        self.heard: list[Message] = []
        self.ended: list[StreamMessage] = []
        mine, theirs = pipe.pair()
        self._channel = pipe.Channel(mine, self.heard.append, lambda: None)
        self.say = self._channel.send

        @per_message
        async def handle(message: StreamMessage) -> None:
            self.ended.append(message)

        config = ConsumerConfig(group=GROUP, worker_name=NAME)
        self.main_thread, self._streams = MainThread(), StandardStreams()
        self.worker = loop.Worker(
            theirs,
            self.scoreboard,
            0,
            Start(url, "", STREAM, config, 10, None, None),
            handle,
            self.main_thread,
            self._streams,
            Declaration(),
            serializer=None,
            interrupt=lambda _: None,
            limit_decoding=lambda decode: decode,
        )
        self.orders = self.worker.orders

    async def until(self, fact: Any, what: str) -> None:
        await wait_until_async(fact, SOON_S, what)

    async def until_ended(self, *ids: str) -> None:
        await self.until(lambda: [m.id for m in self.ended] == list(ids), "it is handled")

    def has_heard(self, kind: type) -> bool:
        return any(isinstance(message, kind) for message in self.heard)

    async def push(self) -> str:
        return await self.client.push(STREAM, b"{}")

    def close(self) -> None:
        self._channel.close()
        for copy in self._streams._kept:
            os.close(copy)


@pytest.fixture
async def master(pool_url: str, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Master]:
    monkeypatch.setattr(loop, "BLOCK_MS", LONG_MS)
    client = StreamClient.from_url(pool_url)
    await client.create_group(STREAM, GROUP)
    made = Master(client, pool_url)
    running = asyncio.create_task(made.worker.run())
    with contextlib.closing(made):
        await made.until(lambda: made.has_heard(Ready), "it reads")
        yield made
        made.say(Drain())
        await asyncio.wait_for(running, SOON_S)
        await asyncio.to_thread(made.main_thread.close)  # not in a loop that runs
    await client.close()


async def test_a_resume_that_comes_while_it_settles_counts_at_once(
    master: Master, monkeypatch: pytest.MonkeyPatch
) -> None:
    settled = Held(monkeypatch, InFlight, "settle", lambda *_: master.orders.paused)
    master.say(Pause())
    await settled.came.wait()
    master.say(Resume())
    await master.until(lambda: not master.orders.paused, "it is heard")
    settled.go.set()
    await master.until_ended(await master.push())


async def test_an_offer_that_comes_just_before_a_read_is_taken_at_once(
    master: Master, monkeypatch: pytest.MonkeyPatch
) -> None:
    looked = Held(monkeypatch, InFlight, "look_before_reading")
    await master.until_ended(first := await master.push())
    await looked.came.wait()
    due = await master.push()
    await master.client.read(STREAM, GROUP, "gone", 1, 0)
    master.say(Take([[due, "gone", 1, 0, 2]]))
    await master.until(lambda: master.orders.takes, "it is heard")
    looked.go.set()
    await master.until_ended(first, due)


async def test_no_answer_of_the_master_is_waited_for_where_an_offer_has_come(
    master: Master, monkeypatch: pytest.MonkeyPatch
) -> None:
    """To ask would say that it has not come: the master would offer more, and forget this one."""
    flushed = Held(
        monkeypatch, InFlight, "flush_acks", lambda *_: master.scoreboard.offers_waiting > 0
    )
    master.scoreboard.offers_waiting = 1
    await master.until_ended(first := await master.push())
    await flushed.came.wait()
    due = await master.push()
    await master.client.read(STREAM, GROUP, "gone", 1, 0)
    master.scoreboard.offers_waiting = 0
    master.say(Take([[due, "gone", 1, 0, 2]]))
    await master.until(lambda: master.orders.takes, "it is heard")
    flushed.go.set()
    await master.until_ended(first, due)
    assert not master.has_heard(AskForWork)


async def test_a_pause_in_place_of_an_offer_keeps_it_from_reading(
    master: Master, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What it would read it would only give back."""
    read, while_paused = Reader.read, []

    def noted(*arguments: Any) -> Any:
        while_paused.append(master.orders.paused)
        return read(*arguments)

    monkeypatch.setattr(Reader, "read", noted)
    master.scoreboard.offers_waiting = 1
    await master.until_ended(first := await master.push())
    await master.until(lambda: master.has_heard(AskForWork), "it asks for offers")
    settled = Held(monkeypatch, InFlight, "settle", lambda *_: master.orders.paused)
    master.scoreboard.offers_waiting = 0
    master.say(Pause())
    await settled.came.wait()
    settled.go.set()
    second = await master.push()
    master.say(Resume())
    await master.until_ended(first, second)
    assert not any(while_paused)
