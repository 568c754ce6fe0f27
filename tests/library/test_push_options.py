"""Headers, time limits and refusals of a push, on every way of pushing."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from typing import Any

import pytest
from redis.exceptions import ResponseError

from redis_stream_queue import ConfigError, StreamClient, StreamProducer
from tests.library.kit import WAIT_S, Bench
from tests.support.servers import Server
from tests.support.waiting import wait_until_async

HEADERS = {"traceparent": "00-ab-cd-01", "tenant": "Ä"}
LIMIT = 1 << 20
LARGE = "x" * (2 * LIMIT)

Way = Callable[[StreamProducer, dict[str, str] | None], Awaitable[object]]

WAYS: dict[str, Way] = {
    "push": lambda p, h: p.push("x", headers=h),
    "gather": lambda p, h: asyncio.gather(*(p.push("x", headers=h) for _ in range(3))),
    "push_many": lambda p, h: p.push_many(["x", "x"], headers=h),
    "push_sync": lambda p, h: asyncio.to_thread(p.push_sync, "x", headers=h),
    "push_many_sync": lambda p, h: asyncio.to_thread(p.push_many_sync, ["x", "x"], headers=h),
    "client.push": lambda p, h: p.client.push(p.stream, b'"x"', headers=h),
    "client.push_many": lambda p, h: p.client.push_many(p.stream, [b'"x"'] * 2, headers=h),
}
SYNC = [name for name in WAYS if "sync" in name]


async def _headers(client: StreamClient, stream: str) -> list[dict[str, str]]:
    entries = await client.command("XRANGE", stream, "-", "+")
    ids = [entry_id.decode() for entry_id, _ in entries]
    return [message.headers for message in await client.fetch_by_ids(stream, ids)]


class TestHeaders:
    @pytest.mark.parametrize("way", [name for name in WAYS if name not in SYNC])
    async def test_arrive_beside_the_payload(self, bench: Bench, way: str) -> None:
        await WAYS[way](StreamProducer(bench.client, bench.stream), HEADERS)
        found = await _headers(bench.client, bench.stream)
        assert found
        assert all(headers == HEADERS for headers in found)

    @pytest.mark.parametrize("way", SYNC)
    async def test_of_sync_pushes(self, redis_url: str, stream: str, way: str) -> None:
        producer = StreamProducer(StreamClient.from_url(redis_url), stream)
        await WAYS[way](producer, HEADERS)
        found = await _headers(producer.client, stream)
        assert found
        assert all(headers == HEADERS for headers in found)
        await producer.close()

    async def test_pushes_of_one_moment_keep_their_own(self, bench: Bench) -> None:
        producer = StreamProducer(bench.client, bench.stream)
        await asyncio.gather(*(producer.push(n, headers={"n": str(n)}) for n in range(50)))
        found = await _headers(bench.client, bench.stream)
        assert sorted(int(headers["n"]) for headers in found) == list(range(50))

    @pytest.mark.parametrize("way", WAYS)
    @pytest.mark.parametrize(
        "headers",
        [{"rsq:x": "1"}, {"data": "1"}, {"": "1"}, {"a": 1}, {1: "a"}, ["a"],
         {str(n): "" for n in range(1001)}, {"a": "\ud800"}, {"\udcff": "a"}],
        ids=["ours", "payload", "empty", "number", "number-name", "list", "many",
             "no-text", "no-text-name"],
    )  # fmt: skip
    async def test_that_cannot_be_are_refused(self, way: str, headers: Any) -> None:
        """Before anything is sent: nobody listens there."""
        producer = StreamProducer(StreamClient.from_url("redis://127.0.0.1:1"), "s")
        with pytest.raises(ConfigError, match="header"):
            await WAYS[way](producer, headers)


async def test_headers_that_are_no_text_fail_alone(real_bench: Bench) -> None:
    producer = StreamProducer(real_bench.client, real_bench.stream)
    pushes = [producer.push(n, headers={"n": "\udcff" if n == 2 else "x"}) for n in range(5)]
    results = await asyncio.gather(*pushes, return_exceptions=True)
    assert isinstance(results.pop(2), ConfigError)
    assert sorted(await real_bench.entry_ids()) == sorted(map(str, results))


class TestTimeout:
    """timeout_s bounds the whole call; a frozen server holds nobody longer."""

    @pytest.fixture
    def frozen(self, stream: str) -> Iterator[StreamProducer]:
        with Server.start("valkey-9.1", tcp=True) as server:
            producer = StreamProducer(StreamClient.from_url(server.url), stream)
            producer.push_sync("the connection is open")
            server.pause()
            yield producer
            server.resume()

    @pytest.mark.parametrize(
        "push",
        [
            lambda p: p.push("x", timeout_s=0.2),
            lambda p: asyncio.gather(*(p.push("x", timeout_s=0.2) for _ in range(3))),
            lambda p: p.push_many(["x"] * 3, timeout_s=0.2),
            lambda p: asyncio.to_thread(p.push_sync, "x", timeout_s=0.2),
            lambda p: asyncio.to_thread(p.push_many_sync, ["x"] * 3, timeout_s=0.2),
        ],
        ids=["push", "gather", "push_many", "push_sync", "push_many_sync"],
    )
    async def test_of_a_server_that_does_not_answer(
        self, frozen: StreamProducer, push: Callable[[StreamProducer], Awaitable[object]]
    ) -> None:
        for _ in range(2):  # on the open connection, and on a new one
            began = time.monotonic()
            with pytest.raises(TimeoutError, match="may or may not be in the stream"):
                await push(frozen)
            assert time.monotonic() - began < 1.5
        with contextlib.suppress(Exception):
            await StreamClient.close_all()

    async def test_who_waits_for_others_is_not_sent_when_it_gives_up(
        self, redis_url: str, stream: str
    ) -> None:
        producer = StreamProducer(StreamClient.from_url(redis_url), stream)
        first = asyncio.ensure_future(producer.push("first"))
        second = asyncio.ensure_future(producer.push("second"))
        await asyncio.sleep(0)
        second.cancel()
        await asyncio.wait([first, second])
        assert await producer.client.stream_len(stream) == 1
        await producer.close()

    @pytest.mark.parametrize("timeout_s", [float("nan"), "1", True, [1]], ids=repr)
    async def test_that_is_no_number_is_refused(self, timeout_s: Any) -> None:
        """Before anything is sent: nobody listens there. (NaN upsets the loop's timers.)"""
        producer = StreamProducer(StreamClient.from_url("redis://127.0.0.1:1"), "s")
        for push in (producer.push, lambda *a, **k: asyncio.to_thread(producer.push_sync, *a, **k)):
            with pytest.raises(ConfigError, match="timeout_s must be a number of seconds"):
                await push("x", timeout_s=timeout_s)
        with pytest.raises(ConfigError, match="timeout_s must be a number of seconds"):
            await producer.push_many(["x"], timeout_s=timeout_s)

    @pytest.mark.parametrize("timeout_s", [1e308, float("inf"), 10**400], ids=["e", "inf", "int"])
    async def test_that_is_huge_is_no_limit(
        self, redis_url: str, stream: str, timeout_s: float
    ) -> None:
        client = StreamClient.from_url(redis_url, socket_timeout=None, socket_connect_timeout=None)
        producer = StreamProducer(client, stream)
        await producer.push("x", timeout_s=timeout_s)
        await asyncio.to_thread(producer.push_sync, "x", timeout_s=timeout_s)
        assert await client.stream_len(stream) == 2
        await producer.close()

    async def test_in_time_is_an_id(self, bench: Bench) -> None:
        producer = StreamProducer(bench.client, bench.stream)
        ids = [await producer.push("x", timeout_s=WAIT_S)]
        ids += await producer.push_many(["x"], timeout_s=WAIT_S)
        assert await bench.entry_ids() == ids


class TestTooLarge:
    """A push that the server refuses for its size fails alone, with size and limit in the text."""

    @pytest.fixture
    def small_server(self) -> Iterator[Server]:
        with Server.start("redis-8.2", extra_args=["--proto-max-bulk-len", "1mb"]) as server:
            yield server

    @pytest.fixture
    async def producer(self, small_server: Server, stream: str) -> AsyncIterator[StreamProducer]:
        producer = StreamProducer(StreamClient.from_url(small_server.url), stream)
        yield producer
        await producer.close()

    @staticmethod
    def named(error: object) -> bool:
        return isinstance(error, ResponseError) and "2,097,154 bytes" in str(error) and (
            "proto-max-bulk-len of 1,048,576 bytes" in str(error)
        )  # fmt: skip

    async def test_the_next_push_is_fine(self, producer: StreamProducer) -> None:
        for _ in range(3):
            with pytest.raises(ResponseError) as caught:
                await producer.push(LARGE)
            assert self.named(caught.value)
            await producer.push("small")
        assert await producer.client.stream_len(producer.stream) == 3

    @pytest.mark.parametrize("place", [0, 5, 19])
    async def test_in_a_gather(self, producer: StreamProducer, place: int) -> None:
        payloads = ["small"] * 20
        payloads[place] = LARGE
        results = await asyncio.gather(*map(producer.push, payloads), return_exceptions=True)
        assert self.named(results.pop(place))
        assert all(isinstance(result, str) for result in results)
        assert await producer.client.stream_len(producer.stream) == 19
        assert producer.metrics().total_pushed == 19

    @pytest.mark.parametrize("count", [1, 3])
    async def test_in_push_many(self, producer: StreamProducer, count: int) -> None:
        payloads: Sequence[str] = ["small"] * 1500 + [LARGE] * count + ["small"] * 1500
        for push in (producer.push_many, lambda p: asyncio.to_thread(producer.push_many_sync, p)):
            before = await producer.client.stream_len(producer.stream)
            with pytest.raises(ResponseError) as caught:
                await push(payloads)
            assert self.named(caught.value)
            assert await producer.client.stream_len(producer.stream) - before == 3000

    async def test_push_sync(self, producer: StreamProducer) -> None:
        with pytest.raises(ResponseError) as caught:
            await asyncio.to_thread(producer.push_sync, LARGE)
        assert self.named(caught.value)
        assert await asyncio.to_thread(producer.push_sync, "small")


def test_closing_waits_for_the_pushes_of_its_own_loop_alone(server: Server, stream: str) -> None:
    """Threads share the producer; each has a loop with pushes under way."""
    producer = StreamProducer(StreamClient.from_url(server.url), stream)
    under_way, closed = threading.Event(), threading.Event()

    async def push_and_close() -> None:
        pushes = [asyncio.create_task(producer.push(n)) for n in range(5)]
        await wait_until_async(lambda: producer._outbox._tasks, WAIT_S, "they are under way")
        under_way.set()
        await asyncio.to_thread(closed.wait, WAIT_S)
        server.resume()
        await asyncio.gather(*pushes)
        await producer.close()

    producer.push_sync("the server is there")
    server.pause()
    thread = threading.Thread(target=asyncio.run, args=(push_and_close(),))
    thread.start()
    assert under_way.wait(WAIT_S)
    try:
        asyncio.run(producer.close())
    finally:
        closed.set()
        thread.join(WAIT_S)
        server.resume()
    with server.client() as look:
        assert look.xlen(stream) == 6


async def test_max_len_none_trims_nothing(real_bench: Bench) -> None:
    producer = StreamProducer(real_bench.client, real_bench.stream, max_len=None)
    await real_bench.client.create_group(real_bench.stream, "g")
    ids = await producer.push_many([0] * 2500)
    ids += [await producer.push(0)]
    ids += await asyncio.to_thread(producer.push_many_sync, [0] * 1500)
    assert await real_bench.entry_ids() == ids


async def test_ensure_group_helps_after_flushall_and_del(redis_url: str, stream: str) -> None:
    client = StreamClient.from_url(redis_url)
    producer = StreamProducer(client, stream, group="g")
    for command in (("DEL", stream), ("FLUSHALL",)):
        await producer.ensure_group()
        await client.link().call(stream, *command)
    await producer.ensure_group()
    assert [group["name"] for group in await client.group_info(stream)] == ["g"]
    await client.close()
