"""Scheduled messages: how late they are moved, and how fast where many are due at once."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import redis.asyncio as redis

from redis_stream_queue import Mover, StreamClient, StreamProducer
from redis_stream_queue.later.keys import companions

from .bench import Bench
from .figures import Figure, at_least, at_most, below, percentile
from .names import KEY
from .processes import modules
from .server import BenchServer

RATE = 500  # due in a second
CHUNK = 1000


def run(bench: Bench) -> list[Figure]:
    with BenchServer() as server, BenchServer() as idle:
        return asyncio.run(_Later(bench, server, idle.url).figures())


@dataclass(frozen=True)
class _Flood:
    """So many due at once. rewriting: Redis forks to rewrite its AOF whenever that has doubled."""

    movers: int
    count: int
    rewriting: bool = False

    def __str__(self) -> str:
        return f"movers: {self.movers}" + ", AOF rewritten" * self.rewriting

    @property
    def rewrite_percent(self) -> int:
        return 100 if self.rewriting else 0


class _Later:
    """Movers of this process, each as that of a pool, on a server with AOF everysec.

    idle_url: a server that does nothing: what a PING takes there is the machine's part.
    """

    def __init__(self, bench: Bench, server: BenchServer, idle_url: str) -> None:
        self._bench = bench
        self._server = server
        self._idle_url = idle_url
        self._client = StreamClient.from_url(server.url)
        self._raw: Any = redis.Redis.from_url(server.url)
        self._later = companions(KEY).later

    async def figures(self) -> list[Figure]:
        await self._raw.config_set("appendonly", "yes")
        rates: list[float] = []
        sizes_b: list[float] = []
        calls: dict[int, list[float]] = {2: [], 20: []}
        floods = [
            _Flood(1, self._bench.size(1_000_000, 20_000)),
            _Flood(20, self._bench.size(200_000, 20_000)),
            _Flood(1, self._bench.size(1_000_000, 20_000), rewriting=True),
        ]
        pings: dict[_Flood, list[tuple[float, float]]] = {flood: [] for flood in floods}
        late: dict[int, list[list[float]]] = {2: [], 20: []}
        for _ in self._bench.each_round():
            for flood in floods:
                sizes_b.append(await self._fill(flood.count))
                await self._raw.config_set("auto-aof-rewrite-percentage", flood.rewrite_percent)
                rate, *p99 = await self._at_once(flood.movers, flood.count)
                pings[flood].append((p99[0], p99[1]))
                rates += [rate] if flood is floods[0] else []
            for movers, found in late.items():
                values, each = await self._in_time(movers, self._bench.size(30, 3))
                found.append(values)
                calls[movers].append(each)
        await self._client.close()
        await self._raw.aclose()
        return [
            Figure("many due at once, moved", "/s", rates, goal=at_least(100_000, "/s")),
            *(
                Figure(
                    f"another process' PING meanwhile, {flood}, p99",
                    "ms",
                    [busy for busy, _ in found],
                    [idle for _, idle in found],
                    "a server that is idle",
                    goal=None if flood.rewriting else below(5, "ms"),
                )
                for flood, found in pings.items()
            ),
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
            *(
                Figure(f"calls for each of them, {movers} movers", "", of, goal=at_most(3, ""))
                for movers, of in calls.items()
            ),
            Figure(
                "bytes of a scheduled one beside its payload", "B", sizes_b, goal=at_most(160, "B")
            ),
        ]

    async def _fill(self, count: int) -> float:
        """Schedule so many for now; how many bytes each takes beside its payload."""
        self._server.empty()
        due = int(time.time() * 1000)
        payload = '{"n":12345678,"pad":"' + "x" * 80 + '"}'
        for start in range(0, count, CHUNK):
            numbers = range(start, min(start + CHUNK, count))
            members = {f"{due:013d}-{n:012d}:0:{payload}": due for n in numbers}
            await self._raw.zadd(self._later, members)
        server = self._server.client
        self._server.wait(
            lambda: not server.info("persistence")["aof_rewrite_in_progress"], 60, "AOF is written"
        )
        size_b: int = await self._raw.memory_usage(self._later, samples=0)
        return size_b / count - len(payload)

    async def _at_once(self, movers: int, count: int) -> list[float]:
        """Messages a second; how long another process' PING takes meanwhile and, at the same time,
        at a server that is idle, p99 in ms."""
        with modules(1, "pings", self._server.url, self._idle_url) as [pings]:
            assert pings.stdout
            pings.stdout.readline()
            began_s = time.perf_counter()
            async with self._moving(movers):
                await self._all_moved()
            rate = count / (time.perf_counter() - began_s)
            waits, _ = pings.communicate("\n")
        return [rate, *map(float, waits.split())]

    async def _all_moved(self) -> None:
        while True:
            if not await self._raw.zcard(self._later):
                return
            await asyncio.sleep(0.02)

    async def _in_time(self, movers: int, seconds: int) -> tuple[list[float], float]:
        """How late each was in the stream, in ms; and how many calls that took for each."""
        self._server.empty()
        await self._raw.config_resetstat()
        producer = StreamProducer(self._client, KEY, max_len=None)

        async with self._moving(movers):
            began_s = time.perf_counter()
            for n in range(seconds * RATE):
                wait_s = began_s + n / RATE - time.perf_counter()
                await asyncio.sleep(max(wait_s, 0))
                await producer.push(n, delay_ms=5 + n * 37 % 3000)
            await self._all_moved()
            scripts = (await self._raw.info("commandstats"))["cmdstat_evalsha"]["calls"]
        entries = await self._raw.xrange(KEY)
        late = [
            float(int(entry_id.split(b"-")[0]) - int(fields[b"rsq:scheduled"][1:14]))
            for entry_id, fields in entries
        ]
        return late, scripts / len(late) - 1  # one was the push

    @asynccontextmanager
    async def _moving(self, movers: int) -> AsyncIterator[None]:
        tasks = [asyncio.create_task(Mover(self._client, KEY).run()) for _ in range(movers)]
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
