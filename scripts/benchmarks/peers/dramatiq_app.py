"""Dramatiq: one process per core, as it does by itself; one thread in each for work that needs the
processor, its usual eight otherwise (on the command line).
"""

from __future__ import annotations

import os

import dramatiq  # type: ignore[import-not-found]
from dramatiq.brokers.redis import RedisBroker  # type: ignore[import-not-found]

from . import tasks

dramatiq.set_broker(RedisBroker(url=os.environ[tasks.URL_ENV]))
nothing = dramatiq.actor(tasks.nothing)
work = dramatiq.actor(tasks.work)


def push(kind: str, count: int, iterations: int) -> None:
    actor = {"nothing": nothing, "work": work}[kind]
    for _ in range(count):
        actor.send(iterations)


if __name__ == "__main__":
    tasks.push_main(push)
