"""A pool that runs a queue of tasks: each by its own rules, in real processes."""

from __future__ import annotations

import asyncio
import importlib
import os
import re
import signal
import sys
from collections import Counter
from collections.abc import Iterator
from datetime import datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import httpx
import pytest
import redis

from redis_stream_queue import Job, ResultGone, TaskFailed
from redis_stream_queue.later.keys import companions
from tests.support.pool import PoolProcess
from tests.support.servers import free_port
from tests.support.waiting import wait_until

APP = """
import asyncio, os, time
from datetime import datetime
from decimal import Decimal
from redis_stream_queue import Queue

queue = Queue("work", retry_delay_ms=20)

def note(*words):
    print("did", *words, flush=True)

@queue.task
def resize(photo: int, when: datetime) -> None:
    note("resize", photo, type(when).__name__, when.isoformat())

@queue.task(max_deliveries=5)
async def flaky(tries: int) -> None:
    await asyncio.sleep(0)
    note("flaky")
    raise OSError("down")

@queue.task(retry_on=(OSError,))
def picky() -> None:
    note("picky")
    raise ValueError("never")

@queue.task(time_limit_s=0.4, max_deliveries=2)
def second() -> None:
    note("second", os.getpid())
    time.sleep(30)

@queue.task(time_limit_s=20)
def ten() -> None:
    time.sleep(0.8)
    note("ten")

@queue.task(soft_time_limit_s=0.2, max_deliveries=1)
def soft() -> None:
    time.sleep(30)

@queue.task(max_deliveries=2)
def dies() -> None:
    note("dies")
    os._exit(7)

@queue.task
def pushes(photo: int) -> None:
    resize.push_sync(photo, datetime(2026, 1, 1))
"""


@pytest.fixture
def app(pool_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """The module that the pool runs, here."""
    (tmp_path / "tasks_app.py").write_text(APP)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("REDIS_URL", pool_url)
    yield importlib.import_module("tasks_app")
    del sys.modules["tasks_app"]


def letters(url: str) -> dict[str, tuple[str, str, str]]:
    """Reason, deliveries and last error of each, by the name of its task."""
    with redis.Redis.from_url(url, decode_responses=True) as server:
        found: Any = server.xrange("work_dlq")
    fields = "reason", "delivery_count", "last_error"
    return {entry["rsq:task"]: tuple(entry[name] for name in fields) for _, entry in found}


def noted(pool: PoolProcess) -> list[list[str]]:
    """What its tasks have noted; the last line may not be whole yet."""
    whole = pool.stdout.rpartition("\n")[0]
    return [line.split()[1:] for line in whole.splitlines() if line.startswith("did ")]


def did(pool: PoolProcess) -> Counter[str]:
    return Counter(words[0] for words in noted(pool))


def counted(port: int, name: str) -> dict[str, int]:
    """A metric of each task, but 0."""
    text = httpx.get(f"http://127.0.0.1:{port}/metrics").text
    samples = re.findall(rf'^{name}{{.*task="(\w+)"}} (\d+)', text, re.MULTILINE)
    return {task: int(value) for task, value in samples if value != "0"}


def test_each_task_has_its_own_rules(app: Any, pool_url: str, tmp_path: Path) -> None:
    """Of one crew: tries, errors that are not tried again, limits, a crash that uses up no other's
    deliveries, and a name that this code does not know. Calls and errors are counted by task."""
    port = free_port()
    args = "--workers", "2", "--http", f"127.0.0.1:{port}"
    with PoolProcess(None, *args, url=pool_url, cwd=tmp_path, target="tasks_app:queue") as pool:
        pool.wait_ready()
        many = [(number, datetime(2026, 1, 1)) for number in range(30)]
        app.resize.push_many_sync(many)
        for task in (app.picky, app.second, app.ten, app.dies, app.soft):
            task.push_sync()
        app.flaky.push_sync(3)
        app.queue.push_sync("resise", 42)
        app.pushes.push_sync(31)
        app.resize.push_many_sync(many)

        wait_until(lambda: len(letters(pool_url)) == 6, 20, "all that must die is dead")
        wait_until(lambda: did(pool)["resize"] >= 61 and did(pool)["ten"], 10, "the rest is done")
        dead = letters(pool_url)
        died = {"second": 2, "dies": 2}
        errors = {"flaky": 5, "picky": 1, "soft": 1, "other": 3, **died}
        wait_until(lambda: counted(port, "rsq_task_errors_total") == errors, 5, "errors count")
        calls = counted(port, "rsq_task_duration_seconds_count")
        assert pool.drain() == 0

    done = did(pool)
    assert done.pop("resize") >= 61  # again, where a worker died before it had acknowledged some
    assert done == {"flaky": 5, "picky": 1, "second": 2, "dies": 2, "ten": 1}
    assert calls.pop("resize") >= 61
    assert calls == {"flaky": 5, "picky": 1, "ten": 1, "soft": 1, "other": 3, "pushes": 1}
    assert "resize 42" not in pool.stdout
    assert "did resize 31 datetime 2026-01-01T00:00:00" in pool.stdout
    assert {name: found[:2] for name, found in dead.items()} == {
        "flaky": ("max_deliveries", "5"),
        "picky": ("rejected", "1"),
        "second": ("max_deliveries", "2"),
        "soft": ("max_deliveries", "1"),
        "dies": ("max_deliveries", "2"),
        "resise": ("unknown_task", "3"),
    }
    assert dead["picky"][2].startswith("ValueError: never")
    assert dead["second"][2].startswith("time limit 0.4 s")
    assert dead["soft"][2].startswith("SoftTimeLimitExceeded")
    assert "exit code 7" in dead["dies"][2]
    assert "no task 'resise' in this code. Did you mean 'resize'?" in dead["resise"][2]


CREW = """
import asyncio, os, threading, time
from redis_stream_queue import Queue

queue = Queue("work", retry_delay_ms=20)
running = []

def note(*words):
    print("did", *words, flush=True)

async def beside(name, number):
    running.append(name)
    note(name, number, running.count(name), len(running))
    await asyncio.sleep(0.1)
    running.remove(name)

@queue.task(concurrency=20)
async def many(number: int) -> None:
    await beside("many", number)

@queue.task(concurrency=3)
async def few(number: int) -> None:
    await beside("few", number)

@queue.task
def alone(number: int) -> None:
    assert threading.current_thread() is threading.main_thread()
    note("alone", number, 1 + len(running), 1 + len(running))
    time.sleep(0.005)

@queue.task(max_deliveries=2)
def dies() -> None:
    note("dies", 0, 1, 1)
    os._exit(7)
"""


def test_plain_and_async_tasks_share_a_worker(
    pool_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Plain ones run alone and in the main thread, async ones side by side, each up to its own
    number; a plain one that kills the worker costs the others nothing."""
    (tmp_path / "crew_app.py").write_text(CREW)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("REDIS_URL", pool_url)
    app = importlib.import_module("crew_app")
    port = free_port()
    args = ("--workers", "1", "--max-deliveries", "1", "--http", f"127.0.0.1:{port}")
    with PoolProcess(None, *args, url=pool_url, cwd=tmp_path, target="crew_app:queue") as pool:
        pool.wait_ready()
        wanted = {("dies", "0")}
        for task, numbers in ((app.many, range(100)), (app.few, range(12)), (app.alone, range(20))):
            task.push_many_sync([(number,) for number in numbers])
            wanted |= {(task.name, str(number)) for number in numbers}
        app.dies.push_sync()
        for number in range(100, 160):
            task = (app.alone, app.many, app.few)[number % 3]
            task.push_sync(number)
            wanted.add((task.name, str(number)))
        wait_until(lambda: len(letters(pool_url)) == 1, 20, "what kills is dead")
        wait_until(lambda: {(n, i) for n, i, *_ in noted(pool)} == wanted, 20, "all are done")
        least = Counter(name for name, _ in wanted if name != "dies")
        wait_until(
            lambda: Counter(counted(port, "rsq_task_duration_seconds_count")) >= least, 5, "counted"
        )
        assert counted(port, "rsq_task_errors_total") == {"dies": 2}
        assert pool.drain() == 0

    assert letters(pool_url)["dies"][:2] == ("max_deliveries", "2")
    most: dict[str, int] = {}
    for name, _, own, _ in noted(pool):
        most[name] = max(most.get(name, 0), int(own))
    assert most == {"many": 20, "few": 3, "alone": 1, "dies": 1}


RESULTS = """
import asyncio, os
from decimal import Decimal
from redis_stream_queue import Queue

queue = Queue("work", retry_delay_ms=20)

@queue.task(result_ttl_s=60)
def double(number: Decimal) -> Decimal:
    return number * 2

@queue.task(result_ttl_s=60, concurrency=10)
async def later(number: int) -> int:
    await asyncio.sleep(0.01)
    return number

@queue.task(result_ttl_s=60, max_deliveries=1)
def fails() -> None:
    raise ValueError("no such photo")

@queue.task(result_ttl_s=60, max_deliveries=1)
def dies() -> None:
    os._exit(7)

@queue.task(result_ttl_s=0.2)
def brief() -> int:
    return 1

@queue.task(result_ttl_s=60)
def odd() -> object:
    return object()

@queue.task(result_ttl_s=60)
def large(size: int) -> str:
    return "x" * size
"""
MOST_BYTES = 1 << 20  # of a value, the least that servers can be told


def test_results_are_read_by_all_who_wait_while_workers_die(
    pool_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each is there once, also of what fails for good, and gone after its time."""
    (tmp_path / "results_app.py").write_text(RESULTS)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("REDIS_URL", pool_url)
    app = importlib.import_module("results_app")

    async def outcome(job: Job[Any]) -> Any:
        try:
            return await job.result(30)
        except TaskFailed as failed:
            return failed.reason

    async def ask(pool: PoolProcess) -> None:
        wanted: list[tuple[Job[Any], Any]] = []
        for number in range(200):
            wanted.append((await app.double.push(Decimal(number)), Decimal(2 * number)))
            wanted.append((await app.later.push(number), number))
            if number % 50 == 0:
                wanted.append((await app.fails.push(), "max_deliveries"))
        delayed = await app.later.options(delay_ms=300).push(-1)
        wanted += [(await app.dies.push(), "max_deliveries"), (delayed, -1)]
        waits = [
            asyncio.create_task(outcome(job))
            for place, (job, _) in enumerate(wanted)
            for _ in range(1 + place % 5)
        ]
        await asyncio.sleep(0.1)
        os.kill(pool.workers()[0], signal.SIGKILL)
        got = await asyncio.gather(*waits)
        assert got == [
            value for place, (_, value) in enumerate(wanted) for _ in range(1 + place % 5)
        ]
        with pytest.raises(TaskFailed, match="ValueError: no such photo") as failed:
            await (await app.fails.push()).result(10)
        assert (failed.value.type, failed.value.text) == ("ValueError", "no such photo")
        assert "raise ValueError" in failed.value.traceback
        assert failed.value.traceback.count("File ") == 1  # what ran it is not shown
        with pytest.raises(TaskFailed, match=r"returned \(object\) cannot travel"):
            await (await app.odd.push()).result(10)
        cancelled = await app.later.options(delay_ms=60_000).push(1)
        assert await cancelled.status() == "scheduled"
        assert await cancelled.cancel()
        assert await outcome(cancelled) == "cancelled"
        with pytest.raises(ResultGone):
            await app.queue.job("later", "1-1").result(5)
        await app.queue.close()

    args = ("--workers", "2")
    with (
        PoolProcess(None, *args, url=pool_url, cwd=tmp_path, target="results_app:queue") as pool,
        redis.Redis.from_url(pool_url) as server,
    ):
        pool.wait_ready()
        asyncio.run(ask(pool))
        kept = list(server.scan_iter("*result*"))
        assert len(kept) > 400
        assert {server.llen(key) for key in kept} == {1}
        assert all(0 < server.pttl(key) <= 60_000 for key in kept)
        assert app.double.push_sync(Decimal("1.10")).result_sync(10) == Decimal("2.20")
        usual = server.config_get("proto-max-bulk-len")
        server.config_set("proto-max-bulk-len", MOST_BYTES)
        try:
            with pytest.raises(
                TaskFailed, match=r"2\.1 MB is more than the server takes"
            ) as failed:
                app.large.push_sync(2 * MOST_BYTES).result_sync(10)
        finally:
            server.config_set("proto-max-bulk-len", usual["proto-max-bulk-len"])
        assert failed.value.reason == "too_large"
        assert app.large.push_sync(2 * MOST_BYTES).result_sync(10) == "x" * 2 * MOST_BYTES
        reminder = app.later.options(delay_ms=60_000).push_sync(1)
        assert reminder.status_sync() == "scheduled"
        assert reminder.cancel_sync()
        brief = app.brief.push_sync()
        assert brief.result_sync(10) == 1
        assert brief.status_sync() == "done"
        wait_until(lambda: len(list(server.scan_iter(f"*{brief.id}"))) == 0, 5, "it is gone")
        with pytest.raises(ResultGone):
            brief.result_sync(10)
        assert pool.drain() == 0


ASKED = """
import time
from pathlib import Path
from redis_stream_queue import Queue, Reject, Retry, current

queue = Queue("work", retry_delay_ms=20)

def note(*words):
    print("did", *words, flush=True)

@queue.task(result_ttl_s=60)
def takes(what: str, until: str = "") -> None:
    note("begins", what)
    while until and not Path(until).exists():
        time.sleep(0.005)
    note("takes", what, current().headers.get("rsq:scheduled"))

@queue.task(retry_on=(OSError,), max_deliveries=2)
def asks(counted: bool) -> None:
    note("asks", counted, current().delivery)
    if not hasattr(asks, f"asked_{counted}"):
        setattr(asks, f"asked_{counted}", True)
        raise Retry("busy", delay_ms=20, counted=counted)

@queue.task(result_ttl_s=60)
def refuses(order: int) -> None:
    note("refuses", order)
    raise Reject(f"no order {order}")

@queue.cron("* * * * *", tz="Europe/Berlin")
def tick() -> None:
    note("tick", current().headers["rsq:tick"], current().headers.get("rsq:missed"))
"""


def test_what_a_push_asks_for_holds_in_a_pool(
    pool_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Delays, once, expiry; what a task raises on purpose; and a schedule that was missed while no
    pool ran is caught up with once."""
    (tmp_path / "asked_app.py").write_text(ASKED)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("REDIS_URL", pool_url)
    app = importlib.import_module("asked_app")
    cron, go_on = companions("work").cron, tmp_path / "go_on"

    def start() -> PoolProcess:
        args = ("--workers", "1")
        return PoolProcess(None, *args, url=pool_url, cwd=tmp_path, target="asked_app:queue")

    with redis.Redis.from_url(pool_url) as server:
        with start() as pool:
            wait_until(lambda: server.hget(cron, "last:tick"), 15, "the schedule is known")
            assert pool.drain() == 0
        for field in ("last:tick", "declared:tick"):
            server.hincrby(cron, field, -10 * 60_000)

        with start() as pool:
            pool.wait_ready()
            held = app.takes.options(unique="held").push_sync("held", str(go_on))
            wait_until(lambda: ["begins", "held"] in noted(pool), 10, "one runs")
            again = app.takes.options(unique="held").push_sync("again")
            assert (again.duplicate, again.id) == (True, held.id)
            assert held.status_sync() == "running"
            expired = app.takes.options(ttl_ms=1).push_sync("expired")
            delayed = app.takes.options(delay_ms=300).push_sync("delayed")
            assert delayed.status_sync() == "scheduled"
            once = [app.takes.options(dedup_id="once").push_sync("once") for _ in range(2)]
            assert [job.duplicate for job in once] == [False, True]
            for counted in (True, False):
                app.asks.push_sync(counted)
            refused = app.refuses.push_sync(7)
            go_on.touch()

            for job in (held, *once, delayed):
                assert job.result_sync(10) is None
            with pytest.raises(TaskFailed) as failed:
                expired.result_sync(10)
            assert failed.value.reason == "expired"
            with pytest.raises(TaskFailed, match="no order 7") as failed:
                refused.result_sync(10)
            assert failed.value.reason == "rejected"
            after = app.takes.options(unique="held").push_sync("after")
            assert (after.duplicate, after.result_sync(10)) == (False, None)
            late = app.takes.options(dedup_id="once").push_sync("late")
            assert (late.duplicate, late.id) == (True, once[0].id)
            wait_until(lambda: did(pool)["asks"] == 4, 10, "both are tried again")
            wait_until(lambda: did(pool)["tick"], 10, "the schedule")
            assert pool.drain() == 0
        assert {name: found[:2] for name, found in letters(pool_url).items()} == {
            "refuses": ("rejected", "1")
        }

    notes = noted(pool)
    assert next(words[1] for words in notes if words[0] == "takes") == "held"
    assert sorted(words[1:] for words in notes if words[0] == "takes") == [
        ["after", "None"],
        ["delayed", delayed.id],
        ["held", "None"],
        ["once", "None"],
    ]
    asked = [words[1:] for words in notes if words[0] == "asks"]
    assert sorted(asked) == [["False", "1"], ["False", "1"], ["True", "1"], ["True", "2"]]
    ticks = [words[1:] for words in notes if words[0] == "tick"]
    assert int(ticks[0][1]) >= 9
    assert len({tick for tick, _ in ticks}) == len(ticks)  # the clock may have struck meanwhile
