"""A pool in the loop of the extra ``uvloop``."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest

from tests.support.extras import UVLOOP
from tests.support.ledger import SOURCE, Ledger
from tests.support.pool import PoolProcess
from tests.support.waiting import wait_until

APP = (
    SOURCE
    + """
import sys

plain_note = note

def note(kind, message):
    assert "uvloop" in sys.modules
    plain_note(kind, message)
"""
)
BOTH = pytest.mark.parametrize("target", ["app:handler", "app:async_handler"])


def start(url: str, cwd: Path, *args: str, target: str) -> PoolProcess:
    env = {"PYTHONPATH": str(UVLOOP)}
    return PoolProcess(APP, "--workers", "1", *args, url=url, cwd=cwd, target=target, env=env)


@BOTH
def test_short_and_long_messages_run_once_and_a_drain_waits_for_the_running_one(
    pool_url: str, tmp_path: Path, ledger: Ledger, target: str
) -> None:
    """The long one outlives its lease, so the loop must go on beside it."""
    with start(pool_url, tmp_path, "--min-idle-claim-ms", "300", target=target) as pool:
        pool.wait_ready()
        short = ledger.push(*({} for _ in range(500)))
        ledger.wait_ended(500)
        [long] = ledger.push({"s": 1})
        ledger.wait(lambda: len(ledger.started()) == 501, "the long one runs")
        assert pool.drain() == 0
        assert ledger.executions() == dict.fromkeys([*short, long], 1)
        assert len(ledger.ended()) == 501


@BOTH
def test_a_signal_to_an_idle_worker_is_heard_at_once(
    pool_url: str, tmp_path: Path, ledger: Ledger, target: str
) -> None:
    with start(pool_url, tmp_path, target=target) as pool:
        pool.wait_ready()
        [pid] = pool.workers()
        began_s = time.monotonic()
        os.kill(pid, signal.SIGTERM)
        wait_until(lambda: pid not in pool.workers(), 5, "the worker has left")
        assert time.monotonic() - began_s < 2
        ledger.push({})
        ledger.wait_ended(1)


@BOTH
def test_the_soft_limit_is_raised_inside_the_handler(
    pool_url: str, tmp_path: Path, ledger: Ledger, target: str
) -> None:
    args = ("--soft-time-limit", "0.3", "--max-deliveries", "1")
    with start(pool_url, tmp_path, *args, target=target) as pool:
        pool.wait_ready()
        before = pool.workers()
        [slow] = ledger.push({"s": 30})
        ledger.wait(lambda: bool(ledger.letters()), "a dead letter")
        quick = ledger.push({})
        ledger.wait_ended(1)
        [letter] = ledger.letters()
        assert letter["last_error"].startswith("SoftTimeLimitExceeded: ")
        assert (letter["original_id"], [n.id for n in ledger.ended()]) == (slow, quick)
        assert pool.workers() == before


def test_a_killed_worker_s_message_runs_in_its_successor(
    pool_url: str, tmp_path: Path, ledger: Ledger
) -> None:
    with start(pool_url, tmp_path, target="app:handler") as pool:
        pool.wait_ready()
        [held] = ledger.push({"s": 1})
        ledger.wait(lambda: bool(ledger.started()), "it runs")
        os.kill(pool.workers()[0], signal.SIGKILL)
        ledger.wait_ended(1)
        assert ledger.executions() == {held: 2}
