"""Whatever a handler raises is the verdict on its message, and no other message suffers."""

from __future__ import annotations

from collections import Counter

import pytest

from tests.apps.conftest import QUICK, Scene

APP = """
import asyncio, contextvars, functools, logging
from redis_stream_queue import Retry, SoftTimeLimitExceeded

class Panic(BaseException):  # as a Rust extension raises it
    pass

class Odd(Retry):
    def __init__(self):
        self.delay_ms = object()

async def cancelled_inside():
    task = asyncio.create_task(asyncio.sleep(10))
    await asyncio.sleep(0)
    task.cancel()
    await task

def cancelled():
    asyncio.run(cancelled_inside())

def raised(error):
    raise error

WAYS = {
    "panic": lambda: raised(Panic("unwrap of None")),
    "cancelled": cancelled,
    "keyboard": lambda: raised(KeyboardInterrupt("of a library")),
    "generator_exit": lambda: raised(GeneratorExit()),
    "group": lambda: raised(BaseExceptionGroup("several", [Panic("x")])),
    "exit": lambda: sys.exit("bye"),
    "stop_iteration": lambda: raised(StopIteration()),
    "odd_retry": lambda: raised(Odd()),
    "huge_retry": lambda: raised(Retry(delay_ms=10**25)),
}

def act(message):
    note("ran", message.id)
    if "way" in message.data:
        WAYS[message.data["way"]]()
    note("done", message.id)

@handled
@per_message
def handler(message):
    act(message)

async def own_task_cancelled():
    asyncio.current_task().cancel()
    await asyncio.sleep(10)

async def exits():
    sys.exit("of a task")

async def in_a_group():
    async with asyncio.TaskGroup() as group:
        group.create_task(exits())

def cancels_when_it_is_over():
    asyncio.current_task().cancel()

ASYNC_WAYS = {
    "cancelled": cancelled_inside,
    "own_task": own_task_cancelled,
    "at_the_end": cancels_when_it_is_over,
    "exit_in_a_group": in_a_group,
}

async def act_async(message):
    way = message.data.get("way")
    if way not in ASYNC_WAYS:
        await asyncio.sleep(message.data.get("s", 0))
        act(message)
        return
    note("ran", message.id)
    if (waits := ASYNC_WAYS[way]()) is not None:
        await waits
    if way == "at_the_end":
        note("done", message.id)

@handled
@per_message
async def one_by_one(message):
    await act_async(message)

@handled
@per_message(concurrency=5)
async def lanes(message):
    await act_async(message)

@handled
def batch(messages):
    for message in messages:
        act(message)
    return [m.id for m in messages]

@handled
async def async_batch(messages):
    for message in messages:
        await act_async(message)
    return [m.id for m in messages]
"""

WAYS = [
    "panic",
    "cancelled",
    "keyboard",
    "generator_exit",
    "group",
    "exit",
    "stop_iteration",
    "odd_retry",
    "huge_retry",
]
ASYNC_WAYS = [*WAYS, "own_task", "exit_in_a_group"]


@pytest.mark.parametrize("target", ["handler", "one_by_one", "lanes"])
def test_whatever_is_raised_is_that_message_s_verdict(scene: Scene, target: str) -> None:
    """The message dies of it after its deliveries; its neighbours run once; no worker dies."""
    ways = WAYS if target == "handler" else ASYNC_WAYS
    pool = scene.start(APP, *QUICK, target=f"app:{target}")
    guilty = dict(zip(scene.push(*({"way": way} for way in ways)), ways, strict=True))
    innocent = scene.push(*({"s": 0.001} for _ in range(20)))
    [worker] = pool.workers()
    scene.ledger.wait_settled(innocent, 20)

    runs = Counter(line.split()[1] for line in scene.notes("ran"))
    assert runs == {**dict.fromkeys(guilty, 2), **dict.fromkeys(innocent, 1)}
    letters = {letter["original_id"]: letter["last_error"] for letter in scene.ledger.letters()}
    assert {guilty[entry_id] for entry_id in letters} == set(ways)
    assert pool.workers() == [worker]
    assert pool.drain() == 0


def test_a_call_that_cancels_its_own_task_at_its_end_is_done_all_the_same(scene: Scene) -> None:
    """And the next one does not get that cancellation."""
    scene.start(APP, *QUICK, target="app:one_by_one")
    ids = scene.push(*({"way": "at_the_end"} for _ in range(5)), {"s": 0.01})
    scene.ledger.wait_settled(ids)
    assert [line.split()[1] for line in scene.notes("done")] == ids
    assert scene.ledger.letters() == []


@pytest.mark.parametrize("target", ["batch", "async_batch"])
@pytest.mark.parametrize("way", ["panic", "cancelled", "exit"])
def test_what_a_batch_handler_raises_condemns_the_guilty_alone(
    scene: Scene, target: str, way: str
) -> None:
    pool = scene.start(APP, *QUICK, target=f"app:{target}")
    [worker] = pool.workers()
    first, guilty, *others = ids = scene.push({}, {"way": way}, {}, {})
    scene.ledger.wait_settled(ids)
    assert [letter["original_id"] for letter in scene.ledger.letters()] == [guilty]
    done = {line.split()[1] for line in scene.notes("done")}
    assert done == {first, *others}
    assert pool.workers() == [worker]
