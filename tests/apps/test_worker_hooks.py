"""What an app hangs around a worker's life and around its calls, in a real pool."""

from __future__ import annotations

from typing import Any

import pytest

from redis_stream_queue import _exits

APP = """
import asyncio, atexit
from contextlib import contextmanager
from redis_stream_queue import SoftTimeLimitExceeded
from redis_stream_queue.middleware import around

def at_exit():
    note("exit", os.getpid())

atexit.register(at_exit)
opened = []

async def start():
    await asyncio.sleep(0)
    opened.append(asyncio.get_running_loop())
    note("start", os.getpid())

async def stop():
    assert opened == [asyncio.get_running_loop()]
    note("stop", os.getpid())
    raise SystemExit("of the hook")

def plain_start():
    opened.append("plain")
    note("start", os.getpid())

def plain_stop():
    note("stop", os.getpid())
    raise LookupError("of the hook")

def hangs(message, call_next):
    if message.data.get("hang"):
        time.sleep(60)
    return call_next(message)

async def hangs_async(message, call_next):
    if message.data.get("hang"):
        await asyncio.sleep(60)
    return await call_next(message)

@around
@contextmanager
def scoped(message, source):
    try:
        yield
    except SoftTimeLimitExceeded:
        note("limited", message.id, *source)
        raise
    note("scoped", message.id, *source)

@stream_handler("work", group="crew", middleware=[scoped, hangs],
    on_worker_start=plain_start, on_worker_stop=plain_stop)
@per_message
def plain(message):
    assert opened

@stream_handler("work", group="crew", middleware=[scoped, hangs_async],
    on_worker_start=start, on_worker_stop=stop)
@per_message
async def waiting(message):
    assert opened
"""


@pytest.mark.parametrize("kind", ["plain", "waiting"])
def test_hooks_and_middleware_of_a_worker(scene: Any, kind: str) -> None:
    """Each life has its start and its stop, what they raise at the end changes nothing; the soft
    limit is around middleware too."""
    args = ("--max-messages-per-child", "2", "--soft-time-limit", "0.3", "--max-deliveries", "1")
    pool = scene.start(APP, *args, target=f"app:{kind}")
    ids = scene.push({}, {}, {"hang": True}, {}, {})
    scene.ledger.wait_settled(ids)
    assert pool.drain() == 0

    assert scene.notes("limited") == [f"limited {ids[2]} work crew 1"]
    expected = [f"scoped {i} work crew 1" for i in (*ids[:2], *ids[3:])]
    assert sorted(scene.notes("scoped")) == sorted(expected)
    lives = [line.split()[1] for line in scene.notes("start")]
    assert len(lives) == len(set(lives)) >= 3
    for what in ("stop", "exit"):
        assert sorted(scene.notes(what)) == sorted(f"{what} {pid}" for pid in lives)
    assert pool.stderr.count("on_worker_stop failed") == len(lives)


def test_a_worker_whose_start_fails_is_an_app_that_cannot_be_loaded(scene: Any) -> None:
    """One sentence with the end of the traceback, exit code 3; what is to run at exit has run."""
    app = """
import atexit
atexit.register(lambda: note("exit"))

def start():
    raise OSError("the model is not there")

@stream_handler("work", group="crew", on_worker_start=start)
@per_message
def handler(message):
    pass
"""
    pool = scene.start(app, ready=False)
    assert pool.wait() == _exits.LOAD_FAILED
    assert "cannot load 'app:handler': on_worker_start failed:" in pool.stderr
    assert "OSError: the model is not there" in pool.stderr
    assert scene.notes("exit")
