"""A worker ends as an interpreter does, within its time; while it loads it ends at once."""

from __future__ import annotations

import os
import signal
import time
from typing import Any

import pytest

from tests.support.waiting import wait_until

HANDLERS = {
    "a pool of threads": """
from concurrent.futures import ThreadPoolExecutor
threads = ThreadPoolExecutor(2)
@handled
@per_message
def handler(message):
    threads.submit(upload, message.data["s"])
    note("end")
""",
    "a thread": """
@handled
@per_message
def handler(message):
    threading.Thread(target=upload, args=(message.data["s"],), name="uploader").start()
    note("end")
""",
    "the loop's threads": """
import asyncio
tasks = []
@handled
@per_message
async def handler(message):
    tasks.append(asyncio.get_running_loop().run_in_executor(None, upload, message.data["s"]))
    note("end")
""",
}
UPLOAD = """
import atexit
def upload(s):
    note("upload begins")
    time.sleep(s)
    note("upload ends")
atexit.register(note, "atexit")
"""


@pytest.mark.parametrize("kind", HANDLERS)
def test_what_a_handler_left_to_threads_finishes(scene: Any, kind: str) -> None:
    """After the last message of a drain, and before what runs at exit."""
    pool = scene.start(UPLOAD + HANDLERS[kind])
    scene.push({"s": 0.7})
    scene.wait_notes("upload begins")
    assert pool.drain() == 0
    assert scene.notes()[-2:] == ["upload ends", "atexit"]


def test_threads_that_do_not_end_are_cut_and_named(scene: Any) -> None:
    """At the graceful timeout of a drain."""
    pool = scene.start(UPLOAD + HANDLERS["a thread"], "--graceful-timeout", "1")
    scene.push({"s": 60})
    scene.wait_notes("upload begins")
    assert pool.drain() == 0
    assert "slot=0 waits for thread(s) uploader" in pool.stderr


def test_a_worker_that_leaves_is_replaced_while_its_threads_finish(scene: Any) -> None:
    """SIGTERM to a worker alone: the next messages do not wait for its threads."""
    pool = scene.start(UPLOAD + HANDLERS["a thread"], "--graceful-timeout", "5")
    [old] = pool.workers()
    scene.push({"s": 60})
    scene.wait_notes("upload begins")

    os.kill(old, signal.SIGTERM)
    scene.push({"s": 0})
    scene.wait_notes("end", 2)
    assert old in pool.workers()
    pool.wait_log("slot=0 pid=.* is killed: did not end within 5 s: .* uploader")
    wait_until(lambda: old not in pool.workers(), 5, "it is cut")
    assert pool.drain() == 0


LEFT_BEHIND = {
    "an executor": """
from concurrent.futures import ProcessPoolExecutor
processes = ProcessPoolExecutor(2)
def use():
    return processes.submit(pow, 3, 2).result()
""",
    "a daemon": """
import multiprocessing
def use():
    multiprocessing.Process(target=time.sleep, args=(60,), daemon=True).start()
""",
    "a pool": """
import multiprocessing
pools = []
def use():
    pools.append(multiprocessing.Pool(2))
    return pools[0].map(abs, [1, -2])
""",
    "a manager": """
import multiprocessing
managers = []
def use():
    managers.append(multiprocessing.Manager())
    return managers[0].list([1])
""",
}


@pytest.mark.parametrize("what", LEFT_BEHIND)
def test_processes_left_to_the_interpreters_exit_hold_up_nothing(scene: Any, what: str) -> None:
    """A drain does not wait for them, recycling workers does not collect them."""
    app = (
        LEFT_BEHIND[what]
        + """
@handled
@per_message
def handler(message):
    use()
    note("end")
"""
    )
    args = ("--max-messages-per-child", "2", "--graceful-timeout", "20")
    pool = scene.start(app, *args)
    for number in range(1, 7):
        scene.push({})
        scene.wait_notes("end", number)
    wait_until(lambda: len(pool.processes()) <= 12, 10, "earlier lives have left nothing behind")
    began = time.monotonic()
    assert pool.drain() == 0
    assert time.monotonic() - began < 10
    assert pool.processes() == []
    assert "Traceback" not in pool.stderr


LOADING = {
    "sleeps": "time.sleep(60)",
    "waits for a lock": "threading.Event().wait(60)",
    "holds the GIL": "import ctypes; ctypes.PyDLL(None).sleep(60)",
    "is deaf": "signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(60)",
    "runs a program": "subprocess.run(['sleep', '60'])",
}


@pytest.mark.parametrize("how", LOADING)
def test_a_pool_that_still_loads_its_app_ends_at_once(scene: Any, how: str) -> None:
    app = f'note("loading")\n{LOADING[how]}\n@handled\n@per_message\ndef handler(message): ...\n'
    pool = scene.start(app, workers=2, ready=False)
    scene.wait_notes("loading", 2)
    began = time.monotonic()
    assert pool.drain() == 0
    assert time.monotonic() - began < 10  # of 30
    assert pool.processes() == []


NO_THREADS = """
import _thread, asyncio

def no_threads():
    _thread.stack_size(1 << 47)  # more than there is: "can't start new thread", as at a limit

if os.environ["WHEN"] == "import":
    no_threads()

@handled
@per_message
def handler(message):
    time.sleep(message.data["s"])
    note("ran", message.id)

@handled
def batch(messages):
    time.sleep(messages[0].data["s"])
    note("ran", *(m.id for m in messages))
    return [m.id for m in messages]

@handled
@per_message
async def late(message):
    if message.data["s"]:  # the loop has threads of its own by then
        await asyncio.to_thread(time.sleep, message.data["s"])
    no_threads()
    note("ran", message.id)
"""


@pytest.mark.parametrize("target", ["handler", "batch"])
def test_where_no_thread_can_be_started_calls_go_on_without(scene: Any, target: str) -> None:
    """Long ones, too; said once, and the worker lives."""
    args = ("--batch-size", "1")
    pool = scene.start(NO_THREADS, *args, target=f"app:{target}", env={"WHEN": "import"})
    workers = pool.workers()
    ids = scene.push({"s": 0.2}, {"s": 0}, {"s": 0.1})
    scene.wait_notes("ran", 3)
    assert [line.split()[1] for line in scene.notes("ran")] == ids
    assert pool.stderr.count("no thread can be started (can't start new thread)") == 1
    assert pool.workers() == workers
    assert pool.drain() == 0
    assert scene.ledger.pending() == 0


def test_where_no_thread_can_be_started_any_more_a_worker_ends_well(scene: Any) -> None:
    """Its loop has threads, and none can be started that waits for them."""
    pool = scene.start(NO_THREADS, target="app:late", env={"WHEN": "late"})
    [entry_id] = scene.push({"s": 0.05})
    assert scene.wait_notes("ran") == [f"ran {entry_id}"]
    assert pool.drain() == 0
    assert "failed" not in pool.stderr
    assert "can't start" not in pool.stderr
