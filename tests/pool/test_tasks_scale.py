"""Tasks in numbers: a hundred thousand results while workers die, a task that is renamed under
load, and limits that end nobody else."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import random
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import redis

from redis_stream_queue import Job, Queue
from redis_stream_queue.later.keys import companions
from tests.pool.noted import did, noted
from tests.support.pool import PoolProcess
from tests.support.rsq import rsq
from tests.support.waiting import wait_until

Note = Callable[[str, object], None]

JOBS = 100_000
WAVE = 100  # jobs that are waited for at a time
TTL_S = 60
KILL_EVERY_S = 2.0
SPARE_BYTES = 1 << 18

DOUBLES = f"""
import asyncio
from redis_stream_queue import Queue

queue = Queue("work", max_len=1000, max_stream_size=1000, retry_delay_ms=20)

@queue.task(result_ttl_s={TTL_S})
def double(number: int) -> int:
    return number * 2

@queue.task(result_ttl_s={TTL_S}, concurrency=50)
async def doubled(number: int) -> int:
    await asyncio.sleep(0.001)
    return number * 2
"""


@contextlib.contextmanager
def killing(pool: PoolProcess, every_s: float) -> Iterator[list[int]]:
    """Meanwhile one worker after the other gets a kill -9; gives who did."""
    killed: list[int] = []
    ended = threading.Event()

    def kill() -> None:
        while not ended.wait(every_s):
            if workers := pool.workers():
                killed.append(random.choice(workers))
                with contextlib.suppress(ProcessLookupError):
                    os.kill(killed[-1], signal.SIGKILL)

    thread = threading.Thread(target=kill)
    thread.start()
    try:
        yield killed
    finally:
        ended.set()
        thread.join()


@pytest.mark.soak
@pytest.mark.timeout(1200)
def test_a_hundred_thousand_results_are_read_right_while_workers_die(
    pool_url: str, tmp_path: Path, imported: Callable[[str], Any], record_property: Note
) -> None:
    """By one to five that wait for each; each is kept once, and the memory is free in the end."""
    app, beside = imported(DOUBLES), companions("work")
    times = [1 + number % 5 for number in range(WAVE)]

    async def wave(first: int) -> list[Job[int]]:
        numbers = range(first, first + WAVE)
        jobs: list[Job[int]] = []
        for task, own in ((app.double, numbers[::2]), (app.doubled, numbers[1::2])):
            jobs += await task.push_many([(number,) for number in own])
        waits = [job.result(60) for job, n in zip(jobs, times, strict=True) for _ in range(n)]
        wanted = [2 * number for number in (*numbers[::2], *numbers[1::2])]
        assert await asyncio.gather(*waits) == [
            value for value, n in zip(wanted, times, strict=True) for _ in range(n)
        ]
        return jobs

    async def ask() -> int:
        most = 0
        for first in range(0, JOBS, WAVE):
            jobs = await wave(first)
            with server.pipeline(transaction=False) as asked:
                for job in jobs:
                    asked.llen(beside.result(job.id))
                assert set(asked.execute()) == {1}
            most = max(most, server.info("memory")["used_memory"])
        await app.queue.close()
        return most

    args = ("--workers", "2", "--max-deliveries", "50")
    with redis.Redis.from_url(pool_url) as server:
        start = server.info("memory")["used_memory"]
        with PoolProcess(None, *args, url=pool_url, cwd=tmp_path, target="tasks_app:queue") as pool:
            pool.wait_ready()
            began_s = time.monotonic()
            with killing(pool, KILL_EVERY_S) as killed:
                most = asyncio.run(ask())
            took_s = time.monotonic() - began_s
            assert pool.drain() == 0
        assert server.xlen("work_dlq") == 0
        pattern = f"{beside.results}:*"
        wait_until(lambda: not any(server.scan_iter(pattern, 1000)), TTL_S + 10, "all have expired")
        end = server.info("memory")["used_memory"]
        server.flushall()  # what the server itself has grown by stays
        least = server.info("memory")["used_memory"]
    print(f"{JOBS} results in {took_s:.0f} s, {len(killed)} workers killed meanwhile")
    print(
        f"memory: {start >> 10} kB, at most {most >> 10} kB, {end >> 10} kB after the TTL, "
        f"{least >> 10} kB once all is deleted"
    )
    record_property("results_per_s", JOBS / took_s)
    assert len(killed) > took_s / KILL_EVERY_S / 3
    assert most > least + 4 * SPARE_BYTES
    assert end < least + SPARE_BYTES


RENAMED = """
from redis_stream_queue import Queue

queue = Queue("work", retry_delay_ms=20)

def did(name, number):
    print("did", name, number, flush=True)
"""
DEPLOYS = {
    "before": "\n@queue.task\ndef resize(number: int) -> None:\n    did('resize', number)\n",
    "renamed": "\n@queue.task\ndef resized(number: int) -> None:\n    did('resized', number)\n",
    "both names": """
@queue.task
def resized(number: int) -> None:
    did('resized', number)

queue.task(name="resize")(resized.func)
""",
}
REPLACED = "all workers have been replaced"


class Feeder:
    """Pushes calls by name from a thread, a few at a time, until it is left.

    pushed: numbers so far. names: what is called now, in turn.
    """

    def __init__(self, url: str, at_once: int) -> None:
        self._queue = Queue("work", url=url)
        self._at_once = at_once
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self.pushed = 0
        self.names = ["resize"]

    def _run(self) -> None:
        while not self._ended.wait(0.02):
            for _ in range(self._at_once):
                name = self.names[self.pushed % len(self.names)]
                self._queue.push_sync(name, self.pushed)
                self.pushed += 1

    def __enter__(self) -> Feeder:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()


@pytest.mark.long
@pytest.mark.parametrize("at_once", [4, pytest.param(40, marks=pytest.mark.soak)])
def test_a_task_that_is_renamed_under_load_loses_nothing(
    pool_url: str, tmp_path: Path, at_once: int
) -> None:
    """What a worker has no task for becomes a letter that says which name is near, on either side
    of the deploy; once the old name is kept alive, all letters are sent back, and done."""

    def deploy(code: str) -> None:
        before = pool.stderr.count(REPLACED)
        (tmp_path / "renamed_app.py").write_text(RENAMED + DEPLOYS[code])
        pool.send(signal.SIGHUP)
        wait_until(lambda: pool.stderr.count(REPLACED) > before, 20, f"{code} is deployed")

    def nothing_is_left() -> bool:
        [group] = server.xinfo_groups("work")
        return bool(group["lag"] == group["pending"] == 0)

    def said() -> Counter[tuple[str, str]]:
        """Reason and error of all letters."""
        entries: Any = server.xrange("work_dlq")
        return Counter(
            (entry[b"reason"].decode(), entry[b"last_error"].decode()) for _, entry in entries
        )

    (tmp_path / "renamed_app.py").write_text(RENAMED + DEPLOYS["before"])
    args = ("--workers", "2")
    with (
        PoolProcess(None, *args, url=pool_url, cwd=tmp_path, target="renamed_app:queue") as pool,
        redis.Redis.from_url(pool_url) as server,
    ):
        pool.wait_ready()
        with Feeder(pool_url, at_once) as feeder:
            wait_until(lambda: did(pool)["resize"] >= 10, 10, "the old code runs")
            feeder.names = ["resize", "resized"]  # who pushes has the new code in part
            wait_until(
                lambda: server.xlen("work_dlq"), 10, "the old code does not know the new name"
            )
            deploy("renamed")
            wait_until(lambda: did(pool)["resized"] >= 10, 10, "the new code runs")
        wait_until(nothing_is_left, 20, "all are done, or letters")

        unknown = said()
        assert {reason for reason, _ in unknown} == {"unknown_task"}
        for name, near in (("resize", "resized"), ("resized", "resize")):
            words = f"there is no task '{name}' in this code. Did you mean '{near}'?"
            assert any(words in error for _, error in unknown), unknown
        assert len(noted(pool)) + unknown.total() == feeder.pushed

        deploy("both names")
        for name in ("resize", "resized"):
            rsq("dlq", "requeue", "work", "--task", name, url=pool_url)
        wait_until(nothing_is_left, 20, "all are done")
        assert server.xlen("work_dlq") == 0
        assert pool.drain() == 0
    assert sorted(int(number) for _, number in noted(pool)) == [*range(feeder.pushed)]


LIMITS = """
import asyncio, os, time
from redis_stream_queue import Queue

queue = Queue("work", retry_delay_ms=20, max_deliveries=1)

def plain(call: str, s: float) -> None:
    print("did", "begins", call, flush=True)
    time.sleep(s)
    print("did", "ends", call, flush=True)

async def beside(call: str, s: float) -> None:
    print("did", "begins", call, flush=True)
    await asyncio.sleep(s)
    print("did", "ends", call, flush=True)

for limit_s in (1, 10, None):
    queue.task(name=f"plain_{limit_s}", time_limit_s=limit_s)(plain)
    queue.task(name=f"beside_{limit_s}", time_limit_s=limit_s, concurrency=10)(beside)

@queue.task
def dies() -> None:
    os._exit(7)
"""


@pytest.mark.long
@pytest.mark.parametrize("longest_s", [2, pytest.param(14, marks=pytest.mark.soak)])
def test_only_what_is_beyond_its_own_limit_is_ended(
    pool_url: str, tmp_path: Path, imported: Callable[[str], Any], longest_s: int
) -> None:
    """Of plain and async tasks in one crew, each call with one delivery: neither the end of others
    nor their crash uses it up. What ran beside one that was ended, runs again to its end."""

    def ended(pool: PoolProcess) -> set[str]:
        return {call for words, call in noted(pool) if words == "ends"}

    app = imported(LIMITS)
    args = ("--workers", "3")
    with PoolProcess(None, *args, url=pool_url, cwd=tmp_path, target="tasks_app:queue") as pool:
        pool.wait_ready()
        ends, over = set[str](), set[str]()
        for number, s in enumerate((0.05, longest_s, 0.05, longest_s, 0.1, longest_s)):
            for kind in ("plain", "beside"):
                for limit_s in (1, 10, None):
                    call = f"{kind}_{limit_s}_{number}"
                    app.queue.push_sync(f"{kind}_{limit_s}", call, s)
                    (over if limit_s is not None and s > limit_s else ends).add(call)
            app.dies.push_sync()
        with redis.Redis.from_url(pool_url) as server:
            wait_until(
                lambda: server.xlen("work_dlq") == len(over) + 6, 90, "all beyond it are dead"
            )
            # (Some of them twice, whose worker was killed before it had acknowledged them.)
            wait_until(lambda: ended(pool) == ends, 90, "the others are done")
            entries: Any = server.xrange("work_dlq")
        assert pool.drain() == 0
    assert ended(pool) == ends

    dead = Counter[str]()
    for _, entry in entries:
        call = json.loads(entry[b"data"])
        error = entry[b"last_error"].decode()
        if call["task"] == "dies":
            assert "exit code 7" in error
        else:
            assert error.startswith(f"time limit {call['task'].partition('_')[2]} s"), error
        dead[call["args"][0] if "args" in call else "dies"] += 1
    assert dead == Counter(over) + Counter(dies=6)
