"""The storm: random actions at random moments, several at a time, all from one seed."""

from __future__ import annotations

import random
import threading
import time
from collections import Counter
from concurrent.futures import Future, ThreadPoolExecutor

from .actions import ACTIONS, Action
from .stage import Host, Stage

GAP_S = (0.1, 1.3)  # between two actions
MOST_AT_ONCE = 8
HICCUP_S = 0.3  # the machine itself did not let us run: counts as a fault, too


class Storm:
    """Rages until stop(); ``counts`` says what was done how often."""

    def __init__(self, stage: Stage, seed: int) -> None:
        self.counts: Counter[str] = Counter()
        self._world = stage
        self._random = random.Random(seed)
        self._doing: list[Future[None]] = []

    def rage(self, seconds: float) -> None:
        """Do things for so long, then wait for the last one to end."""
        stage, rng = self._world, self._random
        watch = threading.Thread(target=self._watch_machine, name="hiccups")
        watch.start()
        try:
            with ThreadPoolExecutor(MOST_AT_ONCE, "storm") as threads:
                try:
                    self._rage(threads, time.monotonic() + seconds, rng)
                finally:
                    stage.over.set()
        finally:
            stage.over.set()
            watch.join()
        for done in self._doing:
            if (error := done.exception()) is not None:
                raise error

    def _rage(self, threads: ThreadPoolExecutor, until_s: float, rng: random.Random) -> None:
        weights = [action.weight for action in ACTIONS]
        while time.monotonic() < until_s:
            self._world.pause(rng.uniform(*GAP_S))
            self._replace_ended_pools()
            [action] = rng.choices(ACTIONS, weights)
            host, own = rng.choice(self._world.hosts), random.Random(rng.random())
            locks = action.locks(self._world, host)
            taken = [lock for lock in locks if lock.acquire(blocking=False)]
            if len(taken) < len(locks):
                for lock in taken:
                    lock.release()
                continue
            self.counts[action.name] += 1
            self._doing.append(threads.submit(self._do, action, host, own))

    def _do(self, action: Action, host: Host, rng: random.Random) -> None:
        try:
            action.run(self._world, host, rng)
        finally:
            for lock in action.locks(self._world, host):
                lock.release()

    def _replace_ended_pools(self) -> None:
        for host in self._world.hosts:
            if host.pool_busy.acquire(blocking=False):
                self._world.replace_ended_pool(host)
                host.pool_busy.release()

    def _watch_machine(self) -> None:
        stage = self._world
        while not stage.over.is_set():
            before_s = time.time()
            stage.over.wait(0.02)
            if time.time() - before_s > HICCUP_S:
                hiccup = stage.faults.moment("machine hiccup", severs=True)
                hiccup.begin_s = before_s
