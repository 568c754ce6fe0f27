"""Apps that do with their process what real ones do, in a real pool; what they saw is in a file."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.support.ledger import Ledger
from tests.support.pool import PoolProcess
from tests.support.waiting import wait_until

NOTES = "RSQ_TEST_NOTES"  # environment variable: the file that the app writes to
QUICK = ("--retry-delay-ms", "10", "--max-deliveries", "2", "--batch-size", "5")

HEAD = f"""
import logging, os, signal, subprocess, sys, threading, time
from redis_stream_queue import per_message, stream_handler

def note(*what):
    file = os.open(os.environ["{NOTES}"], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(file, (" ".join(map(str, what)) + "\\n").encode())
    os.close(file)

handled = stream_handler("work", group="crew")
"""


class Scene:
    """Starts pools on an app, and knows what the app noted and which processes there are."""

    def __init__(self, url: str, cwd: Path, stack: ExitStack) -> None:
        self.url = url
        self.cwd = cwd
        self.ledger = Ledger(url, cwd / "ledger")  # (its notes are not used: the apps are others)
        self.push = self.ledger.push
        self._stack = stack
        self._notes = cwd / "notes"
        self._notes.touch()
        stack.callback(self.ledger.close)

    def start(
        self,
        app: str | None,
        *args: str,
        workers: int = 1,
        ready: bool = True,
        cwd: Path | None = None,
        env: dict[str, str] | None = None,
        **how: Any,
    ) -> PoolProcess:
        """A pool on an app.py of this text (None: as it is); its handler is called handler."""
        pool = PoolProcess(
            None if app is None else HEAD + app,
            "--workers",
            str(workers),
            *args,
            url=self.url,
            cwd=cwd or self.cwd,
            env={NOTES: str(self._notes), **(env or {})},
            **how,
        )
        self._stack.enter_context(pool)
        return pool.wait_ready() if ready else pool

    def notes(self, about: str = "") -> list[str]:
        """Lines that the app wrote, those that begin like this."""
        lines = self._notes.read_text(errors="replace").splitlines()
        return [line for line in lines if line.startswith(about)]

    def wait_notes(self, about: str, count: int = 1, timeout_s: float = 15) -> list[str]:
        wait_until(
            lambda: len(self.notes(about)) >= count,
            timeout_s,
            f"the app notes {about!r} {count} time(s)",
        )
        return self.notes(about)


def alive(pid: int) -> bool:
    """Does this process still run?"""
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def end(pid: int) -> None:
    """Kill what a test expects to live on."""
    if alive(pid):
        os.kill(pid, 9)


@pytest.fixture
def scene(pool_url: str, tmp_path: Path) -> Iterator[Scene]:
    with ExitStack() as stack:
        yield Scene(pool_url, tmp_path, stack)
