"""Answers that are lost on their way: nothing is stranded, nothing runs twice for it."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from redis_stream_queue import ConsumerConfig, StreamMessage, StreamProducer
from redis_stream_queue._burial_mark import read_count
from redis_stream_queue.delivery.in_flight import InFlight
from redis_stream_queue.delivery.pending import PendingList, SeenEntry
from tests.library.faults.conftest import LONG_MS, through, until_blocked
from tests.library.kit import GROUP, WAIT_S, Bench, RecordingHandler, running
from tests.support.faultproxy import FaultProxy


async def cut_the_reply_of(proxy: FaultProxy, call: Any) -> None:
    """Let a call reach the server and reset the connection instead of answering."""
    proxy.cut_after = 0
    with pytest.raises((OSError, Exception), match=r"(?i)connection|closed|reset"):
        await call
    proxy.cut_after = None


class TestLostReplies:
    """What the server delivered into a cut connection is found by its owner at its next read."""

    async def test_of_a_read_strand_nothing(self, bench: Bench, proxy: FaultProxy) -> None:
        """No idle time passes: the owner takes what its name holds and it does not run."""
        handler = RecordingHandler()
        consumer = bench.consumer(
            handler, client=through(proxy), block_ms=5000, min_idle_claim_ms=LONG_MS
        )
        async with running(bench, consumer):
            await until_blocked(bench)
            proxy.cut_after = 0
            ids = await bench.push(1, 2, 3)
            await bench.until(bench.pending, "the server delivered them")
            proxy.cut_after = None
            await bench.until(bench.settled, "all are done", 3)
        assert handler.runs == dict.fromkeys(ids, 1)

    async def test_cut_in_the_middle_of_a_reply(self, bench: Bench, proxy: FaultProxy) -> None:
        handler = RecordingHandler()
        consumer = bench.consumer(
            handler, client=through(proxy), block_ms=5000, min_idle_claim_ms=LONG_MS
        )
        ids: list[str] = []
        async with running(bench, consumer):
            for cut_after in (1, 7, 40, 90):
                await until_blocked(bench)
                proxy.cut_after = cut_after
                ids += await bench.push(*range(5))
                await bench.until(bench.pending, "the server delivered them")
                proxy.cut_after = None
                await bench.until(bench.settled, f"all are done after a cut at {cut_after}", 3)
        assert handler.runs == dict.fromkeys(ids, 1)

    @pytest.mark.parametrize("max_deliveries", [1, 2])
    async def test_at_the_last_permitted_delivery_is_handled_once_and_never_buried_unseen(
        self, bench: Bench, proxy: FaultProxy, max_deliveries: int
    ) -> None:
        """The delivery that reached nobody is not the one it is permitted."""
        handler = RecordingHandler()
        consumer = bench.consumer(
            handler, client=through(proxy), block_ms=5000, min_idle_claim_ms=LONG_MS,
            max_deliveries=max_deliveries, dlq_stream=bench.dlq,
        )  # fmt: skip
        async with running(bench, consumer):
            await until_blocked(bench)
            proxy.cut_after = 0
            [entry_id] = await bench.push(1)
            await bench.until(bench.pending, "the server delivered it")
            proxy.cut_after = None
            await bench.until(bench.settled, "it is done", 3)
        assert handler.runs == {entry_id: 1}
        assert await bench.letters() == []

    async def test_of_a_take_over_strand_nothing(self, bench: Bench, proxy: FaultProxy) -> None:
        """Also the last permitted delivery: it is handled once, and not buried unseen."""
        handler = RecordingHandler()
        ids = await bench.push("second of three", "last of three")
        await bench.deliver("gone")
        await bench.client.command(
            "XCLAIM", bench.stream, GROUP, "gone", 0, *ids, "IDLE", 0, "JUSTID"
        )
        client = through(proxy)
        consumer = bench.consumer(
            handler, client=client, min_idle_claim_ms=300, dlq_stream=bench.dlq, worker_name="me"
        )
        await consumer.run_once()
        assert handler.batches == []
        await bench.set_pending(ids[0], "gone", 10_000, 1)
        await bench.set_pending(ids[1], "gone", 10_000, 2)
        await consumer._in_flight.take(
            [SeenEntry("1-1", "gone", 1, 0, 2)]
        )  # the script is known now
        offers = [SeenEntry(ids[0], "gone", 1, 0, 2), SeenEntry(ids[1], "gone", 2, 0, 3)]
        await cut_the_reply_of(proxy, consumer._in_flight.take(offers))
        assert await bench.pending() == {ids[0]: ("me", 2), ids[1]: ("me", 3)}
        for _ in range(4):
            await consumer.run_once()
        assert handler.runs == dict.fromkeys(ids, 1)
        assert handler.counts(ids[1]) == [3]
        assert await bench.letters() == []
        assert await bench.settled()

    async def test_of_taking_the_dead_runs_none_of_them(
        self, bench: Bench, proxy: FaultProxy
    ) -> None:
        handler = RecordingHandler()
        [entry_id] = await bench.push("dead")
        await bench.deliver("gone")
        consumer = bench.consumer(
            handler, client=through(proxy), dlq_stream=bench.dlq, min_idle_claim_ms=60_000
        )
        await consumer.run_once()
        await consumer._in_flight.take(
            [SeenEntry("1-1", "gone", 1, 0, 2)]
        )  # the script is known now
        await bench.set_pending(entry_id, "gone", 0, 3)
        await cut_the_reply_of(
            proxy, consumer._in_flight.bury([SeenEntry(entry_id, "gone", 3, 0, 3)], "rejected")
        )
        await consumer.run_once()
        assert handler.batches == []
        [letter] = await bench.letters()
        assert (letter["reason"], letter["delivery_count"]) == ("rejected", "3")
        assert await bench.settled()

    async def test_of_taking_the_dead_makes_its_letter_at_the_next_settling(
        self, bench: Bench, proxy: FaultProxy
    ) -> None:
        """It waits for no idle time, whoever buries: the master has no loop of a consumer."""
        config = ConsumerConfig(group=GROUP, dlq_stream=bench.dlq, min_idle_claim_ms=60_000)
        in_flight = InFlight(through(proxy), bench.stream, config)
        ids = await bench.push(1, 2)
        await bench.deliver("gone", 2)
        await in_flight.bury([SeenEntry(ids[0], "gone", 1, 0, 1)])  # the scripts are known now
        seen = SeenEntry(ids[1], "gone", 1, 0, 1)
        await cut_the_reply_of(proxy, in_flight.bury([seen], "rejected"))
        [(_, count)] = (await bench.pending()).values()
        assert read_count(count) == (1, "rejected", 1)
        await in_flight.settle()
        assert [letter["worker"] for letter in await bench.letters()] == ["gone", "gone"]
        await in_flight.leave()
        assert await bench.settled()

    async def test_of_a_burial_makes_one_letter(self, bench: Bench, proxy: FaultProxy) -> None:
        """The atomic step went through, only its reply was lost."""
        [entry_id] = await bench.push(1)
        await bench.deliver("me")
        pending = PendingList(through(proxy), bench.stream, GROUP)
        assert (
            await pending.move_to_dlq("other", entry_id, bench.dlq, None, {}) is None
        )  # script known
        await cut_the_reply_of(
            proxy, pending.move_to_dlq("me", entry_id, bench.dlq, None, {"reason": "x"})
        )
        assert await pending.move_to_dlq("me", entry_id, bench.dlq, None, {"reason": "x"}) is None
        assert len(await bench.letters()) == 1
        assert await bench.pending() == {}

    async def test_of_an_acknowledgement_runs_nothing_twice(
        self, bench: Bench, proxy: FaultProxy
    ) -> None:
        """The acknowledgement is repeated, not the work."""
        handler = RecordingHandler()
        handled = asyncio.Event()

        async def handle(messages: list[StreamMessage]) -> list[str]:
            proxy.cut_after = 0
            handled.set()
            return await handler(messages)

        consumer = bench.consumer(
            handle, client=through(proxy), block_ms=5000, min_idle_claim_ms=LONG_MS
        )
        async with running(bench, consumer):
            await until_blocked(bench)
            ids = await bench.push(1, 2)
            await asyncio.wait_for(handled.wait(), WAIT_S)
            await asyncio.sleep(0)
            proxy.cut_after = None
            await bench.until(bench.settled, "acknowledged", 3)
        assert handler.runs == dict.fromkeys(ids, 1)

    async def test_cut_at_every_moment_for_a_while(self, bench: Bench, proxy: FaultProxy) -> None:
        """200 messages while all connections are reset again and again: each is handled once."""
        handler = RecordingHandler()
        options = {"block_ms": 50, "min_idle_claim_ms": LONG_MS, "batch_size": 5}
        consumers = [bench.consumer(handler, client=through(proxy), **options) for _ in range(2)]
        ids: list[str] = []
        async with running(bench, *consumers):
            for n in range(20):
                ids += await bench.push(*range(10))
                proxy.cut_after = n * 13
                await asyncio.sleep(0.005)
                proxy.reset_all()
                proxy.cut_after = None
            await bench.until(bench.settled, "all are done")
        assert set(handler.runs) == set(ids)
        assert max(handler.runs.values()) == 1


class TestLostRepliesToPushes:
    """Who pushed does not know; the same push again finds out, and adds nothing."""

    @pytest.mark.parametrize("extras", [{}, {"delay_ms": 60_000}], ids=["now", "later"])
    async def test_the_same_push_again_tells_what_came_of_it(
        self, bench: Bench, proxy: FaultProxy, extras: Any
    ) -> None:
        client = through(proxy)
        producer = StreamProducer(client, bench.stream, GROUP)
        for how in ({"dedup_id": "d"}, {"unique": "u"}):
            options: Any = {**how, **extras}
            await producer.push("before", **dict.fromkeys(how, "another"), **extras)
            await cut_the_reply_of(proxy, producer.push("x", **options))
            again: Any = await producer.push("x", **options)
            assert again.duplicate
            found = await bench.client.find(bench.stream, again)
            assert found is not None
            assert found.data == b'"x"'
