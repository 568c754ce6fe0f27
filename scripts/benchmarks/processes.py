"""Raw loops, library consumers and busy loops in processes of their own, gone after the block."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.support.pool import ROOT, PoolProcess, plain_environment

from .names import GROUP, KEY
from .notes import NOTES_ENV
from .server import BenchServer

Children = list[subprocess.Popen[str]]


@contextmanager
def modules(count: int, name: str, *args: str, notes: Path | None = None) -> Iterator[Children]:
    """``count`` processes of ``python -m scripts.benchmarks.NAME ARGS``, killed at the end."""
    children: Children = []
    env = plain_environment(None)
    if notes is not None:
        env[NOTES_ENV] = str(notes)
    try:
        for _ in range(count):
            children.append(
                subprocess.Popen(
                    [sys.executable, "-m", f"scripts.benchmarks.{name}", *args],
                    cwd=ROOT,
                    env=env,
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    text=True,
                    start_new_session=True,  # a Ctrl-C is for the driver
                )
            )
        yield children
    finally:
        for child in children:
            child.kill()
        for child in children:
            child.communicate()


@contextmanager
def raw_loops(
    server: BenchServer,
    count: int,
    kind: str = "nothing",
    notes: Path | None = None,
    wait: bool = True,
) -> Iterator[Children]:
    """Raw loops that wait for messages; wait: as with ``pool``."""
    with modules(count, "raw", kind, server.url, notes=notes) as children:
        if wait:
            server.wait_blocked(count)
        yield children


@contextmanager
def consumers(
    server: BenchServer, module: str, handler: str, notes: Path | None = None, *, count: int = 2
) -> Iterator[None]:
    """StreamConsumers that wait for messages; module: ``library`` or ``original``."""
    with modules(count, module, handler, server.url, notes=notes):
        server.wait_blocked(count)
        yield


@contextmanager
def pool(
    server: BenchServer,
    handler: str,
    workers: int,
    *options: str,
    cwd: Path,
    notes: Path | None = None,
    wait: bool = True,
    app: str = "app",
) -> Iterator[PoolProcess]:
    """A pool whose workers wait for messages.

    handler: of the module ``app``. wait: False = only that it is ready, for a stream that holds
    messages already.
    """
    process = PoolProcess(
        None,
        *("--workers", str(workers), "--stream", KEY, "--group", GROUP, *options),
        url=server.url,
        cwd=cwd,
        target=f"scripts.benchmarks.{app}:{handler}",
        env={NOTES_ENV: str(notes)} if notes is not None else None,
    )
    with process:
        process.wait_ready()
        if wait:
            server.wait_blocked(workers)
        yield process
