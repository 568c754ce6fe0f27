"""A producer pushes much in few round trips, each caller gets its own answer, and only finished
messages are ever trimmed."""

from __future__ import annotations

import asyncio
import gc
import multiprocessing
import threading
from typing import Any

import pytest

from redis_stream_queue import (
    ConfigError,
    ConsumerGroup,
    SerializationError,
    StreamClient,
    StreamProducer,
)
from redis_stream_queue.pushing.portions import PUSH_AT_ONCE, PUSH_CHUNK
from tests.library.kit import GROUP, WAIT_S, Bench, CountingProxy
from tests.support.servers import Server

BIG = "x" * 300_000


class TestPush:
    async def test_returns_the_entry_s_id(self, bench: Bench) -> None:
        ids = [await StreamProducer(bench.client, bench.stream).push({"n": n}) for n in range(3)]
        assert await bench.entry_ids() == ids

    async def test_the_entry_is_one_field_with_the_payload(self, bench: Bench) -> None:
        """As 0.1.x wrote it: field ``data``."""
        await StreamProducer(bench.client, bench.stream).push({"n": 1})
        [[_, fields]] = await bench.client.command("XRANGE", bench.stream, "-", "+")
        assert fields == [b"data", b'{"n":1}']

    async def test_a_thousand_together_cost_a_handful_of_round_trips(
        self, proxy: CountingProxy, stream: str
    ) -> None:
        producer = StreamProducer(StreamClient.from_url(proxy.url), stream)
        await producer.push("the connection is open and the script is known")
        await producer.push_many([1, 2])
        proxy.requests.clear()
        ids = await asyncio.gather(*(producer.push(n) for n in range(1000)))
        assert len(proxy.requests) <= 10
        assert len(set(ids)) == 1000
        fetched = await producer.client.fetch_by_ids(stream, ids)
        assert [m.data for m in fetched] == [str(n).encode() for n in range(1000)]

    async def test_each_gets_its_own_id_or_its_own_error(self, bench: Bench) -> None:
        """One of a hundred cannot be encoded: 99 ids, one error."""
        producer = StreamProducer(bench.client, bench.stream)
        payloads: list[Any] = list(range(100))
        payloads[42] = object()
        results = await asyncio.gather(*map(producer.push, payloads), return_exceptions=True)
        assert isinstance(results.pop(42), SerializationError)
        fetched = await bench.client.fetch_by_ids(bench.stream, results)
        assert [m.data for m in fetched] == [str(n).encode() for n in range(100) if n != 42]
        assert producer.metrics().total_pushed == 99

    async def test_error_of_redis_reaches_every_caller(self, bench: Bench) -> None:
        await bench.client.link().call(bench.stream, "SET", bench.stream, "not a stream")
        producer = StreamProducer(bench.client, bench.stream)
        results = await asyncio.gather(*map(producer.push, range(5)), return_exceptions=True)
        assert all("WRONGTYPE" in str(error) for error in results)
        assert len({id(error) for error in results}) == 5
        assert producer.metrics().total_pushed == 0

    async def test_a_caller_that_is_cancelled_hurts_nobody_else(self, bench: Bench) -> None:
        producer = StreamProducer(bench.client, bench.stream)
        tasks = [asyncio.create_task(producer.push(n)) for n in range(5)]
        await asyncio.sleep(0)
        tasks[2].cancel()
        results = await asyncio.gather(*tasks, return_exceptions=True)
        assert isinstance(results[2], asyncio.CancelledError)
        assert all(isinstance(results[n], str) for n in (0, 1, 3, 4))

    async def test_pushes_of_two_loops_at_once(self, redis_url: str, stream: str) -> None:
        """One producer, used by event loops in several threads."""
        producer = StreamProducer(StreamClient.from_url(redis_url), stream)
        ids: list[str] = []

        async def work() -> None:
            ids.extend(await asyncio.gather(*map(producer.push, range(50))))
            await producer.client.close()

        threads = [threading.Thread(target=lambda: asyncio.run(work())) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            await asyncio.to_thread(thread.join, WAIT_S)
        assert len(set(ids)) == 200

    async def test_close_waits_for_pushes_under_way(self, bench: Bench) -> None:
        producer = StreamProducer(StreamClient.from_url("redis://fake:1/0"), bench.stream)
        producer = StreamProducer(bench.client, bench.stream)
        pushes = [asyncio.create_task(producer.push(n)) for n in range(10)]
        await asyncio.sleep(0)
        await producer.close()
        assert len(set(await asyncio.gather(*pushes))) == 10


class TestPushMany:
    async def test_keeps_the_order_over_chunks(self, bench: Bench) -> None:
        count = PUSH_CHUNK * (PUSH_AT_ONCE + 1) + 500
        ids = await StreamProducer(bench.client, bench.stream).push_many(list(range(count)))
        assert await bench.entry_ids() == ids
        fetched = await bench.client.fetch_by_ids(bench.stream, ids)
        assert [m.data for m in fetched] == [str(n).encode() for n in range(count)]

    async def test_big_payloads_travel_in_several_portions(
        self, proxy: CountingProxy, stream: str
    ) -> None:
        """No command of many megabytes holds up the server."""
        producer = StreamProducer(StreamClient.from_url(proxy.url), stream)
        ids = await producer.push_many([BIG] * 20)
        assert len(proxy.requests) >= 6
        assert len(set(ids)) == 20
        [last] = await producer.client.fetch_by_ids(stream, ids[-1:])
        assert len(last.data) == len(BIG) + 2

    async def test_nothing_is_added_if_one_cannot_be_encoded(self, bench: Bench) -> None:
        with pytest.raises(SerializationError):
            await StreamProducer(bench.client, bench.stream).push_many([1, object()])
        assert await bench.client.stream_len(bench.stream) == 0

    async def test_nothing_to_push(self, bench: Bench) -> None:
        assert await StreamProducer(bench.client, bench.stream).push_many([]) == []

    async def test_any_iterable_of_payloads(self, bench: Bench) -> None:
        ids = await StreamProducer(bench.client, bench.stream).push_many(range(3))  # type: ignore[arg-type]
        assert len(ids) == 3


class TestSync:
    """push_sync and push_many_sync: no event loop, thread-safe, fork-safe."""

    async def test_from_threads(self, redis_url: str, stream: str) -> None:
        producer = StreamProducer(StreamClient.from_url(redis_url), stream)
        ids: list[str] = []

        def work() -> None:
            for n in range(10):
                ids.append(producer.push_sync(n))
                ids.extend(producer.push_many_sync([n] * 5))

        await asyncio.gather(*(asyncio.to_thread(work) for _ in range(8)))
        assert len(set(ids)) == 8 * 60
        assert producer.metrics().total_pushed == 8 * 60
        await producer.close()

    async def test_keeps_the_order_over_chunks(self, redis_url: str, stream: str) -> None:
        producer = StreamProducer(StreamClient.from_url(redis_url), stream)
        ids = await asyncio.to_thread(producer.push_many_sync, list(range(2500)))
        assert ids == sorted(ids, key=lambda i: tuple(map(int, i.split("-"))))
        fetched = await producer.client.fetch_by_ids(stream, ids)
        assert [m.data for m in fetched] == [str(n).encode() for n in range(2500)]
        await producer.close()
        await StreamClient.close_all()

    def test_after_a_fork_in_parent_and_child(self, server: Server, stream: str) -> None:
        producer = StreamProducer(StreamClient.from_url(server.url), stream)
        ids = [producer.push_sync("before")]
        context = multiprocessing.get_context("fork")
        results = context.SimpleQueue()

        def child(n: int) -> None:
            results.put([producer.push_sync(n), *producer.push_many_sync([n, n])])

        children = [context.Process(target=child, args=(n,)) for n in range(3)]
        for one in children:
            one.start()
        ids += producer.push_many_sync(["parent", "parent"])
        for one in children:
            one.join(WAIT_S)
            assert one.exitcode == 0
            ids += results.get()
        ids.append(producer.push_sync("after"))
        assert len(set(ids)) == 1 + 2 + 9 + 1
        with server.client() as look:
            assert look.xlen(stream) == len(ids)
        asyncio.run(producer.close())

    def test_prefix(self, server: Server, stream: str) -> None:
        producer = StreamProducer(StreamClient.from_url(server.url, prefix="shop"), stream)
        producer.push_sync(1)
        with server.client() as look:
            assert look.xlen(f"shop_{stream}") == 1
        asyncio.run(producer.close())

    def test_error_of_redis_is_raised(self, server: Server, stream: str) -> None:
        with server.client() as look:
            look.set(stream, "not a stream")
        producer = StreamProducer(StreamClient.from_url(server.url), stream)
        for payloads in ([1], [1, 2]):
            with pytest.raises(Exception, match="WRONGTYPE"):
                producer.push_many_sync(payloads)
        assert producer.metrics().total_pushed == 0
        asyncio.run(producer.close())


class TestGroup:
    async def test_ensure_group_is_idempotent(self, bench: Bench) -> None:
        producer = StreamProducer(bench.client, bench.stream, group=GROUP)
        for _ in range(2):
            await producer.ensure_group()
        await producer.ensure_group("others")
        names = {g["name"] for g in await bench.client.group_info(bench.stream)}
        assert names == {GROUP, "others"}

    async def test_no_group_anywhere_is_a_value_error(self, bench: Bench) -> None:
        with pytest.raises(ValueError, match="no group given"):
            await StreamProducer(bench.client, bench.stream).ensure_group()

    @pytest.mark.parametrize("max_len", [0, -1, True, "5", 1.5])
    def test_bad_max_len(self, max_len: Any) -> None:
        with pytest.raises(ConfigError, match="max_len"):
            StreamProducer(StreamClient(), "s", max_len=max_len)

    @pytest.mark.parametrize("stream", ["", None, 5, b"s"])
    def test_bad_stream(self, stream: Any) -> None:
        with pytest.raises(ConfigError, match="stream"):
            StreamProducer(StreamClient(), stream)


class TestMetrics:
    async def test_count_what_was_pushed(self, bench: Bench) -> None:
        producer = StreamProducer(bench.client, bench.stream)
        assert producer.metrics().total_pushed == 0
        await producer.push(1)
        await producer.push_many([2, 3])
        seen = producer.metrics()
        assert (seen.total_pushed, seen.tps, seen.avg_tps) == (3, 3.0, 3.0)
        assert 0 < seen.uptime_secs < 60

    def test_all_metrics_sees_living_instances_only(self) -> None:
        gc.collect()
        before = len(StreamProducer.all_metrics())
        producers = [StreamProducer(StreamClient(), "s") for _ in range(3)]
        assert len(StreamProducer.all_metrics()) == before + 3
        del producers
        gc.collect()
        assert len(StreamProducer.all_metrics()) == before

    def test_client(self) -> None:
        client = StreamClient()
        assert StreamProducer(client, "s").client is client


class TestRetention:
    """max_len bounds finished work; what a group has not read or not acknowledged is kept."""

    @staticmethod
    async def fill(bench: Bench, count: int = 3000, max_len: int = 100) -> list[str]:
        producer = StreamProducer(bench.client, bench.stream, max_len=max_len)
        return await producer.push_many([0] * count)

    @staticmethod
    async def finish(bench: Bench, group: str, count: int, keep: int | None = None) -> None:
        """A group reads ``count`` entries and acknowledges all but number ``keep``."""
        await bench.client.create_group(bench.stream, group)
        read = await bench.client.read(bench.stream, group, "c", count, 0)
        ids = [m.id for n, m in enumerate(read) if n != keep]
        for start in range(0, len(ids), 500):
            await bench.client.ack(bench.stream, group, *ids[start : start + 500])

    async def test_a_stream_without_a_group_is_not_trimmed(self, bench: Bench) -> None:
        ids = await self.fill(bench)
        assert await bench.entry_ids() == ids

    async def test_unread_is_never_trimmed(self, bench: Bench) -> None:
        await ConsumerGroup(bench.client, bench.stream, GROUP).ensure()
        ids = await self.fill(bench)
        assert await bench.entry_ids() == ids

    async def test_finished_is_trimmed(self, real_bench: Bench) -> None:
        """Approximately, down to max_len, at a later push."""
        ids = await self.fill(real_bench)
        await self.finish(real_bench, GROUP, 3000)
        ids += await self.fill(real_bench, 1000)
        left = await real_bench.entry_ids()
        assert 1000 <= len(left) <= 1200
        assert left == ids[-len(left) :]

    async def test_not_more_than_max_len_says(self, real_bench: Bench) -> None:
        """Finished work within max_len stays to be looked at."""
        await self.fill(real_bench, 2000, max_len=2500)
        await self.finish(real_bench, GROUP, 2000)
        await self.fill(real_bench, 1000, max_len=2500)
        await self.finish(real_bench, GROUP, 1000)
        await self.fill(real_bench, 1000, max_len=2500)
        assert await real_bench.client.stream_len(real_bench.stream) >= 2500

    async def test_pending_is_never_trimmed(self, real_bench: Bench) -> None:
        """Nor anything behind it."""
        ids = await self.fill(real_bench, 2000)
        await self.finish(real_bench, GROUP, 2000, keep=700)
        ids += await self.fill(real_bench, 1000)
        left = await real_bench.entry_ids()
        assert ids[700] in left
        assert left == ids[-len(left) :]
        assert len(left) < 3000

    async def test_the_slowest_group_decides(self, real_bench: Bench) -> None:
        ids = await self.fill(real_bench, 2000)
        await self.finish(real_bench, "fast", 2000)
        await self.finish(real_bench, "slow", 500)
        await self.finish(real_bench, "stuck", 2000, keep=900)
        ids += await self.fill(real_bench, 1000)
        left = await real_bench.entry_ids()
        assert set(ids[500:]) <= set(left)
        assert len(left) < 3000

    async def test_sync_pushes_trim_too(self, redis_url: str, stream: str) -> None:
        client = StreamClient.from_url(redis_url)
        async with Bench(client, stream) as bench:
            await self.fill(bench)
            await self.finish(bench, GROUP, 3000)
            producer = StreamProducer(client, stream, max_len=100)
            await asyncio.to_thread(producer.push_many_sync, [0] * 1000)
            assert await client.stream_len(stream) <= 1200
            await producer.close()


class TestWrongArguments:
    @pytest.mark.parametrize("data", [{"a": 1, "b": 2}, "text", b"bytes"])
    async def test_push_many_of_a_single_message_is_refused(self, bench: Bench, data: Any) -> None:
        """Its keys or characters would be pushed one by one."""
        producer = StreamProducer(bench.client, bench.stream)
        with pytest.raises(TypeError, match="push_many wants a list of messages"):
            await producer.push_many(data)
        with pytest.raises(TypeError, match="push_many wants a list of messages"):
            producer.push_many_sync(data)
        assert await bench.client.stream_len(bench.stream) == 0

    def test_a_url_is_no_client(self) -> None:
        with pytest.raises(ConfigError, match="client must be a StreamClient, got a str"):
            StreamProducer("redis://localhost", "orders")  # type: ignore[arg-type]
