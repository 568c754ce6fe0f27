"""Promise 8, no silent stop: a stopped process (SIGSTOP) works again within 2 s of SIGCONT.

Each is stopped for longer than ``min_idle_claim_ms``, so others may take over what it holds: those
messages may run twice. None is lost, and none is stuck.
"""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from tests.pool.scene import WORKERS, Scene, last
from tests.pool.trial import RECOVERY_S, Trial
from tests.support.waiting import wait_until

STOPPED_S = 2.5  # longer than a read may take, and than two sweeps
OPTIONS = ("--min-idle-claim-ms", "1000")


def test_a_worker_that_is_stopped_in_its_handler(scene: Scene) -> None:
    """The other one does everything meanwhile, retries too."""
    _, trial = scene.pool(scene.server(), *OPTIONS)
    with trial.through("SIGSTOP of a busy worker", repeats=True) as fault:
        meanwhile, handled = stop(fault.running.pid, trial)
    assert handled >= meanwhile


@pytest.mark.parametrize("slot", range(WORKERS))
def test_a_worker_that_is_stopped_while_it_waits(scene: Scene, slot: int) -> None:
    """The other one does everything meanwhile: retries, and what Redis hands to the stopped one."""
    pool, trial = scene.pool(scene.server(), *OPTIONS)
    what = f"SIGSTOP of the idle worker {slot}"
    with trial.through(what, running={"s": 0}, repeats=True) as fault:
        trial.wait_run(fault.running.id)
        meanwhile, handled = stop(pool.workers()[slot], trial)
    assert handled >= meanwhile


def stop(pid: int, trial: Trial) -> tuple[set[str], set[str]]:
    """Stop a worker, push, and let it go on. Returns what was pushed, and what was handled while
    it was stopped."""
    os.kill(pid, signal.SIGSTOP)
    wait_until(lambda: all_threads_stopped(pid), STOPPED_S, "all threads have stopped")
    pushed = {trial.push(do="retry"), *(trial.push() for _ in range(10))}
    last(STOPPED_S)
    handled = {run.id for run in trial.runs("ended")}
    os.kill(pid, signal.SIGCONT)
    return pushed, handled


def all_threads_stopped(pid: int) -> bool:
    """Has the signal arrived? One thread gets it, and tells the others when it runs."""
    stats = [(task / "stat").read_text() for task in Path(f"/proc/{pid}/task").iterdir()]
    return all(stat.rpartition(")")[2].split()[0] == "T" for stat in stats)


def test_the_stopped_master(scene: Scene) -> None:
    """The workers go on without it; a retry, which is for the master to hand out, waits for it."""
    pool, trial = scene.pool(scene.server(), *OPTIONS)
    with trial.through("SIGSTOP of the master", repeats=True) as fault:
        pool.send(signal.SIGSTOP)
        retry = trial.push(do="retry")
        meanwhile = [trial.push() for _ in range(10)]
        last(STOPPED_S)
        handled = {run.id for run in trial.runs("ended")}
        pool.send(signal.SIGCONT)
    assert handled >= set(meanwhile)
    assert retry not in handled
    assert trial.wait_run(retry).at_s - fault.end_s < RECOVERY_S


def test_a_stopped_consumer(scene: Scene) -> None:
    """A standalone StreamConsumer, alone in its group: what is pushed meanwhile waits for it."""
    consumer, trial = scene.consumer(scene.server(), min_idle_claim_ms=1000)
    with trial.through("SIGSTOP of a consumer", repeats=True):
        os.kill(consumer.pid, signal.SIGSTOP)
        for _ in range(10):
            trial.push()
        last(STOPPED_S)
        os.kill(consumer.pid, signal.SIGCONT)


def test_stopped_redis(scene: Scene) -> None:
    """Connections stay open and nothing answers; what was asked meanwhile is answered late."""
    server = scene.server()
    _, trial = scene.pool(server, *OPTIONS)
    with trial.through("SIGSTOP of redis", repeats=True):
        server.pause()
        last(STOPPED_S)
        server.resume()
