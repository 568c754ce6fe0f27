"""A pool that runs a queue of tasks: each by its own rules, in real processes."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

import httpx

from tests.pool.noted import did, letters, noted
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
    time.sleep(0.002)  # or the last call of a killed worker may hide that this one took place
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
    time.sleep(0.002)
    resize.push_sync(photo, datetime(2026, 1, 1))
"""


def counted(port: int, name: str) -> dict[str, int]:
    """A metric of each task, but 0."""
    text = httpx.get(f"http://127.0.0.1:{port}/metrics").text
    samples = re.findall(rf'^{name}{{.*task="(\w+)"}} (\d+)', text, re.MULTILINE)
    return {task: int(value) for task, value in samples if value != "0"}


def counted_in_all(port: int, name: str) -> int:
    text = httpx.get(f"http://127.0.0.1:{port}/metrics").text
    return int(float(re.findall(rf"^{name}{{[^}}]*}} (\S+)", text, re.MULTILINE)[0]))


def test_each_task_has_its_own_rules(
    pool_url: str, tmp_path: Path, imported: Callable[[str], Any]
) -> None:
    """Of one crew: tries, errors that are not tried again, limits, a crash that uses up no other's
    deliveries, and a name that this code does not know. Calls and errors are counted by task."""
    app = imported(APP)
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
    assert 1 <= calls.pop("other") <= 3
    assert calls == {"flaky": 5, "picky": 1, "ten": 1, "soft": 1, "pushes": 1}
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


THOUSANDS = """
from redis_stream_queue import Queue

queue = Queue("work")

def ran(number: int) -> None:
    print("did", number, flush=True)

tasks = [queue.task(name=f"{number}_{'x' * 190}")(ran) for number in range(2000)]
"""


def test_an_app_of_thousands_of_tasks_starts(
    pool_url: str, tmp_path: Path, imported: Callable[[str], Any]
) -> None:
    """Their names are more than one message to the master holds; the last ones run, too."""
    app = imported(THOUSANDS)
    for number in (0, 999, 1999):
        app.tasks[number].push_sync(number)

    with PoolProcess(
        None, "--workers", "1", "--burst", url=pool_url, cwd=tmp_path, target="tasks_app:queue"
    ) as pool:
        assert pool.wait() == 0

    assert sorted(did(pool)) == ["0", "1999", "999"]


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
    pool_url: str, tmp_path: Path, imported: Callable[[str], Any]
) -> None:
    """Plain ones run alone and in the main thread, async ones side by side, each up to its own
    number; a plain one that kills the worker costs the others nothing."""
    app = imported(CREW)
    port = free_port()
    args = ("--workers", "1", "--max-deliveries", "1", "--http", f"127.0.0.1:{port}")
    with PoolProcess(None, *args, url=pool_url, cwd=tmp_path, target="tasks_app:queue") as pool:
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

        def waits_are_counted() -> bool:  # some may be running again, and count, as we look
            waits = counted(port, "rsq_task_wait_seconds_count")
            in_all = counted_in_all(port, "rsq_message_wait_seconds_count")
            return set(waits) >= set(least) and sum(waits.values()) == in_all

        wait_until(waits_are_counted, 5, "waits are counted by task and in all")
        assert pool.drain() == 0

    assert letters(pool_url)["dies"][:2] == ("max_deliveries", "2")
    most: dict[str, int] = {}
    for name, _, own, _ in noted(pool):
        most[name] = max(most.get(name, 0), int(own))
    assert most == {"many": 20, "few": 3, "alone": 1, "dies": 1}
