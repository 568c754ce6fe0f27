"""A hand on what runs: how soon a pause and a cancellation are heard."""

from __future__ import annotations

import asyncio
import random
import time
from contextlib import ExitStack
from pathlib import Path

from redis_stream_queue import StreamClient, StreamProducer
from tests.support.waiting import wait_until_async

from .bench import Bench
from .figures import Figure, at_most
from .names import GROUP, KEY
from .notes import Note, count_notes, read_notes
from .processes import pool
from .server import BenchServer

TIMEOUT_S = 15.0
LOAD = 300  # messages of 5 ms: some hundred ms for two pools of two
HEARD_S = 0.3  # whatever starts so long after a pause has not heard of it at all


def run(bench: Bench) -> list[Figure]:
    with BenchServer() as server:
        return asyncio.run(_Control(bench, server).figures())


class _Control:
    """Pools as on two hosts: one with a plain handler, one with an async one."""

    def __init__(self, bench: Bench, server: BenchServer) -> None:
        self._bench = bench
        self._server = server
        self._client = StreamClient.from_url(server.url)
        self._producer = StreamProducer(self._client, KEY, max_len=None)

    async def figures(self) -> list[Figure]:
        paused, cancelled = [], dict[str, list[float]](held=[], held_async=[])
        for _ in self._bench.each_round():
            paused.append(max(await self._pauses(self._bench.size(30, 5))))
            for handler, most in cancelled.items():
                most.append(max(await self._cancels(handler, self._bench.size(20, 5))))
        await self._client.close()
        return [
            Figure("pause under load, last start", "ms", paused, goal=at_most(50, "ms")),
            *(
                Figure(f"cancel a running {kind} handler", "ms", most, goal=at_most(100, "ms"))
                for kind, most in zip(("plain", "async"), cancelled.values(), strict=True)
            ),
        ]

    async def _pauses(self, count: int) -> list[float]:
        """When the last message started, in ms after the answer to each pause."""
        self._server.empty()
        notes, found = self._bench.new_directory(), []
        with ExitStack() as pools:
            for handler in ("short", "short_async"):
                cwd = self._bench.new_directory()
                one = pool(self._server, handler, 2, cwd=cwd, notes=notes, wait=False)
                pools.enter_context(one)
            for _ in range(count):
                before = count_notes(str(notes))
                await self._producer.push_many([{}] * LOAD)
                await self._noted(notes, before + 1)
                await asyncio.sleep(random.uniform(0.05, 0.15))
                await self._client.pause(KEY, GROUP)
                said_ns = time.monotonic_ns()
                await asyncio.sleep(HEARD_S)
                last_ns = max(note.first for note in read_notes(str(notes)))
                found.append((last_ns - said_ns) / 1e6)
                await self._client.resume(KEY, GROUP)
                await asyncio.to_thread(self._server.wait_done, TIMEOUT_S)
        return found

    async def _cancels(self, handler: str, count: int) -> list[float]:
        """From each call of cancel() until the handler was interrupted, in ms."""
        self._server.empty()
        notes, found = self._bench.new_directory(), []
        with pool(self._server, handler, 2, cwd=self._bench.new_directory(), notes=notes):
            for number in range(count):
                entry_id = await self._producer.push({})
                await self._noted(notes, 2 * number + 1)
                began_ns = time.monotonic_ns()
                await self._client.cancel(KEY, entry_id)
                last = max(await self._noted(notes, 2 * number + 2), key=lambda note: note.first)
                found.append((last.first - began_ns) / 1e6)
        return found

    async def _noted(self, notes: Path, count: int) -> list[Note]:
        """All notes, once there are so many."""
        await wait_until_async(
            lambda: count_notes(str(notes)) >= count, TIMEOUT_S, f"{count} notes"
        )
        return read_notes(str(notes))
