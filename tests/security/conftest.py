"""Fixtures: pools and ``rsq`` as a user starts them, on a server of the module's own."""

from __future__ import annotations

import contextlib
import io
import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import redis

from redis_stream_queue.cli.rsq import main
from tests.support.pool import PoolProcess

StartPool = Callable[..., PoolProcess]


class Done(NamedTuple):
    returncode: int
    stdout: bytes
    stderr: bytes


@pytest.fixture
def start_pool(pool_url: str, tmp_path: Path) -> Iterator[StartPool]:
    """Start a pool on an app of the test's own; all of them are gone after the test."""
    with ExitStack() as stack:

        def start(app: str, *args: str, **options: Any) -> PoolProcess:
            options = {"url": pool_url, **options}
            return stack.enter_context(PoolProcess(app, *args, cwd=tmp_path, **options))

        yield start


class Rsq:
    """``rsq`` in this process; what it printed is bytes."""

    def __init__(self, url: str) -> None:
        self.url = url

    def __call__(self, *args: str | bytes, url: str = "") -> Done:
        stdout = io.TextIOWrapper(io.BytesIO(), "utf-8", write_through=True)
        stderr = io.TextIOWrapper(io.BytesIO(), "utf-8", write_through=True)
        with contextlib.redirect_stdout(stdout), contextlib.redirect_stderr(stderr):
            code = self._run([os.fsdecode(arg) for arg in args], url or self.url)
        return Done(code, _written(stdout), _written(stderr))

    def _run(self, args: list[str], url: str) -> int:
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("REDIS_URL", url)
            try:
                main(args, prog_name="rsq")
            except SystemExit as ended:
                return ended.code if isinstance(ended.code, int) else 1
        return 0


def _written(stream: io.TextIOWrapper) -> bytes:
    stream.seek(0)
    return stream.buffer.read()


@pytest.fixture
def rsq(pool_url: str) -> Rsq:
    return Rsq(pool_url)


@pytest.fixture
def raw(pool_url: str) -> Iterator[Any]:
    """A plain client: what anybody could do."""
    with redis.Redis.from_url(pool_url) as client:
        yield client
