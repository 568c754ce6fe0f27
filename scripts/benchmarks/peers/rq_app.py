"""RQ with SimpleWorker, which its "Notes on Performance" name for very short jobs: it runs them in
the worker itself instead of a fork each. Jobs are pushed in bulk, and no results are kept.
"""

from __future__ import annotations

import os

from redis import Redis
from rq import Queue  # type: ignore[import-not-found]

from . import tasks

CHUNK = 1000


def push(kind: str, count: int, iterations: int) -> None:
    queue = Queue(connection=Redis.from_url(os.environ[tasks.URL_ENV]))
    function = f"scripts.benchmarks.peers.tasks.{kind}"
    for start in range(0, count, CHUNK):
        jobs = [
            Queue.prepare_data(function, (iterations,), result_ttl=0)
            for _ in range(min(CHUNK, count - start))
        ]
        queue.enqueue_many(jobs)


if __name__ == "__main__":
    tasks.push_main(push)
