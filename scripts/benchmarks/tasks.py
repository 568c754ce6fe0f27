"""Tasks beside plain messages that carry the same: pushing, draining; and what importing costs."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Any

from redis_stream_queue import Queue, StreamClient, StreamProducer

from .bench import Bench
from .figures import Figure, Goal, ratio_at_least, ratio_at_most
from .names import GROUP, KEY
from .processes import pool
from .server import SMALL, BenchServer
from .task_app import noted

WORKERS = 2
TOGETHER = 1000  # pushes in a gather
VALUES = (123456, "a small message", True)
NAMES = ("number", "text", "ok")
STARTS = 10  # of an interpreter, per figure and round

# name of the figure, what is imported, what by itself, and what may come on top of that
IMPORTS = (
    ("import of the package", "import redis_stream_queue", "import typing", "typing alone", 1.05),
    (
        "import of client and producer",
        "from redis_stream_queue import StreamClient, StreamProducer",
        "import redis.asyncio, msgpack",
        "redis.asyncio, msgpack",
        None,
    ),
    (
        "import of Queue",
        "from redis_stream_queue import Queue",
        "import redis.asyncio, msgpack",
        "redis.asyncio, msgpack",
        None,
    ),
)

Push = Callable[[int], Awaitable[Any]]


def run(bench: Bench) -> list[Figure]:
    with BenchServer() as server:
        pushed = asyncio.run(_pushes(bench, server))
        return [*pushed, *_drains(bench, server), *_imports(bench)]


# -- pushing ---------------------------------------------------------------------------------------


async def _pushes(bench: Bench, server: BenchServer) -> list[Figure]:
    client = StreamClient.from_url(server.url)
    producer = StreamProducer(client, KEY, group=GROUP)
    task = Queue(KEY, client=client, group=GROUP).task(noted.func)
    item = dict(zip(NAMES, VALUES, strict=True))
    few, many = bench.size(5000, 500), bench.size(50_000, 5000)
    plain, call = partial(producer.push, item), partial(task.push, *VALUES)
    cases: list[tuple[str, int, Push, Push]] = [
        ("one by one", few, partial(_one_by_one, call), partial(_one_by_one, plain)),
        (f"{TOGETHER} in a gather", few, partial(_gather, call), partial(_gather, plain)),
        (
            "push_many",
            many,
            lambda count: task.push_many([VALUES] * count),
            lambda count: producer.push_many([item] * count),
        ),
    ]
    ours: dict[str, list[float]] = defaultdict(list)
    base: dict[str, list[float]] = defaultdict(list)
    for _ in bench.each_round():
        for name, count, push, push_plain in cases:
            base[name].append(await _push_rate(server, push_plain, count))
            ours[name].append(await _push_rate(server, push, count))
    await producer.close()
    return [
        Figure(f"calls, {name}", "msg/s", ours[name], base[name], "messages", ratio_at_least(0.8))
        for name, *_ in cases
    ]


async def _one_by_one(push: Callable[[], Awaitable[Any]], count: int) -> None:
    for _ in range(count):
        await push()


async def _gather(push: Callable[[], Awaitable[Any]], count: int) -> None:
    for start in range(0, count, TOGETHER):
        await asyncio.gather(*[push() for _ in range(min(TOGETHER, count - start))])


async def _push_rate(server: BenchServer, push: Push, count: int) -> float:
    server.empty()
    await push(1)  # connected
    await push(2)  # script loaded
    begin = time.perf_counter()
    await push(count)
    return count / (time.perf_counter() - begin)


# -- draining --------------------------------------------------------------------------------------


def _drains(bench: Bench, server: BenchServer) -> list[Figure]:
    """A pool on default settings, from the first read to the last acknowledgement."""
    payload, headers = asyncio.run(_as_pushed(server))
    cases = [("plain", "queue", "each"), ("async", "queue_async", "each_async")]
    count = bench.size(200_000, 20_000)
    ours: dict[str, list[float]] = defaultdict(list)
    base: dict[str, list[float]] = defaultdict(list)
    for _ in bench.each_round():
        for kind, queue, handler in cases:
            base[kind].append(_drain_rate(bench, server, "app", handler, count, SMALL, ()))
            rate = _drain_rate(bench, server, "task_app", queue, count, payload, headers)
            ours[kind].append(rate)
    return [
        Figure(
            f"drain by a pool of {WORKERS}, {kind}",
            "msg/s",
            ours[kind],
            base[kind],
            "@per_message",
            ratio_at_least(0.8),
        )
        for kind, *_ in cases
    ]


async def _as_pushed(server: BenchServer) -> tuple[str, list[str]]:
    """Payload and headers of a call."""
    server.empty()
    client = StreamClient.from_url(server.url)
    job = await Queue(KEY, client=client, group=GROUP).task(noted.func).push(*VALUES)
    await client.close()
    entries: Any = server.client.xrange(KEY, job.id, job.id)
    [(_, fields)] = entries
    headers = {name.decode(): value.decode() for name, value in fields.items()}
    return headers.pop("data"), [part for pair in headers.items() for part in pair]


def _drain_rate(
    bench: Bench,
    server: BenchServer,
    app: str,
    handler: str,
    count: int,
    payload: str,
    headers: Sequence[str],
) -> float:
    server.empty()
    with pool(server, handler, WORKERS, cwd=bench.new_directory(), app=app):
        started = server.fill(count, payload, headers=headers)
        return count * 1e9 / (server.wait_done() - started)


# -- importing -------------------------------------------------------------------------------------


def _imports(bench: Bench) -> list[Figure]:
    """Processor time of an interpreter that imports this, and nothing else."""
    starts = bench.size(STARTS, 3)
    for _, what, *_ in IMPORTS:
        _start_ms(what)  # compiles what has never been compiled
    ours: dict[str, list[float]] = defaultdict(list)
    base: dict[str, list[float]] = defaultdict(list)
    for _ in bench.each_round():
        for name, what, beside, *_ in IMPORTS:
            taken = [(_start_ms(beside), _start_ms(what)) for _ in range(starts)]
            base[name].append(min(before for before, _ in taken))
            ours[name].append(min(after for _, after in taken))
    return [
        Figure(name, "ms", ours[name], base[name], versus, _at_most(most))
        for name, _, _, versus, most in IMPORTS
    ]


def _at_most(most: float | None) -> Goal | None:
    return None if most is None else ratio_at_most(most)


def _start_ms(statement: str) -> float:
    child = subprocess.Popen([sys.executable, "-c", statement])
    _, status, used = os.wait4(child.pid, 0)
    child.returncode = os.waitstatus_to_exitcode(status)
    assert child.returncode == 0, statement
    return (used.ru_utime + used.ru_stime) * 1000
