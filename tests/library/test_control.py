"""Pause, resume, cancel and find: a hand on what waits and runs."""

from __future__ import annotations

import asyncio
import random
from typing import Any

import pytest

from redis_stream_queue import ConfigError, StreamMessage, StreamProducer, per_message
from redis_stream_queue.later.control import paused
from redis_stream_queue.later.keys import companions
from redis_stream_queue.later.mover import Listener, Mover
from tests.library.kit import GROUP, Bench, RecordingHandler, running
from tests.support.waiting import wait_until_async

HOUR_MS = 3_600_000


# -- pause -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("group", [None, GROUP])
async def test_paused_nothing_starts_and_resumed_nothing_is_lost(
    real_bench: Bench, group: str | None
) -> None:
    """While it runs, at its start and in run_once; another group goes on if it is not meant."""
    client, stream = real_bench.client, real_bench.stream
    started: list[str] = []

    @per_message
    async def handle(message: StreamMessage) -> None:
        started.append(message.id)
        await asyncio.sleep(0.005)

    other = RecordingHandler()
    consumer = real_bench.consumer(handle, block_ms=2000, batch_size=50)
    async with running(real_bench, consumer, real_bench.consumer(other, group="other")):
        ids = await real_bench.push(*range(100))
        await real_bench.until(lambda: len(started) >= 5, "some have started")
        await client.pause(stream, group)
        await real_bench.until(lambda: consumer._paused, "it is heard")
        before = len(started)
        assert before < 100
        await asyncio.sleep(0.1)
        assert len(started) == before
        if group is not None:
            await real_bench.until(lambda: len(other.messages) == 100, "the other goes on")

        late = real_bench.consumer(handle)
        assert await late.run_once() == 0
        real_bench.start(late)
        await asyncio.sleep(0.1)
        assert len(started) == before

        assert await client.resume(stream, group)
        await real_bench.until(lambda: len(started) == 100, "all have started")
        await real_bench.until(real_bench.settled, "all are done")
        await real_bench.stop(late)
    assert sorted(started) == sorted(ids)
    assert not await client.resume(stream, group)


async def test_a_pause_with_an_end_ends(server_bench: Bench) -> None:
    """Also for one who comes meanwhile; a longer one of all groups counts."""
    client, stream, handler = server_bench.client, server_bench.stream, RecordingHandler()
    began_s = asyncio.get_running_loop().time()
    await client.pause(stream, for_s=0.3)
    await client.pause(stream, GROUP, for_s=0.01)
    await server_bench.push(1)
    async with running(server_bench, server_bench.consumer(handler)):
        await server_bench.until(lambda: len(handler.messages) == 1, "it is handled")
    assert 0.29 < asyncio.get_running_loop().time() - began_s < 5


async def test_a_pause_ends_also_where_nobody_is(server_bench: Bench) -> None:
    client, stream, handler = server_bench.client, server_bench.stream, RecordingHandler()
    await client.pause(stream, for_s=0.05)
    await server_bench.push(1)
    await asyncio.sleep(0.1)
    assert not await paused(client.link(), client.key(stream))
    assert await client.link().call("", "HLEN", companions(client.key(stream)).control) == 1
    assert await server_bench.once(server_bench.consumer(handler)) == 1
    async with running(server_bench, server_bench.consumer(handler)):
        await server_bench.push(2)
        await server_bench.until(lambda: len(handler.messages) == 2, "it is handled")
    assert not await client.resume(stream)
    await client.pause(stream, for_s=60)
    assert await client.resume(stream)


async def test_a_pause_is_heard_where_the_server_s_clock_was_set_back(server_bench: Bench) -> None:
    """By what was known of it the pause would be over already."""
    client, stream = server_bench.client, server_bench.stream
    mover = Mover(client, stream)
    moving = asyncio.create_task(mover.run())
    await client.pause(stream, for_s=3600)
    await server_bench.until(lambda: mover.paused(GROUP), "it is heard")
    await client.resume(stream)
    await server_bench.until(lambda: not mover.paused(GROUP), "it goes on")
    assert mover._offset_ms is not None
    mover._offset_ms += 2 * HOUR_MS  # as it was until somebody set the clock
    await client.pause(stream, for_s=3600)
    await server_bench.until(lambda: mover.paused(GROUP), "it is heard again", 2)
    moving.cancel()
    await asyncio.wait([moving])


async def test_a_pause_ends_where_the_server_s_clock_was_set_forward(server_bench: Bench) -> None:
    client, stream, told = server_bench.client, server_bench.stream, asyncio.Event()
    mover = Mover(client, stream)
    mover.listeners.append(Listener(lambda: mover.paused(GROUP) or told.set(), lambda _: None))
    await client.pause(stream, GROUP, for_s=3600)
    await mover.load_pauses()
    told.clear()
    assert mover._offset_ms is not None
    loop_ms = asyncio.get_running_loop().time() * 1000
    mover._sync(int(mover._offset_ms + loop_ms) + HOUR_MS - 500, loop_ms)
    assert mover.paused(GROUP)
    assert not told.is_set()
    await asyncio.wait_for(told.wait(), 2)


async def test_scheduled_messages_move_while_it_is_paused(server_bench: Bench) -> None:
    client, stream, handler = server_bench.client, server_bench.stream, RecordingHandler()
    await client.pause(stream)
    async with running(server_bench, server_bench.consumer(handler)):
        await StreamProducer(client, stream).push(1, delay_ms=1)

        async def moved() -> bool:
            return await client.stream_len(stream) == 1

        await server_bench.until(moved, "it is in the stream")
        assert handler.messages == []


async def test_what_is_no_time_is_refused(server_bench: Bench) -> None:
    for wrong in (0, -1, float("nan"), float("inf"), "1", True, 400 * 86_400):
        time: Any = wrong
        with pytest.raises(ConfigError, match="for_s"):
            await server_bench.client.pause("s", for_s=time)
    for odd in ("", 5, b"g"):
        group: Any = odd
        for what in (server_bench.client.pause, server_bench.client.resume):
            with pytest.raises(ConfigError, match="group must be"):
                await what("s", group)


async def test_a_lost_bell_costs_one_look(
    server_bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The state itself is looked at, too."""
    monkeypatch.setattr("redis_stream_queue.later.bell.WAIT_MS", 100)
    client, handler = server_bench.client, RecordingHandler()
    consumer = server_bench.consumer(handler)
    async with running(server_bench, consumer):
        await server_bench.push(1)
        await server_bench.until(lambda: len(handler.messages) == 1, "it is handled")
        control = f"{{{server_bench.stream}}}:control"
        await client.link().call(control, "HSET", control, "paused", "1:0", "odd", "x")
        await server_bench.until(lambda: consumer._paused, "it is seen", 4)
        await server_bench.push(2)
        await asyncio.sleep(0.1)
        assert len(handler.messages) == 1
        await client.link().call("", "FLUSHALL")  # nothing is paused any more
        await server_bench.push(3)
        await server_bench.until(lambda: len(handler.messages) == 2, "it goes on")


# -- cancel and find -------------------------------------------------------------------------------


async def test_each_state_is_found_and_cancelled(real_bench: Bench) -> None:
    """And what is gone says so, twice the same."""
    client, stream = real_bench.client, real_bench.stream
    producer = StreamProducer(client, stream)
    running_id, retrying_id, done_id = await real_bench.push({"n": 1}, 2, 3)
    await real_bench.deliver("c")
    await real_bench.set_pending(retrying_id, f"{GROUP}:retry:4096", 96, 2)
    await client.ack(stream, GROUP, done_id)
    [waiting_id] = await real_bench.push(4)
    scheduled_id = await producer.push(5, delay_ms=HOUR_MS, headers={"a": "b"})
    moved_id = await producer.push(6, delay_ms=1)
    await asyncio.sleep(0.01)
    await Mover(client, stream).move()

    found: Any = {
        i: await client.find(stream, i)
        for i in (running_id, retrying_id, done_id, waiting_id, scheduled_id, moved_id)
    }
    assert [m.state for m in found.values()] == [
        "running", "retrying", "done", "waiting", "scheduled", "waiting",
    ]  # fmt: skip
    assert (found[running_id].data, found[running_id].groups[0].holder) == (b'{"n":1}', "c")
    assert 3000 < found[retrying_id].groups[0].retry_in_ms <= 4000
    assert found[retrying_id].groups[0].delivery_count == 2
    assert (found[scheduled_id].headers, found[scheduled_id].data) == ({"a": "b"}, b"5")
    assert found[moved_id].headers == {"rsq:scheduled": moved_id}

    said = [await client.cancel(stream, i) for i in found]
    assert said == ["running", "retrying", None, "waiting", "scheduled", "waiting"]
    assert [await client.cancel(stream, i) for i in found] == [None] * 6
    assert await real_bench.pending() == {}
    assert await real_bench.entry_ids() == [done_id]
    assert await client.find(stream, running_id) is None
    handler = RecordingHandler()
    await real_bench.drain(real_bench.consumer(handler))
    assert handler.messages == []


async def test_it_is_found_however_late_it_was_moved(real_bench: Bench) -> None:
    """Behind any number of others: of those that were pushed meanwhile, or due with it."""
    client, stream = real_bench.client, real_bench.stream
    await client.create_group(stream, GROUP)
    producer, mover = StreamProducer(client, stream), Mover(client, stream)
    alone = await producer.push("late", delay_ms=1)
    await real_bench.push(*range(1500))
    first, *_, last = await producer.push_many([0] * 1200, delay_ms=1)

    async def all_moved() -> bool:
        await mover.move()
        return await client.stream_len(stream) == 2701

    await wait_until_async(all_moved, 5, "all are moved")

    for message_id in (alone, first, last):
        found = await client.find(stream, message_id)
        assert found is not None
        assert (found.state, found.headers["rsq:scheduled"]) == ("waiting", message_id)
        assert await client.cancel(stream, message_id) == "waiting"
        assert await client.cancel(stream, message_id) is None
        assert await client.find(stream, message_id) is None
    assert await client.stream_len(stream) == 2698


async def test_what_is_no_id_is_refused(server_bench: Bench) -> None:
    for wrong in ("1", "@1-1", "1-1; FLUSHALL", "", f"{2**64}-0", f"1-{2**64}", None):
        message_id: Any = wrong
        with pytest.raises(ConfigError, match="id of a message"):
            await server_bench.client.cancel(server_bench.stream, message_id)
        with pytest.raises(ConfigError, match="id of a message"):
            await server_bench.client.find(server_bench.stream, message_id)


async def test_a_running_async_handler_is_cancelled(real_bench: Bench) -> None:
    """The one that is meant, at once; it is neither retried nor dead, and what has not started
    does not."""
    cancelled: list[int] = []
    started: list[int] = []
    others_go_on = asyncio.Event()

    @per_message(concurrency=2)
    async def handle(message: StreamMessage) -> None:
        started.append(message.data)
        try:
            await (others_go_on.wait() if message.data == 1 else asyncio.sleep(30))
        except asyncio.CancelledError:
            cancelled.append(message.data)
            raise

    consumer = real_bench.consumer(handle, block_ms=1000, retry_delay_ms=1, batch_size=3)
    ids = await real_bench.push(0, 1, 2)
    async with running(real_bench, consumer):
        await real_bench.until(lambda: len(started) == 2, "two run")
        assert await real_bench.client.cancel(real_bench.stream, ids[2]) == "running"
        assert await real_bench.client.cancel(real_bench.stream, ids[0]) == "running"
        # 100 ms where nothing else runs, see `scripts/bench control`
        await real_bench.until(lambda: cancelled == [0], "it is cancelled", 1)
        others_go_on.set()
        await real_bench.until(real_bench.settled, "the others are done")
    assert started == [0, 1]
    assert consumer.metrics().total_errors == 0


async def test_a_renewal_tells_of_a_cancellation_too(real_bench: Bench) -> None:
    """Where nobody hears the bell, as in run_once(). What was acknowledged by hand goes on."""
    ended: list[tuple[int, str]] = []

    @per_message(concurrency=3)
    async def handle(message: StreamMessage) -> None:
        try:
            await asyncio.sleep(30 if message.data == 0 else 0.5)
            ended.append((message.data, "done"))
        except asyncio.CancelledError:
            ended.append((message.data, "cancelled"))
            raise

    consumer = real_bench.consumer(handle, retry_delay_ms=1, batch_size=3)
    ids = await real_bench.push(0, 1, 2)
    iteration = real_bench.once(consumer)
    await real_bench.until(lambda: consumer.metrics().total_read == 3, "all run")
    await real_bench.client.ack(real_bench.stream, GROUP, ids[1])
    assert await real_bench.client.cancel(real_bench.stream, ids[0]) == "running"
    await real_bench.until(lambda: (0, "cancelled") in ended, "it is cancelled", 1)
    await iteration
    assert sorted(ended) == [(0, "cancelled"), (1, "done"), (2, "done")]
    assert await real_bench.entry_ids() == ids[1:]
    assert consumer.metrics().total_errors == 0


async def test_what_rings_before_anybody_listens_is_heard(server_bench: Bench) -> None:
    """What a pool starts at once may be cancelled while its master is still about to listen."""
    client, stream = server_bench.client, server_bench.stream
    earlier, later = await server_bench.push(1, 2)
    await server_bench.deliver("c")
    heard: list[str] = []
    assert await client.cancel(stream, earlier) == "running"
    mover = Mover(client, stream)
    mover.listeners.append(Listener(lambda: None, heard.append))
    await mover.load_pauses()
    assert await client.cancel(stream, later) == "running"
    listening = asyncio.create_task(mover.run())
    await server_bench.until(lambda: heard, "it is heard")
    listening.cancel()
    await asyncio.wait([listening])
    assert heard == [later]


SOME = 300
MANY = pytest.param(20_000, marks=[pytest.mark.soak, pytest.mark.timeout(600)])


@pytest.mark.parametrize("messages", [SOME, MANY])
async def test_of_many_in_random_states_none_starts_afterwards(
    server_bench: Bench, messages: int
) -> None:
    """And none is lost that was said to be gone."""
    client, stream = server_bench.client, server_bench.stream
    done: set[str] = set()

    @per_message(concurrency=5)
    async def handle(message: StreamMessage) -> None:
        await asyncio.sleep(random.random() / 100)
        if random.random() < 0.3:
            raise ValueError("again")
        done.add(message.headers.get("rsq:scheduled", message.id))

    consumers = [
        server_bench.consumer(handle, block_ms=500, retry_delay_ms=20, max_deliveries=99)
        for _ in range(2)
    ]
    producer = StreamProducer(client, stream)
    ids: list[str] = []
    said: dict[str, str | None] = {}
    async with running(server_bench, *consumers):
        for _ in range(messages // 30):
            ids += await producer.push_many(list(range(20)))
            ids += await producer.push_many(list(range(10)), delay_ms=random.randint(1, 60))
            for i in random.sample(ids[-300:], 15):
                if i not in said:
                    said[i] = await client.cancel(stream, i)
            await asyncio.sleep(0.01)

        async def all_settled() -> bool:
            waits = [m async for m in producer.scheduled()]
            return not waits and await server_bench.settled()

        await server_bench.until(all_settled, "all are settled", 30)
    untouched = set(ids) - set(said)
    assert untouched <= done
    assert {i for i, was in said.items() if was is None} <= done  # it had been done
    started = {i for i, was in said.items() if was in ("scheduled", "waiting")} & done
    assert not started
