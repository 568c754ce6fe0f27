"""Limits of a worker: time, soft time, messages, memory; and replacing all with fresh code."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from tests.support.ledger import SOURCE, Ledger
from tests.support.pool import PoolProcess
from tests.support.waiting import wait_until


def start(url: str, cwd: Path, *args: str, target: str = "app:handler") -> PoolProcess:
    return PoolProcess(SOURCE, *args, url=url, cwd=cwd, target=target)


def test_a_message_over_the_time_limit_is_killed_and_its_letter_says_where_it_was(
    pool_url: str, tmp_path: Path, ledger: Ledger
) -> None:
    """The worker is killed and replaced, the message counts a delivery; the dead letter names the
    limit and shows the stack."""
    args = ("--workers", "2", "--time-limit", "0.4", "--max-deliveries", "2")
    with start(pool_url, tmp_path, *args) as pool:
        pool.wait_ready()
        [slow] = ledger.push({"s": 60})
        quick = ledger.push(*({} for _ in range(10)))

        ledger.wait(lambda: bool(ledger.letters()), "a dead letter")
        ledger.wait_ended(10)

        [letter] = ledger.letters()
        assert letter["original_id"] == slow
        assert letter["last_error"].startswith("time limit 0.4 s\n")
        assert "handler" in letter["last_error"]
        assert ledger.executions() == {slow: 2, **dict.fromkeys(quick, 1)}
        wait_until(lambda: len(pool.workers()) == 2, 15, "both slots are filled again")


LATE = """
def asked_for_its_stack():
    files = [f"/proc/self/fd/{name}" for name in os.listdir("/proc/self/fd")]
    return any("rsq-stack" in os.readlink(file) and os.stat(file).st_size for file in files
               if os.path.lexists(file))

@stream_handler("work", group="crew")
@per_message
def late_handler(message):
    note("started", message)
    while message.data.get("late") and not asked_for_its_stack():
        time.sleep(0.005)
    time.sleep(message.data.get("s", 0))
    note("ended", message)
"""


def test_a_message_that_ends_while_its_stack_is_read_is_not_killed_nor_is_the_next(
    pool_url: str, tmp_path: Path, ledger: Ledger
) -> None:
    """Nor is the next one blamed, which runs when the kill would come."""
    args = ("--workers", "1", "--batch-size", "3", "--time-limit", "0.6", "--max-deliveries", "1")
    source = SOURCE + LATE
    with PoolProcess(source, *args, url=pool_url, cwd=tmp_path, target="app:late_handler") as pool:
        pool.wait_ready()
        before = pool.workers()
        ids = ledger.push({"late": True}, {"s": 0.5}, {"s": 0.1})
        ledger.wait(lambda: len(ledger.ended()) + len(ledger.letters()) == 3, "all have ended")

        assert ledger.letters() == []
        assert ledger.executions() == dict.fromkeys(ids, 1)
        assert pool.workers() == before


@pytest.mark.parametrize("target", ["app:handler", "app:async_handler"])
def test_the_soft_limit_is_raised_inside_the_handler(
    pool_url: str, tmp_path: Path, ledger: Ledger, target: str
) -> None:
    """SoftTimeLimitExceeded reaches a plain handler in its sleep, and an async one in its await;
    the message is a failed one, the worker lives on."""
    args = ("--workers", "1", "--soft-time-limit", "0.3", "--max-deliveries", "1")
    with start(pool_url, tmp_path, *args, target=target) as pool:
        pool.wait_ready()
        before = pool.workers()
        [slow] = ledger.push({"s": 30})
        ledger.wait(lambda: bool(ledger.letters()), "a dead letter")
        quick = ledger.push({"s": 0.01})
        ledger.wait_ended(1)

        [letter] = ledger.letters()
        assert letter["last_error"].startswith("SoftTimeLimitExceeded: ")
        assert len(ledger.notes.of("soft")) == 1
        assert [n.id for n in ledger.ended()] == quick
        assert letter["original_id"] == slow
        assert pool.workers() == before


def test_the_hard_limit_follows_where_the_soft_one_is_ignored(
    pool_url: str, tmp_path: Path, ledger: Ledger
) -> None:
    """A handler that catches the soft limit and goes on is killed by the hard one."""
    args = ("--soft-time-limit", "0.2", "--time-limit", "0.6", "--max-deliveries", "1")
    with start(pool_url, tmp_path, "--workers", "1", *args) as pool:
        pool.wait_ready()
        ledger.push({"s": 30, "stubborn": True})
        ledger.wait(lambda: bool(ledger.letters()), "a dead letter")
        assert ledger.letters()[0]["last_error"].startswith("time limit 0.6 s")
        assert len(ledger.notes.of("soft")) == 1


def test_no_life_handles_more_than_its_messages(
    pool_url: str, tmp_path: Path, ledger: Ledger
) -> None:
    """--max-messages-per-child: many lives, none above the limit, every message once."""
    args = ("--workers", "2", "--max-messages-per-child", "20")
    with start(pool_url, tmp_path, *args) as pool:
        pool.wait_ready()
        ids = ledger.push(*({} for _ in range(200)))
        ledger.wait_ended(200, timeout_s=60)
        per_life: dict[int, int] = {}
        for run in ledger.started():
            per_life[run.pid] = per_life.get(run.pid, 0) + 1
        assert ledger.executions() == dict.fromkeys(ids, 1)
        assert max(per_life.values()) <= 20
        assert len(per_life) >= 10
        assert pool.drain() == 0


def test_a_worker_that_has_grown_too_large_is_replaced_after_its_batch(
    pool_url: str, tmp_path: Path, ledger: Ledger
) -> None:
    """--max-memory-per-child: the successor is ready first, and nothing runs twice."""
    args = ("--workers", "1", "--max-memory-per-child", "150")
    with start(pool_url, tmp_path, *args) as pool:
        pool.wait_ready()
        [old] = pool.workers()
        [large] = ledger.push({"mb": 150})
        wait_until(lambda: pool.workers() not in ([], [old]), 10, "a successor")
        wait_until(lambda: old not in pool.workers(), 10, "the large worker has left")
        more = ledger.push({}, {})
        ledger.wait_ended(3)
        assert ledger.executions() == dict.fromkeys([large, *more], 1)
        assert "memory limit" in pool.stderr


def test_a_message_that_takes_far_too_much_memory_is_killed_at_once(
    pool_url: str, tmp_path: Path, ledger: Ledger
) -> None:
    """Twice the limit, most of it taken by what runs, does not wait for the end of the batch; the
    letter says why."""
    args = ("--workers", "1", "--max-memory-per-child", "100", "--max-deliveries", "1")
    with start(pool_url, tmp_path, *args) as pool:
        pool.wait_ready()
        ledger.push({})
        ledger.wait_ended(1)
        ledger.push({"mb": 300, "s": 60})
        ledger.wait(lambda: bool(ledger.letters()), "a dead letter")
        assert ledger.letters()[0]["last_error"].startswith("memory limit: ")


def test_sighup_replaces_all_workers_with_fresh_code(
    pool_url: str, tmp_path: Path, ledger: Ledger
) -> None:
    """HUP: every worker is replaced, runs the code as it is now, and no message runs twice."""
    with start(pool_url, tmp_path, "--workers", "2") as pool:
        pool.wait_ready()
        old = pool.workers()
        ids = ledger.push(*({"s": 0.2} for _ in range(6)))
        ledger.wait_started(2)
        (tmp_path / "app.py").write_text(
            SOURCE.replace('note("ended", message)', 'note("fresh", message)')
        )
        os.utime(tmp_path / "app.py", (1, 1))

        pool.send(signal.SIGHUP)
        wait_until(
            lambda: len(pool.workers()) == 2 and not set(pool.workers()) & set(old),
            15,
            "both workers are replaced",
        )
        ids += ledger.push({})
        ledger.wait(lambda: bool(ledger.notes.of("fresh")), "the new code runs")
        ledger.wait_nothing_pending()
        assert ledger.executions() == dict.fromkeys(ids, 1)
        assert pool.drain() == 0
