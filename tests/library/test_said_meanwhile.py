"""What is said while an answer of Redis is on its way: stop, pause, resume, cancel."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest

from redis_stream_queue import ConsumerGroup
from redis_stream_queue.connection.link import Link
from redis_stream_queue.connection.scripts import TAKE
from redis_stream_queue.delivery.reader import Reader
from redis_stream_queue.later.mover import Mover
from tests.library.kit import GROUP, WAIT_S, Bench, RecordingHandler, running
from tests.support.held import Held

AT_ONCE_S = 0.7  # a read or a pause that nobody interrupts takes about a second


async def _stopped(consumer: Any, task: asyncio.Task[None], held: Held) -> None:
    consumer.stop()
    held.go.set()
    await asyncio.wait_for(task, WAIT_S)


async def test_what_arrives_after_stop_is_given_back(
    server_bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A whole batch, however long it would take; its delivery does not count."""
    bench, handler = server_bench, RecordingHandler()
    ids = await bench.push(1, 2, 3)
    answer = Held(monkeypatch, Reader, "read", lambda _, entries: bool(entries))
    consumer = bench.consumer(handler, block_ms=5000)
    task = bench.start(consumer)
    await answer.came.wait()
    await _stopped(consumer, task, answer)

    assert handler.messages == []
    assert {count for _, count in (await bench.pending()).values()} == {0}
    assert list(await bench.pending()) == ids


@pytest.mark.parametrize("mid_pause", [False, True])
async def test_stop_before_the_first_read_reads_nothing_and_is_quick(
    server_bench: Bench, monkeypatch: pytest.MonkeyPatch, mid_pause: bool
) -> None:
    """There is no read to interrupt yet, nor does anybody wait for the end of the pause yet."""
    bench, handler = server_bench, RecordingHandler()
    await bench.push(1)
    answer = Held(
        monkeypatch, *((Mover, "load_pauses") if mid_pause else (ConsumerGroup, "ensure"))
    )
    if mid_pause:
        await bench.client.pause(bench.stream)
    consumer = bench.consumer(handler, block_ms=60_000)
    task = bench.start(consumer)
    await answer.came.wait()
    began_s = time.monotonic()
    await _stopped(consumer, task, answer)

    assert time.monotonic() - began_s < AT_ONCE_S
    for group in await bench.client.group_info(bench.stream):
        assert group["last-delivered-id"] == "0-0"


async def test_a_pause_holds_for_a_message_that_is_just_taken_over(
    server_bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is given back, and handled when the pause is over."""
    bench, handler = server_bench, RecordingHandler()
    [entry_id] = await bench.push(1)
    await bench.deliver("gone")
    await bench.set_pending(entry_id, "gone", 60_000, 1)
    taken = Held(
        monkeypatch, Link, "script", lambda arguments, reply: arguments[1] is TAKE and reply[0]
    )
    consumer = bench.consumer(handler, block_ms=50)
    async with running(bench, consumer):
        await asyncio.wait_for(taken.came.wait(), WAIT_S)
        await bench.client.pause(bench.stream, GROUP)
        await bench.until(lambda: consumer._paused, "the pause is heard of")
        taken.go.set()

        async def given_back() -> bool:
            pending = await bench.pending()
            return ":retry:" in pending[entry_id][0]

        await bench.until(given_back, "it is given back")
        assert handler.messages == []
        assert (await bench.pending())[entry_id][1] == 1  # as before
        await bench.client.resume(bench.stream, GROUP)
        await bench.until(bench.settled, "it is handled")
    assert handler.counts(entry_id) == [2]


def _listens(consumer: Any) -> bool:
    attendance = consumer._attendance
    return attendance is not None and bool(attendance._mine.mover._bell._last)


async def test_what_is_cancelled_while_it_arrives_does_not_start(
    server_bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The bell that tells of it may be heard before the answer to the read is."""
    bench, handler = server_bench, RecordingHandler()
    told: list[str] = []
    consumer = bench.consumer(handler, block_ms=5000)
    session_cancel = consumer._session.cancel

    def cancel(entry_id: str) -> None:
        session_cancel(entry_id)
        told.append(entry_id)

    monkeypatch.setattr(consumer._session, "cancel", cancel)
    answer = Held(monkeypatch, Reader, "read", lambda _, entries: bool(entries))
    async with running(bench, consumer):
        await bench.until(lambda: _listens(consumer), "it listens")
        gone, stays = await bench.push("gone", "stays")
        await asyncio.wait_for(answer.came.wait(), WAIT_S)
        assert await bench.client.cancel(bench.stream, gone) == "running"
        await bench.until(lambda: told, "it is heard of")
        answer.go.set()
        await bench.until(bench.settled, "the rest is handled")
    assert [message.id for message in handler.messages] == [stays]
