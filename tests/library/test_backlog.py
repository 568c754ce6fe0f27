"""``trim="any"`` is a lossy ring buffer; ``max_backlog`` refuses or waits, on every server."""

from __future__ import annotations

import asyncio
import threading
import time
from functools import partial
from typing import Any

import pytest

from redis_stream_queue import BacklogFull, ConfigError, StreamClient, StreamProducer
from tests.library.kit import GROUP, WAIT_S, Bench, RecordingHandler
from tests.support.waiting import wait_until


def producer_of(bench: Bench, **options: Any) -> StreamProducer:
    return StreamProducer(bench.client, bench.stream, group=GROUP, **options)


async def finish(bench: Bench, count: int = 100) -> int:
    """The group handles up to so many; returns how many it handled."""
    handler = RecordingHandler()
    await bench.consumer(handler, batch_size=count).run_once()
    return len(handler.messages)


class TestRingBuffer:
    @pytest.mark.parametrize("how", ["push", "push_many", "push_sync", "push_many_sync"])
    async def test_keeps_about_max_len_and_the_newest(
        self, redis_url: str, stream: str, how: str
    ) -> None:
        """Unread or not: the oldest go."""
        client = StreamClient.from_url(redis_url)
        producer = StreamProducer(client, stream, group=GROUP, max_len=100, trim="any")
        await producer.ensure_group()
        ids: list[str] = []
        if how == "push":
            for _ in range(5):
                ids += await asyncio.gather(*map(producer.push, range(150)))
        elif how == "push_many":
            ids = await producer.push_many(list(range(1500)))
        elif how == "push_sync":
            ids = await asyncio.to_thread(lambda: [producer.push_sync(n) for n in range(400)])
        else:
            ids = await asyncio.to_thread(producer.push_many_sync, list(range(1500)))
        entries = await client.command("XRANGE", stream, "-", "+")
        left = [entry_id.decode() for entry_id, _ in entries]
        assert 100 <= len(left) <= 300
        assert left == ids[-len(left) :]
        await producer.close()
        await StreamClient.close_all()

    async def test_is_not_the_default(self, bench: Bench) -> None:
        producer = producer_of(bench, max_len=10)
        await producer.ensure_group()
        ids = await producer.push_many(list(range(1500)))
        assert await bench.entry_ids() == ids

    @pytest.mark.parametrize("trim", ["all", None, True, ""])
    def test_wrong_value(self, trim: Any) -> None:
        with pytest.raises(ConfigError, match="trim"):
            StreamProducer(StreamClient(), "s", trim=trim)


class TestRefuses:
    async def test_beyond_max_backlog(self, bench: Bench) -> None:
        """Unread and pending both count; what is finished makes room."""
        producer = producer_of(bench, max_backlog=10)
        await producer.ensure_group()
        await producer.push_many(list(range(10)))
        await bench.deliver("c", 4)
        with pytest.raises(BacklogFull, match=r"10 messages.*max_backlog=10"):
            await producer.push("too much")
        assert len(await bench.entry_ids()) == 10
        assert producer.metrics().total_pushed == 10
        pending = list(await bench.pending())
        await bench.client.ack(bench.stream, GROUP, *pending)
        await producer.push_many([1, 2, 3, 4])
        with pytest.raises(BacklogFull):
            await producer.push("too much again")

    async def test_never_lets_more_in_one_by_one(self, bench: Bench) -> None:
        producer = producer_of(bench, max_backlog=25)
        await producer.ensure_group()
        for n in range(25):
            await producer.push(n)
        with pytest.raises(BacklogFull):
            await producer.push(25)
        assert await finish(bench) == 25
        await producer.push("room again")

    async def test_the_slowest_group_counts(self, bench: Bench) -> None:
        producer = producer_of(bench, max_backlog=5)
        await producer.ensure_group()
        await producer.ensure_group("slow")
        await producer.push_many([1, 2, 3, 4, 5])
        await finish(bench)
        with pytest.raises(BacklogFull):
            await producer.push(6)

    async def test_finished_messages_do_not_count(self, bench: Bench) -> None:
        """Nor does the length of the stream."""
        producer = producer_of(bench, max_backlog=5)
        await producer.ensure_group()
        for _ in range(10):
            await producer.push_many([1, 2, 3, 4, 5])
            assert await finish(bench) == 5
        assert await bench.client.stream_len(bench.stream) == 50

    async def test_after_an_unread_one_was_deleted(self, bench: Bench) -> None:
        """Where the server lost count of the lag, it is counted."""
        producer = producer_of(bench, max_backlog=10)
        await producer.ensure_group()
        ids = await producer.push_many(list(range(10)))
        await bench.deliver("c", 2)
        await bench.client.command("XDEL", bench.stream, ids[5])
        await producer.push("one more")
        with pytest.raises(BacklogFull):
            await producer.push("too much")

    async def test_before_there_is_a_group(self, bench: Bench) -> None:
        """Nobody has read anything yet: all of it counts."""
        producer = producer_of(bench, max_backlog=3)
        for n in range(3):
            await producer.push(n)
        with pytest.raises(BacklogFull):
            await producer.push(3)

    async def test_together(self, bench: Bench) -> None:
        """Pushes of one loop that travel together: each gets its id or its own error."""
        producer = producer_of(bench, max_backlog=10)
        await producer.ensure_group()
        first = await asyncio.gather(*map(producer.push, range(10)))
        assert len(set(first)) == 10
        results = await asyncio.gather(*map(producer.push, range(5)), return_exceptions=True)
        assert all(isinstance(error, BacklogFull) for error in results)
        assert len({id(error) for error in results}) == 5

    async def test_more_at_once_than_ever_fits(self, bench: Bench) -> None:
        producer = producer_of(bench, max_backlog=10)
        await producer.ensure_group()
        with pytest.raises(BacklogFull):
            await producer.push_many(list(range(11)))
        assert await bench.entry_ids() == []

    async def test_sync(self, redis_url: str, stream: str) -> None:
        client = StreamClient.from_url(redis_url)
        async with Bench(client, stream) as bench:
            producer = producer_of(bench, max_backlog=10)
            await producer.ensure_group()
            await asyncio.to_thread(producer.push_many_sync, list(range(10)))
            with pytest.raises(BacklogFull):
                await asyncio.to_thread(producer.push_sync, 10)
            assert await finish(bench) == 10
            await asyncio.to_thread(producer.push_sync, 11)
            await producer.close()
        await StreamClient.close_all()

    @pytest.mark.parametrize("value", [0, -1, "5", 1.5, True])
    def test_wrong_max_backlog(self, value: Any) -> None:
        with pytest.raises(ConfigError, match="max_backlog"):
            StreamProducer(StreamClient(), "s", max_backlog=value)

    @pytest.mark.parametrize("value", [-1, "5", float("nan"), True])
    def test_wrong_backlog_timeout(self, value: Any) -> None:
        with pytest.raises(ConfigError, match="backlog_timeout_s"):
            StreamProducer(StreamClient(), "s", max_backlog=5, backlog_timeout_s=value)


class TestWaits:
    async def test_until_there_is_room(self, bench: Bench) -> None:
        producer = producer_of(bench, max_backlog=5, backlog_timeout_s=WAIT_S)
        await producer.ensure_group()
        await producer.push_many([1, 2, 3, 4, 5])
        waiting = asyncio.create_task(producer.push(6))
        done, _ = await asyncio.wait({waiting}, timeout=0.1)
        assert not done
        await finish(bench)
        entry_id = await asyncio.wait_for(waiting, WAIT_S)
        assert (await bench.entry_ids())[-1] == entry_id

    async def test_for_ever(self, bench: Bench) -> None:
        producer = producer_of(bench, max_backlog=1, backlog_timeout_s=None)
        await producer.ensure_group()
        await producer.push(1)
        waiting = asyncio.create_task(producer.push(2))
        done, _ = await asyncio.wait({waiting}, timeout=0.1)
        assert not done
        await finish(bench)
        assert await asyncio.wait_for(waiting, WAIT_S)

    async def test_until_the_time_is_up(self, bench: Bench) -> None:
        """Then BacklogFull; and the next push has the same patience."""
        producer = producer_of(bench, max_backlog=1, backlog_timeout_s=0.2)
        await producer.ensure_group()
        await producer.push(1)
        for _ in range(2):
            started = time.monotonic()
            with pytest.raises(BacklogFull):
                await producer.push(2)
            assert 0.19 <= time.monotonic() - started < 2
        assert len(await bench.entry_ids()) == 1

    async def test_each_for_its_own_time(self, bench: Bench) -> None:
        """A push that comes later is not refused because an earlier one has waited long."""
        producer = producer_of(bench, max_backlog=1, backlog_timeout_s=0.6)
        await producer.ensure_group()
        await producer.push(1)
        loop = asyncio.get_running_loop()

        async def patience() -> float:
            started = loop.time()
            with pytest.raises(BacklogFull):
                await producer.push(2)
            return loop.time() - started

        first = asyncio.create_task(patience())
        await asyncio.wait({first}, timeout=0.3)
        second = asyncio.create_task(patience())
        assert await first >= 0.59
        assert await second >= 0.59

    async def test_sync(self, redis_url: str, stream: str) -> None:
        """In a thread; a consumer makes the room."""
        client = StreamClient.from_url(redis_url)
        async with Bench(client, stream) as bench:
            producer = producer_of(bench, max_backlog=5, backlog_timeout_s=WAIT_S)
            await producer.ensure_group()
            await asyncio.to_thread(producer.push_many_sync, [1, 2, 3, 4, 5])
            got: list[str] = []
            thread = threading.Thread(target=lambda: got.append(producer.push_sync(6)))
            thread.start()
            await asyncio.to_thread(thread.join, 0.1)
            assert thread.is_alive()
            await finish(bench)
            await asyncio.to_thread(wait_until, lambda: got, WAIT_S, "the push returned")
            thread.join()
            assert (await bench.entry_ids())[-1] == got[0]
            await producer.close()
        await StreamClient.close_all()

    async def test_many_producers_beside_a_consumer(self, redis_url: str, stream: str) -> None:
        """All get through, and the backlog stays near its bound: a quarter more per producer."""
        client = StreamClient.from_url(redis_url)
        async with Bench(client, stream) as bench:
            producers = [
                producer_of(bench, max_backlog=20, backlog_timeout_s=None) for _ in range(3)
            ]
            await producers[0].ensure_group()
            worst = 0

            async def push_all(producer: StreamProducer) -> None:
                for n in range(60):
                    await producer.push(n)

            pushing = asyncio.gather(*map(push_all, producers))
            handler = RecordingHandler()
            consumer = bench.consumer(handler, batch_size=7)
            while len(handler.messages) < 180:
                unfinished = await bench.client.stream_len(stream) - len(handler.messages)
                worst = max(worst, unfinished)
                await consumer.run_once()
            await pushing
            assert worst <= 20 + 3 * 5
        await StreamClient.close_all()


class TestPushesTogether:
    async def test_each_of_many_concurrent_pushes_is_judged_by_itself(self, bench: Bench) -> None:
        """Twenty at once, room for ten: ten are in, ten are refused."""
        producer = producer_of(bench, max_backlog=10)
        await producer.ensure_group()
        results = await asyncio.gather(*map(producer.push, range(20)), return_exceptions=True)
        assert sum(isinstance(result, str) for result in results) == 10
        assert sum(isinstance(result, BacklogFull) for result in results) == 10

    async def test_many_concurrent_pushes_wait_for_room_one_by_one(self, bench: Bench) -> None:
        producer = producer_of(bench, max_backlog=5, backlog_timeout_s=None)
        await producer.ensure_group()
        pushes = asyncio.gather(*map(producer.push, range(20)))
        handled = 0
        async with asyncio.timeout(WAIT_S):
            while handled < 20:
                handled += await finish(bench)
        assert len(set(await pushes)) == 20


class TestTermsOfTheirOwn:
    async def test_what_is_for_later_takes_no_room(self, bench: Bench) -> None:
        """Also beside pushes of the same moment that wait for room or find none."""
        producer = producer_of(bench, max_backlog=1, backlog_timeout_s=None)
        await producer.ensure_group()
        await producer.push(0)
        waiting = [asyncio.create_task(producer.push(n, dedup_id=f"{n}")) for n in range(3)]
        later = [producer.push(n, delay_ms=60_000, unique=f"{n}") for n in range(3)]
        assert len(set(await asyncio.wait_for(asyncio.gather(*later), 5))) == 3
        assert not any(task.done() for task in waiting)
        for task in waiting:
            task.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)

    @pytest.mark.parametrize("options", [{}, {"dedup_id": "1"}])
    async def test_whoever_gave_up_is_not_waited_for(self, bench: Bench, options: Any) -> None:
        """Nor is the message pushed once there is room."""
        producer = producer_of(bench, max_backlog=1, backlog_timeout_s=None)
        await producer.ensure_group()
        await producer.push(0)
        pushes = [asyncio.create_task(producer.push(n, **options)) for n in (1, 2)]
        done, _ = await asyncio.wait(pushes, timeout=0.05)
        assert not done
        for push in pushes:
            push.cancel()
        await asyncio.wait(pushes)
        await asyncio.wait_for(producer.close(), 5)
        assert await finish(bench) == 1
        await producer.push(3)
        assert await bench.client.stream_len(bench.stream) == 2

    @pytest.mark.parametrize("options", [{"dedup_id": "1"}, {"unique": "1"}])
    async def test_no_more_than_fit(self, bench: Bench, options: Any) -> None:
        producer = producer_of(bench, max_backlog=2)
        await producer.ensure_group()
        [name] = options
        pushes = [producer.push(n, **{name: f"{n}"}) for n in range(5)]
        results = await asyncio.gather(*pushes, return_exceptions=True)
        assert [isinstance(one, BacklogFull) for one in results] == [False] * 2 + [True] * 3
        assert await bench.client.stream_len(bench.stream) == 2

    @pytest.mark.parametrize("sync", [False, True])
    async def test_many_wholly_or_not_at_all(self, server_bench: Bench, sync: bool) -> None:
        bench = server_bench
        producer = producer_of(bench, max_backlog=2)
        await producer.ensure_group()
        push = partial(asyncio.to_thread, producer.push_many_sync) if sync else producer.push_many
        with pytest.raises(BacklogFull):
            await push([1, 2, 3], dedup_ids=["a", "b", "c"])
        assert await bench.client.stream_len(bench.stream) == 0
        assert not (await producer.push(1, dedup_id="a")).duplicate
