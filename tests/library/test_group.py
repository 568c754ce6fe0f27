"""ConsumerGroup says how a group is, on every server, and removes only what holds nothing."""

from __future__ import annotations

import asyncio

import pytest

from redis_stream_queue import (
    ConsumerGroup,
    ConsumerInfo,
    StreamClient,
    StreamMessage,
    StreamStats,
    per_message,
)
from redis_stream_queue.delivery.pending import PendingList
from tests.library.kit import GROUP, Bench, RecordingHandler, running


def group_of(bench: Bench) -> ConsumerGroup:
    return ConsumerGroup(bench.client, bench.stream, GROUP)


class TestEnsure:
    async def test_is_idempotent(self, bench: Bench) -> None:
        """Again and again, from several objects and tasks at once, also where it exists already."""
        await bench.client.create_group(bench.stream, GROUP)
        await asyncio.gather(*(group_of(bench).ensure(bench.dlq, "look") for _ in range(5)))
        await group_of(bench).ensure()
        assert len(await bench.client.group_info(bench.stream)) == 1
        assert len(await bench.client.group_info(bench.dlq)) == 1

    async def test_reads_the_stream_from_its_beginning(self, bench: Bench) -> None:
        ids = await bench.push(1, 2)
        await group_of(bench).ensure()
        assert [m.id for m in await bench.client.read(bench.stream, GROUP, "c", 9, 0)] == ids

    async def test_dead_letter_group_of_a_group_that_is_known_already(self, bench: Bench) -> None:
        await group_of(bench).ensure()
        await group_of(bench).ensure(bench.dlq, "look")
        assert [g["name"] for g in await bench.client.group_info(bench.dlq)] == ["look"]

    async def test_no_group_on_the_dead_letters_unless_asked(self, bench: Bench) -> None:
        await group_of(bench).ensure(bench.dlq)
        assert await bench.client.group_info(bench.dlq) == []

    async def test_is_remembered_until_reset(self, bench: Bench) -> None:
        """It costs nothing to call it often; after a loss reset() makes it look again."""
        group = group_of(bench)
        await group.ensure()
        await bench.client.command("XGROUP DESTROY", bench.stream, GROUP)
        await group.ensure()
        assert await bench.client.group_info(bench.stream) == []
        group.reset()
        await group.ensure()
        assert len(await bench.client.group_info(bench.stream)) == 1

    async def test_prefix_and_database_are_not_mixed_up(self, client_url: str, stream: str) -> None:
        one = StreamClient.from_url(client_url, prefix="one")
        two = StreamClient.from_url(client_url, prefix="two")
        for client in (one, two):
            await ConsumerGroup(client, stream, GROUP).ensure()
            assert len(await client.group_info(stream)) == 1
        await StreamClient.close_all()


class TestStats:
    async def test_all_numbers(self, bench: Bench) -> None:
        ids = await bench.push(*range(10))
        await bench.deliver("a", 3)
        await bench.deliver("b", 2)
        await bench.client.ack(bench.stream, GROUP, ids[0])
        await bench.add_raw({"data": "x"}, bench.dlq)
        stats = await group_of(bench).stats(dlq_stream=bench.dlq)
        idle = {c.name: c.idle_ms for c in stats.consumers}
        assert stats == StreamStats(
            stream=bench.stream, group=GROUP, stream_length=10, group_pel_size=4, lag=5,
            last_delivered_id=ids[4], dlq_length=1,
            consumers=[ConsumerInfo("a", 2, idle["a"]), ConsumerInfo("b", 2, idle["b"])],
        )  # fmt: skip
        assert all(0 <= ms < 5000 for ms in idle.values())

    async def test_dead_letters_are_counted_only_if_named(self, bench: Bench) -> None:
        assert (await group_of(bench).stats()).dlq_length is None
        assert (await group_of(bench).stats(dlq_stream=bench.dlq)).dlq_length == 0

    async def test_of_nothing(self, bench: Bench) -> None:
        """A stream that does not exist, and a group that does not exist on a stream."""
        empty = await group_of(bench).stats()
        assert (empty.stream_length, empty.lag, empty.group_pel_size) == (0, 0, 0)
        await bench.push(1, 2)
        unread = await group_of(bench).stats()
        assert (unread.stream_length, unread.lag, unread.consumers) == (2, 2, [])

    async def test_lag_follows_the_work(self, bench: Bench) -> None:
        """The servers that know it (7.0) and those that do not (6.2) say the same."""
        group = group_of(bench)
        await group.ensure()
        for total, read, lag in ((0, 0, 0), (7, 0, 7), (7, 3, 4), (10, 0, 7), (10, 7, 0)):
            await bench.push(*range(total - await bench.client.stream_len(bench.stream)))
            await bench.deliver("c", read) if read else None
            assert (await group.stats()).lag == lag

    async def test_lag_where_the_server_lost_count(self, bench: Bench) -> None:
        """An unread entry was deleted: newer servers answer null, and we count."""
        ids = await bench.push(*range(450))
        await bench.deliver("c", 10)
        await bench.client.command("XDEL", bench.stream, ids[100], ids[200])
        assert (await group_of(bench).stats()).lag == 438

    async def test_lag_of_a_group_that_began_in_the_middle(self, bench: Bench) -> None:
        ids = await bench.push(*range(20))
        await bench.client.create_group(bench.stream, GROUP, ids[4])
        assert (await group_of(bench).stats()).lag == 15


class TestHealth:
    async def test_healthy(self, bench: Bench) -> None:
        await group_of(bench).ensure()
        await bench.push(1, 2, 3)
        health = await group_of(bench).health_check(max_lag=3, dlq_stream=bench.dlq)
        assert (health["healthy"], health["issues"]) == (True, [])
        assert (health["stats"].lag, health["stats"].dlq_length) == (3, 0)

    async def test_lag_is_an_issue(self, bench: Bench) -> None:
        await bench.client.create_group(bench.stream, GROUP)
        await bench.push(1, 2, 3)
        health = await group_of(bench).health_check(max_lag=2)
        assert not health["healthy"]
        [issue] = health["issues"]
        assert "lag 3" in issue
        assert "2" in issue

    async def test_a_consumer_that_holds_messages_and_is_silent_is_an_issue(
        self, bench: Bench
    ) -> None:
        await bench.push(1, 2)
        await bench.deliver("stuck", 2)

        async def sick() -> bool:
            return not (await group_of(bench).health_check(max_idle_ms=20))["healthy"]

        await bench.until(sick, "20 ms of silence are noticed")
        [issue] = (await group_of(bench).health_check(max_idle_ms=20))["issues"]
        assert "stuck" in issue
        assert "2 message(s)" in issue

    async def test_an_idle_consumer_is_no_issue(self, bench: Bench) -> None:
        """It holds nothing and waits for work."""
        consumer = bench.consumer(RecordingHandler(), worker_name="bored")
        await consumer.run_once()

        async def silent() -> bool:
            stats = await group_of(bench).stats()
            return stats.consumers[0].idle_ms > 20

        await bench.until(silent, "it has been idle for a while")
        assert (await group_of(bench).health_check(max_idle_ms=10))["healthy"]

    async def test_waiting_retries_are_no_issue(self, bench: Bench) -> None:
        """What failed and waits for its next delivery is in nobody's hands."""
        await bench.push({"mode": "fail"})
        await bench.consumer(RecordingHandler(), retry_delay_ms=60_000).run_once()
        [[holder, _]] = (await bench.pending()).values()
        assert ":retry:" in holder

        async def silent() -> bool:
            consumers = await bench.client.consumer_info(bench.stream, GROUP)
            return any(c["name"] == holder and c["idle"] > 20 for c in consumers)

        await bench.until(silent, "the parking name has been silent for a while")
        assert (await group_of(bench).health_check(max_idle_ms=10))["issues"] == []

    async def test_a_long_handler_is_no_issue(self, real_bench: Bench) -> None:
        """Its consumer renews its hold all the time, on every server."""
        bench = real_bench
        entered, leave = asyncio.Event(), asyncio.Event()

        @per_message
        async def slow(_: StreamMessage) -> None:
            entered.set()
            await leave.wait()

        await bench.push(1)
        loop = asyncio.get_running_loop()
        async with running(bench, bench.consumer(slow, min_idle_claim_ms=150, block_ms=20)):
            await entered.wait()
            until = loop.time() + 1.0  # several times the limit below
            while loop.time() < until:
                health = await group_of(bench).health_check(max_idle_ms=400)
                assert health["issues"] == []
                await asyncio.sleep(0.02)
            leave.set()
            await bench.until(bench.settled, "it is done")

    async def test_pending_details(self, bench: Bench) -> None:
        ids = await bench.push(*range(5))
        await bench.deliver("c")
        await bench.set_pending(ids[1], "d", 5000, 3)
        details = await group_of(bench).pending_details(count=3)
        assert [(e.id, e.consumer, e.delivery_count) for e in details] == [
            (ids[0], "c", 1), (ids[1], "d", 3), (ids[2], "c", 1),
        ]  # fmt: skip
        assert details[1].idle_ms >= 5000
        assert len(await group_of(bench).pending_details()) == 5


class TestPrune:
    async def test_removes_those_that_hold_nothing(self, bench: Bench) -> None:
        """And leaves those that hold something, with what they hold."""
        [entry_id] = await bench.push(1)
        for name in ("full", "gone1", "gone2"):
            await bench.deliver(name)
            await bench.client.command("XGROUP CREATECONSUMER", bench.stream, GROUP, name)
        pruned = await group_of(bench).prune_consumers(0)
        assert sorted(pruned) == ["gone1", "gone2"]
        assert await bench.consumers() == ["full"]
        assert await bench.pending() == {entry_id: ("full", 1)}

    async def test_leaves_those_that_were_there_a_moment_ago(self, bench: Bench) -> None:
        await group_of(bench).ensure()
        await bench.client.command("XGROUP CREATECONSUMER", bench.stream, GROUP, "new")
        assert await group_of(bench).prune_consumers(60_000) == []
        assert await bench.consumers() == ["new"]

    async def test_of_nothing(self, bench: Bench) -> None:
        assert await group_of(bench).prune_consumers(0) == []

    async def test_looks_and_removes_in_one_step(self, bench: Bench) -> None:
        """A consumer that gets a message after it was seen empty is not removed."""
        [entry_id] = await bench.push(1)
        await bench.deliver("c")
        pending = PendingList(bench.client, bench.stream, GROUP)
        assert not await pending.prune("c")
        assert await bench.pending() == {entry_id: ("c", 1)}
        await bench.client.ack(bench.stream, GROUP, entry_id)
        assert await pending.prune("c")

    @pytest.mark.parametrize("rounds", [60])
    async def test_loses_nothing_beside_consumers_that_read(
        self, server_bench: Bench, rounds: int
    ) -> None:
        """DELCONSUMER would drop what the consumer holds: here every message stays pending."""
        bench = server_bench
        await group_of(bench).ensure()
        ids = await bench.push(*range(rounds * 5))
        prunes = 0
        for n in range(rounds):
            *_, pruned = await asyncio.gather(
                *(bench.client.read(bench.stream, GROUP, f"c{n}-{i}", 1, 0) for i in range(5)),
                group_of(bench).prune_consumers(0),
            )
            prunes += len(pruned)
            await bench.client.command("XGROUP CREATECONSUMER", bench.stream, GROUP, f"empty{n}")
        assert prunes
        assert set(await bench.pending()) == set(ids)
