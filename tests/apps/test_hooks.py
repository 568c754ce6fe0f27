"""What an app hears of its failures: the error_hook in a worker, and the log line of a crash."""

from __future__ import annotations

import re
from typing import Any

import pytest

HOOKS = """
import asyncio

def plain(error, messages):
    note("hook", os.getpid(), type(error).__name__, *(m.id for m in messages))

async def waiting(error, messages):
    await asyncio.sleep(0.01)
    plain(error, messages)

def broken(error, messages):
    plain(error, messages)
    raise SystemExit("of the hook")

def fails(message):
    note("ran", os.getpid())
    if message.data["fails"]:
        raise LookupError("nothing there")

def both(messages):
    fails(messages[0])
    return [m.id for m in messages]

async def later(message):
    await asyncio.sleep(0)
    fails(message)

declared = {"group": "crew", "max_deliveries": 2, "retry_delay_ms": 10}
hooks = {"plain": plain, "waiting": waiting, "broken": broken}
for name, hook in hooks.items():
    declare = stream_handler("work", error_hook=hook, **declared)
    globals()[f"one_{name}"] = declare(per_message(fails))
    globals()[f"lanes_{name}"] = declare(per_message(concurrency=2)(later))
    globals()[f"batch_{name}"] = stream_handler("work", error_hook=hook, **declared)(
        lambda messages: both(messages)
    )
"""


@pytest.mark.parametrize("hook", ["plain", "waiting", "broken"])
@pytest.mark.parametrize("kind", ["one", "lanes", "batch"])
def test_the_error_hook_of_a_handler_is_called_in_the_worker(
    scene: Any, kind: str, hook: str
) -> None:
    """For each failure, with the exception and the messages; what it raises changes nothing."""
    pool = scene.start(HOOKS, "--batch-size", "1", target=f"app:{kind}_{hook}")
    [worker] = pool.workers()
    guilty, innocent = scene.push({"fails": True}, {"fails": False})
    scene.ledger.wait_settled([guilty, innocent])
    assert scene.notes("hook") == 2 * [f"hook {worker} LookupError {guilty}"]
    assert scene.notes("ran") == 3 * [f"ran {worker}"]
    assert [letter["original_id"] for letter in scene.ledger.letters()] == [guilty]
    assert pool.workers() == [worker]
    assert pool.drain() == 0


CRASHES = """
ENDS = {
    "kill": lambda: os.kill(os.getpid(), signal.SIGKILL),
    "abort": lambda: os.abort(),
    "exit": lambda: os._exit(7),
    "limit": lambda: time.sleep(60),
}

@handled
@per_message
def handler(message):
    ENDS[message.data["end"]]()
"""


@pytest.mark.parametrize(
    ("end", "why"),
    [
        ("kill", "killed by SIGKILL"),
        ("abort", "killed by SIGABRT"),
        ("exit", "exit code 7"),
        ("limit", "time limit 0.3 s"),
    ],
)
def test_a_crash_names_what_was_running_there_and_why(scene: Any, end: str, why: str) -> None:
    """In the log, with what becomes of it; the dead letter says the same."""
    args = ("--max-deliveries", "2", "--retry-delay-ms", "10")
    limit = ("--time-limit", "0.3") if end == "limit" else ()
    pool = scene.start(CRASHES, *args, *limit)
    [entry_id] = scene.push({"end": end})
    scene.ledger.wait_settled([entry_id])
    for delivery, fate in ((1, "claim alone"), (2, "bury")):
        running = rf"1 message\(s\) were running there: {entry_id} \(delivery {delivery}\): {fate}"
        pool.wait_log(f"{running}; why: {why}")
    [letter] = scene.ledger.letters()
    assert letter["last_error"].startswith(why)
    assert pool.drain() == 0


@pytest.mark.parametrize(("most", "said"), [(1, "was lowered to 1"), (2, "is 2 (was it lowered?)")])
def test_a_message_that_a_lowered_limit_ends_says_so(scene: Any, most: int, said: str) -> None:
    """The pool that knew its errors is gone; its letter tells what is known all the same."""
    app = """
@handled
@per_message
def handler(message):
    note("ran")
    raise LookupError("nothing there")
"""
    pool = scene.start(app, "--max-deliveries", "5", "--retry-delay-ms", "1500")
    [entry_id] = scene.push({})
    pool.wait_log("delivery 2 of 5", 10)
    assert pool.drain() == 0
    pool = scene.start(None, "--max-deliveries", str(most))
    scene.ledger.wait_settled([entry_id])
    assert len(scene.notes("ran")) == 2
    [letter] = scene.ledger.letters()
    assert letter["last_error"] == (
        f"delivered 2 time(s) before, and max_deliveries {said}; what it failed of is in the log "
        "of that time"
    )
    pool.wait_log(re.escape(said))
    assert pool.drain() == 0
