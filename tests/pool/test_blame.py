"""Promise 3: of 100 messages only those that kill whoever runs them are dead, whatever dies too.

test_recovery.py kills workers of a small pool; here batches are full, the guilty are many, and
whole pools and consumers without a pool die.
"""

from __future__ import annotations

import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tests.pool.conftest import StartPool
from tests.support.ledger import SOURCE, Ledger
from tests.support.pool import PoolProcess, plain_environment
from tests.support.waiting import wait_until

MANY = 100
GUILTY = 57
MOST_S = 10.0
MIN_IDLE_MS = 300
DELIVERIES = 3  # the default
LIFE_S = 20.0
TIME_LIMIT_S = 0.5

# Ten at a time, in one thread: while one runs, all of them are suspects.
DEADLY_APP = (
    SOURCE
    + """
@crew
@per_message(concurrency=10)
async def lanes(message):
    act(message)
"""
)

CONSUMER = f"""
import os, sys
import app
from redis_stream_queue import ConsumerConfig, StreamClient, StreamConsumer

config = ConsumerConfig(group="crew", dlq_stream="work_dlq", min_idle_claim_ms={MIN_IDLE_MS})
client = StreamClient.from_url(os.environ["REDIS_URL"])
StreamConsumer(client, "work", config, getattr(app, sys.argv[1])).run_sync()
"""

Alive = Callable[[], bool]
StartLife = Callable[[], AbstractContextManager[Alive]]


@pytest.fixture(autouse=True)
def _no_core_dumps() -> Iterator[None]:
    """What the tests start inherits it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_CORE)
    resource.setrlimit(resource.RLIMIT_CORE, (0, hard))
    yield
    resource.setrlimit(resource.RLIMIT_CORE, (soft, hard))


@pytest.mark.parametrize("workers", ["1", "4"])
@pytest.mark.parametrize("target", ["app:handler", "app:batch"])
def test_of_100_messages_one_segfaults_and_99_are_handled_within_10_s(
    start_pool: StartPool,
    ledger: Ledger,
    record_property: Callable[[str, object], None],
    target: str,
    workers: str,
) -> None:
    """Default settings: from the start of the pool to the last message and the one dead letter,
    which says how its workers died."""
    ids = _push(ledger, {GUILTY: {"do": "segfault"}})
    began_s = time.monotonic()
    start_pool("--workers", workers, target=target, ready=False)

    ledger.wait_settled(ids, MOST_S)
    took_s = time.monotonic() - began_s

    print(f"{target}, {workers} worker(s): {took_s:.2f} s")
    record_property("settled_s", took_s)
    _only_these_are_dead(ledger, ids, [GUILTY])
    [letter] = ledger.letters()
    assert letter["last_error"] == "killed by SIGSEGV"
    assert letter["reason"] == "max_deliveries"
    assert took_s < MOST_S
    times = ledger.executions()
    assert times.pop(ids[GUILTY]) == DELIVERIES
    assert max(times.values()) <= 2  # once beside the guilty one, and then alone


@pytest.mark.parametrize(
    "target",
    [
        "app:batch",
        pytest.param("app:handler", marks=pytest.mark.soak),
        pytest.param("app:lanes", marks=pytest.mark.soak),
    ],
)
def test_four_guilty_of_four_kinds_in_one_batch_are_told_from_96_innocents(
    pool_url: str, tmp_path: Path, ledger: Ledger, target: str
) -> None:
    """os._exit, SIGKILL, a segfault and a hard time limit: each letter says how its own workers
    died, the last one with the stack; one after another, in a batch, and side by side."""
    guilty: dict[int, dict[str, Any]] = {
        10: {"do": "exit"},
        30: {"do": "sleep", "s": 60},
        50: {"do": "die"},
        70: {"do": "segfault"},
    }
    ids = _push(ledger, guilty)
    args = ("--workers", "2", "--batch-size", str(MANY), "--time-limit", str(TIME_LIMIT_S))
    with PoolProcess(DEADLY_APP, *args, url=pool_url, cwd=tmp_path, target=target):
        ledger.wait_settled(ids, 30)

    _only_these_are_dead(ledger, ids, guilty)
    said = {letter["original_id"]: letter["last_error"] for letter in ledger.letters()}
    assert said[ids[10]] == "exit code 7"
    assert said[ids[50]] == "killed by SIGKILL, possibly out of memory"
    assert said[ids[70]] == "killed by SIGSEGV"
    limit, _, stack = said[ids[30]].partition("\n")
    assert limit == f"time limit {TIME_LIMIT_S:g} s"
    assert "app.py" in stack
    assert " in act\n" in stack


@pytest.mark.long
@pytest.mark.parametrize("workers", [pytest.param("1", marks=pytest.mark.soak), "4"])
def test_a_message_that_takes_the_whole_pool_down_each_time_dies_alone(
    pool_url: str, tmp_path: Path, ledger: Ledger, workers: str
) -> None:
    """A batch handler that kills the master and all workers when it meets the message; somebody
    starts the pool again each time. No one is left to remember, and 99 are handled all the same,
    those too that the other workers were running."""
    ids = _push(ledger, {GUILTY: {"do": "kill_all"}})
    args = ("--workers", workers, "--batch-size", "25", "--min-idle-claim-ms", str(MIN_IDLE_MS))

    @contextmanager
    def life() -> Iterator[Alive]:
        with PoolProcess(DEADLY_APP, *args, url=pool_url, cwd=tmp_path, target="app:batch") as pool:
            yield lambda: pool.alive

    deaths = _restart_until_settled(life, ledger, ids)

    _only_these_are_dead(ledger, ids, [GUILTY])
    assert deaths == DELIVERIES


@pytest.mark.long
def test_two_last_deliveries_are_never_side_by_side_after_a_whole_pool_died(
    pool_url: str, tmp_path: Path, ledger: Ledger
) -> None:
    """Two workers, two messages, one each: the pool dies over the one while the other runs."""
    ids = ledger.push({"do": "kill_all", "s": 0.3}, {"do": "sleep", "s": 1})
    args = ("--workers", "2", "--min-idle-claim-ms", str(MIN_IDLE_MS))

    @contextmanager
    def life() -> Iterator[Alive]:
        with PoolProcess(DEADLY_APP, *args, url=pool_url, cwd=tmp_path) as pool:
            yield lambda: pool.alive

    deaths = _restart_until_settled(life, ledger, ids)

    _only_these_are_dead(ledger, ids, [0])
    assert deaths == DELIVERIES
    [letter] = ledger.letters()
    assert letter["last_error"].endswith("vanished while it held the message")


@pytest.mark.parametrize("handler", [pytest.param("handler", marks=pytest.mark.soak), "batch"])
def test_a_message_that_kills_a_consumer_without_a_pool_each_time_dies_alone(
    pool_url: str, tmp_path: Path, ledger: Ledger, handler: str
) -> None:
    """A plain StreamConsumer in a process of its own, started again after each of its deaths: no
    master saw them, and 99 of the batch of 100 are handled."""
    ids = _push(ledger, {GUILTY: {"do": "kill_all"}})
    (tmp_path / "app.py").write_text(DEADLY_APP)
    (tmp_path / "consumer.py").write_text(CONSUMER)

    @contextmanager
    def life() -> Iterator[Alive]:
        with subprocess.Popen(
            [sys.executable, "consumer.py", handler],
            cwd=tmp_path,
            env=plain_environment(pool_url),
            stdin=subprocess.DEVNULL,
            start_new_session=True,  # "kill_all" is for this process alone
        ) as process:
            try:
                yield lambda: process.poll() is None
            finally:
                process.kill()
        assert process.returncode == -signal.SIGKILL

    deaths = _restart_until_settled(life, ledger, ids)

    _only_these_are_dead(ledger, ids, [GUILTY])
    assert deaths == DELIVERIES


def _push(ledger: Ledger, guilty: dict[int, dict[str, Any]]) -> list[str]:
    """100 messages in one step, all harmless but those."""
    return ledger.push(*(guilty.get(number, {}) for number in range(MANY)))


def _is_over(alive: Alive, ledger: Ledger, ids: list[str]) -> bool:
    return not alive() or ledger.is_settled(ids)


def _restart_until_settled(start: StartLife, ledger: Ledger, ids: list[str]) -> int:
    """Start it anew whenever it has died; returns how often it did."""
    for deaths in range(2 * DELIVERIES):
        with start() as alive:
            wait_until(
                partial(_is_over, alive, ledger, ids),
                LIFE_S,
                "it has died, or everything is handled or dead",
            )
            if alive():
                return deaths
    raise AssertionError(f"it died {2 * DELIVERIES} times: {ledger.executions()}")


def _only_these_are_dead(ledger: Ledger, ids: list[str], guilty: Iterable[int]) -> None:
    """Letters for these messages and no others, each after all its deliveries; the rest is
    handled."""
    dead = {ids[number] for number in guilty}
    letters = [letter["original_id"] for letter in ledger.letters()]
    assert sorted(letters) == sorted(dead), {
        letter["original_id"]: (letter["delivery_count"], letter["last_error"][:60])
        for letter in ledger.letters()
        if letter["original_id"] not in dead
    }
    assert {note.id for note in ledger.ended()} == set(ids) - dead
    assert {letter["delivery_count"] for letter in ledger.letters()} == {str(DELIVERIES)}
