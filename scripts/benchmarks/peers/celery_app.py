"""Celery. Settings for many short tasks, from "Optimizing" in its user guide: a large prefetch, no
results; gossip, mingle and heartbeat are off on the command line. It acknowledges before it runs.
"""

from __future__ import annotations

import os

from celery import Celery  # type: ignore[import-not-found]

from . import tasks

_url = os.environ[tasks.URL_ENV].replace("unix://", "redis+socket://")
app = Celery("bench", broker=_url)
app.conf.update(
    task_ignore_result=True,
    worker_prefetch_multiplier=128,
    worker_disable_rate_limits=True,
)
nothing = app.task(tasks.nothing, name="nothing")
work = app.task(tasks.work, name="work")


def push(kind: str, count: int, iterations: int) -> None:
    task = {"nothing": nothing, "work": work}[kind]
    with app.producer_pool.acquire(block=True) as producer:
        for _ in range(count):
            task.apply_async((iterations,), producer=producer)


if __name__ == "__main__":
    tasks.push_main(push)
