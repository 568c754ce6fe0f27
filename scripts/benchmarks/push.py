"""Pushing, one by one and together, beside what redis.asyncio and the package 0.1.3 do."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import redis.asyncio as redis

from redis_stream_queue import JsonSerializer, StreamClient, StreamProducer

from . import original
from .bench import Bench
from .figures import Figure, ratio_at_least
from .names import GROUP, KEY
from .server import BenchServer

CHUNK = 1000  # messages per round trip of push_many, of the pipeline, and per gather
PIPELINE = "redis.asyncio pipeline"

Push = Callable[[Sequence[Any]], Awaitable[Any]]


def run(bench: Bench) -> list[Figure]:
    original.install()
    with BenchServer(tcp=True) as server:  # 0.1.3 knows no other way
        return asyncio.run(_Pushes(bench, server).figures())


class _Pushes:
    def __init__(self, bench: Bench, server: BenchServer) -> None:
        self._bench = bench
        self._server = server
        self._ours = StreamClient.from_url(server.url)
        self._raw = redis.Redis.from_url(server.url)
        self._producer = StreamProducer(self._ours, KEY, group=GROUP)
        package = original.load()
        self._original = package.StreamProducer(package.StreamClient.from_url(server.url), KEY)
        self._encode = JsonSerializer().encode
        self._rates: dict[str, list[float]] = {}

    async def figures(self) -> list[Figure]:
        few = [self._item(i) for i in range(self._bench.size(5000, 500))]
        many = [self._item(i) for i in range(self._bench.size(50_000, 5000))]
        ready = [self._encode(item) for item in many]
        for _ in self._bench.each_round():
            await self._measure("raw one", self._raw_one_by_one, few)
            await self._measure("one", self._one_by_one, few)
            await self._measure("original one", self._original_one_by_one, few)
            await self._measure("gather", self._gather, few)
            await self._measure("raw json", self._pipeline_json, many)
            await self._measure("json", self._producer.push_many, many)
            await self._measure("raw bytes", self._pipeline, ready)
            await self._measure("bytes", self._push_bytes, ready)
        await self._producer.close()
        await self._original.close()
        await self._raw.aclose()
        return self._table()

    def _table(self) -> list[Figure]:
        rates = self._rates
        return [
            Figure("push, one by one", "msg/s", rates["one"], rates["raw one"], "await xadd()"),
            Figure(
                "push, one by one",
                "msg/s",
                rates["one"],
                rates["original one"],
                f"{original.VERSION}, push",
                ratio_at_least(1),
            ),
            Figure(
                f"push, {CHUNK} in a gather",
                "msg/s",
                rates["gather"],
                rates["one"],
                "push, one by one",
                ratio_at_least(5),
            ),
            Figure(
                "push_many, JSON",
                "msg/s",
                rates["json"],
                rates["raw json"],
                f"{PIPELINE}, JSON",
                ratio_at_least(2.2),
            ),
            Figure(
                "push_many, ready bytes",
                "msg/s",
                rates["bytes"],
                rates["raw bytes"],
                f"{PIPELINE}, bytes",
                ratio_at_least(4),
            ),
        ]

    @staticmethod
    def _item(number: int) -> dict[str, Any]:
        return {"number": number, "text": "a small message", "ok": True}

    async def _measure(self, name: str, push: Push, items: Sequence[Any]) -> None:
        self._server.empty()
        await push(items[:CHUNK])  # connected, script loaded
        self._server.client.xtrim(KEY, maxlen=0, approximate=False)
        begin = time.perf_counter()
        await push(items)
        rate = len(items) / (time.perf_counter() - begin)
        length = int(self._server.client.xlen(KEY))
        assert length == len(items), f"{name}: {length} of {len(items)} arrived"
        self._rates.setdefault(name, []).append(rate)

    # -- ours ----------------------------------------------------------------------------------

    async def _one_by_one(self, items: Sequence[Any]) -> None:
        for item in items:
            await self._producer.push(item)

    async def _gather(self, items: Sequence[Any]) -> None:
        for start in range(0, len(items), CHUNK):
            await asyncio.gather(*map(self._producer.push, items[start : start + CHUNK]))

    async def _push_bytes(self, items: Sequence[bytes]) -> None:
        await self._ours.push_many(KEY, items)

    # -- redis-stream-queue 0.1.3 ----------------------------------------------------------------

    async def _original_one_by_one(self, items: Sequence[Any]) -> None:
        for item in items:
            await self._original.push(item)

    # -- redis.asyncio -------------------------------------------------------------------------

    async def _raw_one_by_one(self, items: Sequence[Any]) -> None:
        for item in items:
            await self._raw.xadd(KEY, {"data": self._encode(item)})

    async def _pipeline_json(self, items: Sequence[Any]) -> None:
        await self._pipeline([self._encode(item) for item in items])

    async def _pipeline(self, items: Sequence[bytes]) -> None:
        for start in range(0, len(items), CHUNK):
            async with self._raw.pipeline(transaction=False) as pipeline:
                for item in items[start : start + CHUNK]:
                    pipeline.xadd(KEY, {"data": item})
                await pipeline.execute()
