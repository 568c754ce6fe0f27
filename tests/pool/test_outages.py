"""Promise 12: what runs in a living process is not taken for abandoned, whatever Redis did."""

from __future__ import annotations

import os
import signal
from collections import Counter
from collections.abc import Callable

import psutil
import pytest

from tests.pool.scene import Scene, last
from tests.support.servers import Server
from tests.support.waiting import wait_until

AWAY_S = 2.2  # longer than min_idle_claim_ms and a look of any master
OPTIONS = ("--max-deliveries", "1", "--min-idle-claim-ms")
# How many pools, their min_idle_claim_ms, how often Redis is away, and how long.
OUTAGES = [(2, "1500", 2, AWAY_S), pytest.param(3, "2000", 3, 4.0, marks=pytest.mark.soak)]


def stopped(server: Server, away_s: float) -> None:
    """It hangs: connections stay open."""
    server.pause()
    last(away_s)
    server.resume()


def killed(server: Server, away_s: float) -> None:
    server.kill()
    last(away_s)
    server.restart()


@pytest.mark.long
@pytest.mark.parametrize("outage", [stopped, killed])
@pytest.mark.parametrize(("pools", "min_idle_ms", "times", "away_s"), OUTAGES)
def test_what_runs_through_an_outage_is_neither_buried_nor_run_twice(
    scene: Scene,
    outage: Callable[[Server, float], None],
    pools: int,
    min_idle_ms: str,
    times: int,
    away_s: float,
) -> None:
    """This delivery is the last permitted one of each message."""
    server = scene.server()
    *_, (_, trial) = [scene.pool(server, *OPTIONS, min_idle_ms) for _ in range(pools)]
    everybody = 2 * pools
    ids = [trial.push(s=2 * times * away_s) for _ in range(everybody)]
    wait_until(lambda: len(trial.runs("started")) == everybody, 10, "all are running")
    for _ in range(times):
        outage(server, away_s)
        with server.client() as client:
            wait_until(lambda: _all_renewed(client, trial.runs("started")), 5, "leases are fresh")
    wait_until(lambda: len(trial.runs("ended")) == everybody, 30, "all have ended")
    assert Counter(run.id for run in trial.runs("started")) == dict.fromkeys(ids, 1)
    with server.client() as client:
        assert client.xlen("work_dlq") == 0


def test_a_server_that_refuses_every_renewal_is_no_flood(scene: Scene) -> None:
    """All leases are refused alike, so that is said of the server, and ever more rarely."""
    server = scene.server()
    pool, trial = scene.pool(server, "--min-idle-claim-ms", "1000")
    for _ in range(2):
        trial.push(s=3)
    wait_until(lambda: len(trial.runs("started")) == 2, 10, "both are running")
    with server.client() as client:
        client.config_set("min-replicas-to-write", 1)
        pool.wait_log("renewing leases: NOREPLICAS")
        last(2)
        client.config_set("min-replicas-to-write", 0)
    wait_until(lambda: len(trial.runs("ended")) == 2, 10, "both have ended")
    lines = [line for line in pool.stderr.splitlines() if "NOREPLICAS" in line]
    assert len([line for line in lines if "master" in line]) <= 4
    assert len(lines) <= 12
    assert pool.drain() == 0


def test_what_a_stopped_pool_runs_is_not_taken_by_one_that_slept_as_long(scene: Scene) -> None:
    """The whole machine slept, but Redis did not: nobody has seen anybody not renew."""
    server = scene.server()
    one, trial = scene.pool(server, *OPTIONS, "1500")
    other, _ = scene.pool(server, *OPTIONS, "1500")
    everybody = [*one.processes(), *other.processes()]
    ids = [trial.push(s=2 * AWAY_S) for _ in range(4)]
    wait_until(lambda: len(trial.runs("started")) == 4, 10, "all are running")
    for process in everybody:
        process.send_signal(signal.SIGSTOP)
    last(AWAY_S)
    for process in everybody:
        process.send_signal(signal.SIGCONT)
    wait_until(lambda: len(trial.runs("ended")) == 4, 30, "all have ended")
    assert Counter(run.id for run in trial.runs("started")) == dict.fromkeys(ids, 1)


def test_the_messages_of_a_host_that_died_are_taken_over_in_time(scene: Scene) -> None:
    """Watching begins before they are due, and nothing else is waited for."""
    server = scene.server()
    one, trial = scene.pool(server, "--min-idle-claim-ms", "2000")
    for _ in range(2):
        trial.push(s=0.4)
    wait_until(lambda: len(trial.runs("ended")) == 2, 10, "the first ones have ended")
    ids = [trial.push(s=3) for _ in range(2)]
    wait_until(lambda: len(trial.runs("started")) == 4, 10, "the next ones run")
    other, _ = scene.pool(server, "--min-idle-claim-ms", "2000")
    for process in [psutil.Process(one.pid), *one.processes()]:
        os.kill(process.pid, signal.SIGKILL)
    again = wait_until(lambda: trial.runs("started")[4:], 5, "one of them starts again")
    assert again[0].id in ids
    assert again[0].pid in other.workers()


def _all_renewed(client: object, started: object) -> bool:
    pending = client.xpending_range("work", "crew", "-", "+", 10)  # type: ignore[attr-defined]
    return bool(pending) and all(line["time_since_delivered"] < 1000 for line in pending)
