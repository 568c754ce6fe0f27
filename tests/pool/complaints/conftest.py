"""rsq-pool that cannot work: started to its end, and what it said."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.guarded import SECRET
from tests.support.pool import PoolProcess
from tests.support.servers import free_port

HANDLER = """
from redis_stream_queue import per_message
def handler(messages):
    return [m.id for m in messages]

def _hidden(messages):
    return []

class Handler:
    def __call__(self, messages):
        return []

number = 5

def two(messages, more):
    return []

@per_message
def each():
    pass
"""

DECORATED = """
from redis_stream_queue import stream_handler

@stream_handler("orders"{settings})
def handler(messages):
    return [m.id for m in messages]
"""

SOON = ("--connect-timeout", "0.5")
ENDS_WITHIN_S = 8.0

StartPool = Callable[..., PoolProcess]


@pytest.fixture
def start_pool(tmp_path: Path) -> Iterator[StartPool]:
    """Start a pool of two workers; all that was started is gone after the test."""
    started: list[PoolProcess] = []

    def start(
        *args: str, app: str = HANDLER, url: str | None = None, **options: Any
    ) -> PoolProcess:
        pool = PoolProcess(app, "--workers", "2", *args, url=url, cwd=tmp_path, **options)
        started.append(pool)
        return pool

    yield start
    for pool in started:
        pool.close()


def dead_url() -> str:
    """A URL where nobody listens."""
    return f"redis://127.0.0.1:{free_port()}/0"


def complaint(pool: PoolProcess, code: int) -> str:
    """Wait for the end; the one sentence that the pool says. It says nothing else."""
    ended = pool.wait(ENDS_WITHIN_S)
    assert "Traceback" not in pool.stderr
    assert ended == code, pool.stderr
    assert SECRET not in pool.stderr + pool.stdout
    assert pool.stdout == ""
    lines = [
        line
        for line in pool.stderr.splitlines()
        if line and not line.startswith(("Usage: rsq-pool ", "Try 'rsq-pool --help'"))
    ]
    assert len(lines) == 1, pool.stderr
    return lines[0]
