"""What operators and namesakes do to a consumer's name, and what becomes of its messages."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from redis.exceptions import NoPermissionError

from redis_stream_queue import Reject, StreamMessage, per_message
from redis_stream_queue.client import StreamClient
from redis_stream_queue.delivery.batch import DONE, Outcome, Verdict
from redis_stream_queue.delivery.pending import SeenEntry
from tests.library.kit import GROUP, Bench, RecordingHandler

LEASES = 2  # intervals that a renewal may take


class Gate:
    """A handler that waits in each message until it is let go."""

    def __init__(self, end: str = "") -> None:
        self.started: list[StreamMessage] = []
        self.open = asyncio.Event()
        self._end = end

    async def __call__(self, message: StreamMessage) -> None:
        self.started.append(message)
        await self.open.wait()
        if self._end == "raise" and message.delivery_count == 1:
            raise ValueError("on purpose")
        if self._end == "reject":
            raise Reject("not for us")


async def delete_consumers(bench: Bench) -> int:
    """XGROUP DELCONSUMER of everybody; returns how many pending entries that dropped."""
    dropped = 0
    for name in await bench.consumers():
        dropped += await bench.client.command("XGROUP DELCONSUMER", bench.stream, GROUP, name)
    return dropped


@pytest.mark.parametrize("end", ["", "raise", "reject"])
async def test_a_name_that_is_deleted_loses_nothing(real_bench: Bench, end: str) -> None:
    """The handler has the messages in hand; however it ends, they are settled as ever."""
    gate = Gate(end)
    consumer = real_bench.consumer(
        per_message(concurrency=3)(gate), dlq_stream=real_bench.dlq, retry_delay_ms=10
    )
    ids = await real_bench.push(1, 2, 3)
    real_bench.start(consumer)
    await real_bench.until(lambda: len(gate.started) == 3, "all are running")
    assert await delete_consumers(real_bench) == 3
    assert await real_bench.pending() == {}
    gate.open.set()
    runs, letters, acked = {"": (1, 0, 3), "raise": (2, 0, 3), "reject": (1, 3, 0)}[end]
    meter = consumer._in_flight.meter
    await real_bench.until(lambda: (meter.dlq, meter.acked.total) == (letters, acked), "settled")
    await real_bench.until(real_bench.settled, "in Redis, too")
    assert len(gate.started) == 3 * runs
    assert {letter["original_id"] for letter in await real_bench.letters()} <= set(ids)


BROKEN = Verdict(Outcome.RETRY, "on purpose", delay_ms=1)


async def delete_group(bench: Bench) -> None:
    """And make it again before anybody notices, behind all that there is."""
    group = bench.client.key(bench.stream), GROUP
    anew = [("XGROUP", "DESTROY", *group), ("XGROUP", "CREATE", *group, "$")]
    await bench.client.link().run(group[0], [("MULTI",), *anew, ("EXEC",)], 1)


@pytest.mark.parametrize("deletion", [delete_consumers, delete_group])
@pytest.mark.parametrize("made_again_by", ["read", "take-over", "reservation", "full memory"])
async def test_a_name_that_is_made_again_at_once_hides_nothing(
    real_bench: Bench, deletion: Callable[[Bench], Awaitable[Any]], made_again_by: str
) -> None:
    """By the consumer itself, before it could see that it was deleted: what fails is retried."""
    bench = real_bench
    consumer = bench.consumer(lambda _: [], min_idle_claim_ms=60_000)
    in_flight, session = consumer._in_flight, consumer._session
    ids = await bench.push(1, 2)
    await consumer._ensure()
    messages = await session.read(2, 0)

    async def memory(limit: int) -> None:
        await bench.client.link().call("", "CONFIG", "SET", "maxmemory", limit)

    full = int(made_again_by == "full memory")
    await memory(full)
    try:
        assert await session.read(2, 0) == []
        await memory(0)  # Redis 6.2 would refuse the deletion, too
        await deletion(bench)
        await memory(full)
        if made_again_by == "take-over":
            [other] = await bench.push(3)
            await bench.set_pending(other, "gone", 0, 1)
            assert await in_flight.take([SeenEntry(other, "gone", 1, 0, 2)])
        elif made_again_by == "reservation":
            await in_flight.reserve_name()
        else:
            await session.read(2, 0)
        assert in_flight.name in await bench.consumers()
        in_flight.unsettled.note(messages, BROKEN)
        await in_flight.settle()
    finally:
        await memory(0)
    pending = await bench.pending()
    assert {i: pending.get(i) for i in ids} == dict.fromkeys(ids, (f"{GROUP}:retry:1", 1))
    await consumer.close()


async def test_a_refused_acknowledgement_is_none_although_the_name_is_looked_at(
    real_bench: Bench,
) -> None:
    """The command before a read, while others run, is answered: that is not XACK's answer."""
    bench = real_bench
    consumer = bench.consumer(lambda _: [])
    in_flight, session = consumer._in_flight, consumer._session
    ids = await bench.push(1, 2)
    await consumer._ensure()
    [done, running] = await session.read(2, 0)
    in_flight.unsettled.note([done], DONE)
    link = bench.client.link()
    await link.call("", "ACL", "SETUSER", "default", "-xack")
    try:
        with pytest.raises(NoPermissionError):
            await session.read(2, 0)
    finally:
        await link.call("", "ACL", "SETUSER", "default", "+xack")
    assert (consumer.metrics().total_acked, set(await bench.pending())) == (0, set(ids))
    in_flight.unsettled.note([running], DONE)
    await session.read(2, 0)
    assert (consumer.metrics().total_acked, await bench.pending()) == (2, {})
    await consumer.close()


async def test_while_a_handler_runs_its_message_is_claimed_back(real_bench: Bench) -> None:
    """With its delivery count, so that others still know how often it was tried."""
    gate = Gate()
    consumer = real_bench.consumer(per_message(gate))
    [entry_id] = await real_bench.push(1)
    real_bench.start(consumer)
    await real_bench.until(lambda: gate.started, "it runs")
    await delete_consumers(real_bench)
    await real_bench.until(real_bench.pending, "it is pending again")
    assert list((await real_bench.pending()).values()) == [(consumer._in_flight.name, 1)]
    gate.open.set()
    await real_bench.until(real_bench.settled, "it is settled")
    assert [m.id for m in gate.started] == [entry_id]


async def test_thousands_of_messages_are_claimed_back(real_bench: Bench) -> None:
    """More than one script renews, and messages that are settled meanwhile are settled."""
    consumer = real_bench.consumer(lambda _: [], batch_size=1200)
    in_flight = consumer._in_flight
    await real_bench.push(*range(1200))
    await consumer._ensure()
    messages = await consumer._session.read(1200, 0)
    await delete_consumers(real_bench)
    done = asyncio.create_task(in_flight.leases.renew())
    await asyncio.sleep(0)
    in_flight.acknowledged([messages[0].id])  # while the answer is on its way
    await done
    pending = await real_bench.pending()
    assert pending == {m.id: (in_flight.name, 1) for m in messages[1:]}
    await consumer.close()


async def test_a_renewal_under_way_brings_nothing_back_when_the_name_goes(
    real_bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A consumer leaves: to a renewal behind that, its name would look deleted by an operator."""
    consumer = real_bench.consumer(lambda _: [])
    in_flight = consumer._in_flight
    await real_bench.push(1)
    await consumer._ensure()
    messages = await consumer._session.read(1, 0)
    renew, asked, go_on = in_flight.pending.renew, asyncio.Event(), asyncio.Event()

    async def slow_renew(*args: Any) -> Any:
        asked.set()
        await go_on.wait()
        return await renew(*args)

    monkeypatch.setattr(in_flight.pending, "renew", slow_renew)
    renewal = asyncio.create_task(in_flight.leases.renew())
    await asked.wait()
    in_flight.unsettled.note(messages, DONE)
    leaving = asyncio.create_task(consumer._session.leave())
    await real_bench.until(real_bench.settled, "it is acknowledged")
    await asyncio.wait([leaving], timeout=0.3)  # as far as it goes
    go_on.set()
    await asyncio.gather(renewal, leaving)
    assert await real_bench.pending() == {}
    assert await real_bench.consumers() == []


async def test_what_an_operator_acknowledges_is_done(
    real_bench: Bench, warnings_logged: pytest.LogCaptureFixture
) -> None:
    """XACK of a running message that then fails: it is not tried again, and the log says so."""
    gate = Gate("raise")
    consumer = real_bench.consumer(per_message(gate), retry_delay_ms=1)
    [entry_id] = await real_bench.push(1)
    real_bench.start(consumer)
    await real_bench.until(lambda: gate.started, "it runs")
    assert await real_bench.client.ack(real_bench.stream, GROUP, entry_id) == 1
    gate.open.set()
    await real_bench.until(lambda: consumer._in_flight.meter.errors == 1, "it has failed")
    [later] = await real_bench.push(2)
    await real_bench.until(lambda: len(gate.started) > 1, "the next one has started")
    assert gate.started[1].id == later
    assert f"1 message(s) were acknowledged by others: ['{entry_id}']" in warnings_logged.messages


async def test_what_others_have_taken_is_not_claimed_back(
    real_bench: Bench, warnings_logged: pytest.LogCaptureFixture
) -> None:
    """Deleted, and read by somebody else: his it is."""
    gate = Gate("raise")
    consumer = real_bench.consumer(per_message(gate), min_idle_claim_ms=60_000)
    [entry_id] = await real_bench.push(1)
    real_bench.start(consumer)
    await real_bench.until(lambda: gate.started, "it runs")
    await delete_consumers(real_bench)
    await real_bench.set_pending(entry_id, "somebody", 0, 1)
    gate.open.set()
    await real_bench.until(lambda: consumer._in_flight.meter.errors == 1, "it has failed")
    said = f"1 message(s) were taken over by others: ['{entry_id}']"
    await real_bench.until(lambda: said in warnings_logged.messages, "it was looked for")
    await real_bench.push(2)
    await real_bench.until(lambda: len(gate.started) > 1, "the next one has started")
    assert (await real_bench.pending())[entry_id] == ("somebody", 1)


async def test_what_was_deleted_from_the_stream_is_not_claimed_back(real_bench: Bench) -> None:
    gate = Gate("raise")
    consumer = real_bench.consumer(per_message(gate))
    [entry_id] = await real_bench.push(1)
    real_bench.start(consumer)
    await real_bench.until(lambda: gate.started, "it runs")
    await real_bench.client.command("XDEL", real_bench.stream, entry_id)
    await delete_consumers(real_bench)
    gate.open.set()
    await real_bench.until(lambda: consumer._in_flight.meter.errors == 1, "it has failed")
    assert await real_bench.pending() == {}


@pytest.mark.parametrize("end", ["stop", "blip"])
async def test_a_namesake_s_messages_are_its_own(
    server_bench: Bench, server_client: StreamClient, end: str
) -> None:
    """A rolling deploy with a fixed worker_name: the one that stops, or whose reads break, neither
    gives back nor takes what the other one runs."""
    gate, other = Gate(), RecordingHandler()
    busy = server_bench.consumer(per_message(gate), worker_name="orders-1")
    idle = server_bench.consumer(other, worker_name="orders-1", block_ms=50)
    [entry_id] = await server_bench.push(1)
    server_bench.start(busy)
    await server_bench.until(lambda: gate.started, "it runs")
    server_bench.start(idle)
    await server_bench.until(lambda: idle._named, "the other one has begun")
    if end == "stop":
        await server_bench.stop(idle)
    else:
        for _ in range(3):
            idle._in_flight.unsure = True  # as after a read that broke
            await asyncio.sleep(0.1)
    assert await server_bench.pending() == {entry_id: ("orders-1", 1)}
    assert other.messages == []
    gate.open.set()
    await server_bench.until(server_bench.settled, "it is settled")


@pytest.mark.parametrize("name", [b"java-\x9f\xe2\x88\xff\x01", "m\xfcller-pc".encode("latin-1")])
async def test_a_dead_consumer_s_name_may_be_any_bytes(real_bench: Bench, name: bytes) -> None:
    """Taken over, seen, and pruned."""
    client, stream = real_bench.client, real_bench.stream
    notes = RecordingHandler()
    consumer = real_bench.consumer(notes, min_idle_claim_ms=50)
    ids = await real_bench.push(1, 2)
    await client.create_group(stream, GROUP)
    read: Any = ("XREADGROUP", "GROUP", GROUP, name, "COUNT", 2, "STREAMS", stream, ">")
    assert await client.link().call(stream, *read)
    await real_bench.drain(consumer)
    assert [m.id for m in notes.messages] == ids
    seen = [c["name"] for c in await client.consumer_info(stream, GROUP)]
    assert name in [n.encode(errors="surrogateescape") for n in seen]
    await consumer.group.prune_consumers(0)
    assert await client.consumer_info(stream, GROUP) == []


async def test_group_of_the_dead_letters_is_made_again(real_bench: Bench) -> None:
    """DEL of the dead-letter stream, and FLUSHALL: who reads the letters goes on."""

    async def reject(message: StreamMessage) -> None:
        raise Reject("no")

    bench = real_bench
    consumer = bench.consumer(per_message(reject), dlq_stream=bench.dlq, dlq_group="triage")
    bench.start(consumer)

    async def has_letter() -> bool:
        groups = await bench.client.group_info(bench.dlq)
        return bool(groups) and groups[0]["name"] == "triage" and bool(await bench.letters())

    await bench.push(1)
    await bench.until(has_letter, "a letter")
    await bench.client.command("DEL", bench.dlq)
    await bench.push(2)
    await bench.until(has_letter, "a letter, and the group")
    await bench.client.link().call("", "FLUSHALL")

    async def has_group() -> bool:
        return bool(await bench.client.group_info(bench.dlq))

    await bench.until(has_group, "the group, before any letter")


async def test_where_nothing_is_pending_a_look_does_not_ask_for_the_time(real_bench: Bench) -> None:
    """An idle pool looks often; where something is pending, its page comes with the time."""
    consumer = real_bench.consumer(lambda _: [])
    await consumer._ensure()
    look = consumer._in_flight.pending.look
    told = [await look(None, 10) for _ in range(4)]
    assert [server_ms is None for _, server_ms in told] == [False, True, True, True]
    await real_bench.push(1)
    await consumer._session.read(1, 0)
    for _ in range(2):
        entries, server_ms = await look(None, 10)
        assert len(entries) == 1
        assert server_ms is not None
    await consumer.close()
