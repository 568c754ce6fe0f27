"""Scheduled messages: how late they are moved, and how fast where many are due at once."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any

import redis.asyncio as redis

from redis_stream_queue import Mover, StreamClient, StreamProducer
from redis_stream_queue.later.keys import companions

from .bench import Bench
from .figures import Figure, at_least, at_most, below, percentile
from .names import KEY
from .server import BenchServer

PAUSE_S = 0.002  # between two pings of another client
RATE = 500  # due in a second
CHUNK = 1000


def run(bench: Bench) -> list[Figure]:
    with BenchServer() as server:
        return asyncio.run(_Later(bench, server).figures())


class _Later:
    """Movers of this process, each as that of a pool, on a server with AOF everysec."""

    def __init__(self, bench: Bench, server: BenchServer) -> None:
        self._bench = bench
        self._server = server
        self._client = StreamClient.from_url(server.url)
        self._raw: Any = redis.Redis.from_url(server.url)
        self._later = companions(KEY).later

    async def figures(self) -> list[Figure]:
        await self._raw.config_set("appendonly", "yes")
        rates: list[float] = []
        others: list[float] = []
        late: dict[int, list[list[float]]] = {2: [], 20: []}
        for _ in self._bench.each_round():
            rate, waits = await self._at_once(self._bench.size(1_000_000, 20_000))
            rates.append(rate)
            others.append(percentile(waits, 99))
            for movers, found in late.items():
                found.append(await self._in_time(movers, self._bench.size(30, 3)))
        await self._client.close()
        await self._raw.aclose()
        return [
            Figure("many due at once, moved", "/s", rates, goal=at_least(100_000, "/s")),
            Figure("others' PING meanwhile, p99", "ms", others, goal=below(5, "ms")),
            *(
                Figure(
                    f"lateness at {RATE}/s, {movers} movers, p{percent}",
                    "ms",
                    [percentile(values, percent) for values in found],
                    goal=at_most(most, "ms"),
                )
                for movers, found in late.items()
                for percent, most in ((50, 5), (99, 25))
            ),
        ]

    async def _at_once(self, count: int) -> tuple[float, list[float]]:
        """Messages a second, and how long others waited, in ms."""
        self._server.empty()
        due = int(time.time() * 1000)
        payload = '{"n":12345678,"pad":"' + "x" * 80 + '"}'
        for start in range(0, count, CHUNK):
            numbers = range(start, min(start + CHUNK, count))
            members = {f"{due:013d}-{n:012d}:0:{payload}": due for n in numbers}
            await self._raw.zadd(self._later, members)
        return await self._while_moving(1, lambda: self._seconds(count))

    async def _seconds(self, count: int) -> float:
        began_s = time.perf_counter()
        await self._all_moved()
        return count / (time.perf_counter() - began_s)

    async def _all_moved(self) -> None:
        while True:
            if not await self._raw.zcard(self._later):
                return
            await asyncio.sleep(0.02)

    async def _in_time(self, movers: int, seconds: int) -> list[float]:
        """How late each was in the stream, in ms."""
        self._server.empty()
        producer = StreamProducer(self._client, KEY, max_len=None)

        async def push() -> float:
            began_s = time.perf_counter()
            for n in range(seconds * RATE):
                wait_s = began_s + n / RATE - time.perf_counter()
                await asyncio.sleep(max(wait_s, 0))
                await producer.push(n, delay_ms=5 + n * 37 % 3000)
            await self._all_moved()
            return 0.0

        await self._while_moving(movers, push)
        entries = await self._raw.xrange(KEY)
        return [
            int(entry_id.split(b"-")[0]) - int(fields[b"rsq:scheduled"][1:14])
            for entry_id, fields in entries
        ]

    async def _while_moving(
        self, movers: int, work: Callable[[], Awaitable[float]]
    ) -> tuple[float, list[float]]:
        waits: list[float] = []

        async def ping() -> None:
            while True:
                began_s = time.perf_counter()
                await self._raw.ping()
                waits.append((time.perf_counter() - began_s) * 1000)
                await asyncio.sleep(PAUSE_S)

        running = [Mover(self._client, KEY).run() for _ in range(movers)]
        tasks = [asyncio.ensure_future(task) for task in (*running, ping())]
        try:
            return await work(), waits
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
