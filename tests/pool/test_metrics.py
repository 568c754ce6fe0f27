"""Promise of the metrics: they come through the pipes, are exact whoever is killed, and never go
back; and nobody is harmed by a pipe that is not read or holds nonsense."""

from __future__ import annotations

import os
import random
import re
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from redis_stream_queue import ConsumerConfig, StreamClient, StreamProducer
from redis_stream_queue._clock import mono_ms
from redis_stream_queue.pool.master.recovery import Death, Recovery
from redis_stream_queue.pool.master.slots import nobody
from redis_stream_queue.pool.metrics_pipe import REPORT_S
from redis_stream_queue.pool.scoreboard import Scoreboard
from redis_stream_queue.pool.settings import Settings
from redis_stream_queue.pool.totals import Unconfirmed
from tests.support.ledger import STREAM, Ledger
from tests.support.pool import PoolProcess
from tests.support.waiting import wait_until

APP = """
import contextlib, fcntl, os, stat, time
from redis_stream_queue import Reject, per_message, stream_handler
from redis_stream_queue.pool import metrics_pipe
from redis_stream_queue.pool.worker import process

def metrics_fd():
    for fd in map(int, os.listdir("/proc/self/fd")):
        try:
            flags, mode = fcntl.fcntl(fd, fcntl.F_GETFL), os.fstat(fd).st_mode
        except OSError:
            continue
        if stat.S_ISFIFO(mode) and flags & os.O_ACCMODE == os.O_WRONLY and flags & os.O_NONBLOCK:
            return fd

@stream_handler("work", group="crew", max_deliveries=1000)
@per_message
def handler(message):
    do = message.data.get("do")
    time.sleep(message.data.get("s", 0))
    if do == "reject":
        raise Reject("not for us")
    if do == "nonsense":
        with contextlib.suppress(OSError):  # full, or nobody listens any more
            os.write(metrics_fd(), os.urandom(30_000))
"""
OFTEN = "metrics_pipe.REPORT_S = 0.001\n"
BOASTS = "process.of_row = lambda row: {'acked': 1_000_000}\n"

_HANDLED = re.compile(r"handled (\d+) \(.*, dead (\d+), ")
_SNAPSHOTS = re.compile(r"WorkerMetrics\(slot=(\d+),.*, snapshots=(\d+)")

Start = Callable[..., PoolProcess]


@pytest.fixture
def start(pool_url: str, tmp_path: Path) -> Iterator[Start]:
    """Start a pool on the app, with more lines at its end."""
    with ExitStack() as stack:

        def start(workers: int, more: str = "") -> PoolProcess:
            pool = PoolProcess(
                APP + more,
                "--workers",
                str(workers),
                "--log-level",
                "debug",
                url=pool_url,
                cwd=tmp_path,
            )
            return stack.enter_context(pool).wait_ready()

        yield start


def said(pool: PoolProcess) -> list[tuple[int, int]]:
    """What the master said so far: handled, dead."""
    return [(int(handled), int(dead)) for handled, dead in _HANDLED.findall(pool.stderr)]


@pytest.mark.parametrize(
    ("for_s", "every_s"), [(4, 0.2), pytest.param(60, 1, marks=pytest.mark.soak)]
)
def test_totals_equal_the_ledger_though_workers_are_killed(
    start: Start, ledger: Ledger, for_s: float, every_s: float
) -> None:
    """kill -9 again and again under load: every message is counted once, handled or dead; no total
    that is seen meanwhile is less than the one before, and nothing is left open."""
    pool = start(4)
    files = len(os.listdir(f"/proc/{pool.pid}/fd"))
    ids: list[str] = []
    dead = kills = 0
    until_s = time.monotonic() + for_s
    next_s = time.monotonic() + every_s
    while time.monotonic() < until_s or kills < for_s / every_s / 3:
        rejected = random.randrange(5)
        ids += ledger.push(*({"do": "reject"} for _ in range(rejected)))
        ids += ledger.push(*({"s": 0.002} for _ in range(20)))
        dead += rejected
        wait_until(lambda: _unfinished(ledger) < 200, 15, "the workers keep up")
        if time.monotonic() >= next_s and (workers := pool.workers()):
            os.kill(random.choice(workers), signal.SIGKILL)
            pool.send(signal.SIGUSR1)
            next_s, kills = time.monotonic() + every_s, kills + 1
    ledger.wait_settled(ids, timeout_s=60)
    wait_until(lambda: len(pool.workers()) == 4, 15, "4 workers again")
    wait_until(
        lambda: len(os.listdir(f"/proc/{pool.pid}/fd")) <= files + 2, 5, "no descriptor is left"
    )
    assert pool.drain() == 0

    seen = said(pool)
    assert seen[-1] == (len(ids) - dead, dead)
    assert seen == sorted(seen)
    assert seen == sorted(seen, key=lambda pair: pair[1])
    assert len(ledger.letters()) == dead


def test_what_the_master_adds_up_came_through_the_pipes(start: Start, ledger: Ledger) -> None:
    """A worker that boasts is believed, and its successor adds to that: the row alone says 0."""
    pool = start(1, BOASTS)
    wait_until(lambda: _say(pool)[-1][0] == 1_000_000, 15, "the boast is counted")
    os.kill(pool.workers()[0], signal.SIGKILL)
    wait_until(lambda: _say(pool)[-1][0] == 2_000_000, 15, "and its successor's")


def test_each_worker_reports_while_something_moves(start: Start, ledger: Ledger) -> None:
    pool = start(2)
    while min(_snapshots(pool).values()) < 1 or sum(_snapshots(pool).values()) < 4:
        ledger.push(*({"s": 0.01} for _ in range(20)))
        ledger.wait_nothing_pending()
    seen = [_snapshots(pool)]

    def quiet() -> bool:
        time.sleep(1.5 * REPORT_S)
        seen.append(_snapshots(pool))
        return seen[-1] == seen[-2]

    wait_until(quiet, 15, "no reports without news")


def test_a_pipe_that_nobody_reads_stops_no_worker(start: Start, ledger: Ledger) -> None:
    """The master is stopped until the pipes are long full: the work goes on, all is counted."""
    pool = start(2, OFTEN)
    pool.send(signal.SIGSTOP)
    ids = ledger.push(*({"s": 0.002} for _ in range(3000)))
    ledger.wait_settled(ids, timeout_s=30)
    pool.send(signal.SIGCONT)
    wait_until(lambda: _say(pool)[-1] == (3000, 0), 15, "all is counted")
    assert pool.drain() == 0
    assert said(pool)[-1] == (3000, 0)


def test_nonsense_in_a_pipe_harms_nobody(start: Start, ledger: Ledger) -> None:
    """Random bytes in the pipes: said once for each, the work goes on, all is counted."""
    pool = start(2)
    for _ in range(4):
        ids = ledger.push({"do": "nonsense"}, *({"s": 0.002} for _ in range(100)))
        ledger.wait_settled(ids)
    wait_until(lambda: _say(pool)[-1] == (404, 0), 15, "all is counted")
    assert pool.drain() == 0
    assert said(pool)[-1] == (404, 0)
    assert 1 <= pool.stderr.count("what is no snapshot") <= 2
    assert "Traceback" not in pool.stderr


def _unfinished(ledger: Ledger) -> int:
    [group] = ledger.redis.xinfo_groups(STREAM)
    return int(group["pending"]) + int(group["lag"] or 0)


def _say(pool: PoolProcess) -> list[tuple[int, int]]:
    """Ask the master how things are; what it has said so far, one line at least."""
    before = len(said(pool))
    pool.send(signal.SIGUSR1)
    wait_until(lambda: len(said(pool)) > before, 5, "the master says its status")
    return said(pool)


def _snapshots(pool: PoolProcess) -> dict[int, int]:
    """How many snapshots of each slot the master has got by now."""
    before = len(_SNAPSHOTS.findall(pool.stderr))
    pool.send(signal.SIGUSR1)
    wait_until(lambda: len(_SNAPSHOTS.findall(pool.stderr)) >= before + 2, 5, "a line of each slot")
    return {int(slot): int(count) for slot, count in _SNAPSHOTS.findall(pool.stderr)}


async def test_what_a_killed_worker_had_asked_for_is_counted_if_it_was_done(pool_url: str) -> None:
    """It was killed after its last commands and before their answers: one was done, one was not."""
    client, consumer = StreamClient.from_url(pool_url), ConsumerConfig(group="crew")
    done, held = await StreamProducer(client, STREAM, group="crew").push_many([1, 2])
    await client.create_group(STREAM, "crew")
    await client.read(STREAM, "crew", "dead", 2, 0)
    await client.command("XACK", STREAM, "crew", done)
    settings = Settings(STREAM, consumer, 1, False, policy=consumer.policy, limited=False)
    recovery = Recovery(client, settings, Scoreboard(), list)
    death, counted = Death("dead", mono_ms(), nobody, "killed"), list[tuple[str, int]]()
    death.unconfirmed = [Unconfirmed("acked", 3, done), Unconfirmed("dead", 1, held)]
    death.confirm = lambda name, count: counted.append((name, count))

    recovery.died(death)
    await recovery.look_at_deaths()
    await recovery.look_at_deaths()

    assert counted == [("acked", 3)]
    await client.close()
