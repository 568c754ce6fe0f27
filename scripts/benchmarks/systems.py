"""Whom to compare: how to install each, how it pushes, how its two workers start."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import psutil

from tests.support.pool import ROOT, plain_environment

from . import original
from .boot_memory import pids_of
from .names import HOME
from .notes import NOTES_ENV
from .peers.tasks import URL_ENV
from .processes import modules, pool
from .server import BenchServer

WORKERS = 2
LEAVE_TIMEOUT_S = 10.0

Pids = Callable[[], list[int]]  # everything that runs at the moment
Workers = Callable[[BenchServer, str, Path], AbstractContextManager[Pids]]


@dataclass(frozen=True)
class System:
    """One queue.

    many: messages without work that it drains in about a second or two.
    module: pushes, as a program. workers: starts them for "nothing" or "work".
    requirements: what to install into an environment of its own; () = it needs none.
    """

    name: str
    many: int
    module: str
    workers: Workers
    requirements: tuple[str, ...] = ()

    @property
    def python(self) -> str:
        return str(HOME / self.name / "bin" / "python") if self.requirements else sys.executable

    def install(self) -> None:
        """Make the environment, unless it is there."""
        stamp = HOME / self.name / ".installed"
        wanted = " ".join(self.requirements)
        if not wanted or (stamp.exists() and stamp.read_text() == wanted):
            return
        print(f"installing {wanted} into .bench", file=sys.stderr, flush=True)
        _quietly([sys.executable, "-m", "venv", "--clear", str(HOME / self.name)])
        pip = [self.python, "-m", "pip", "--disable-pip-version-check", "-q"]
        _quietly([*pip, "install", *self.requirements])
        stamp.write_text(wanted)

    def push(self, server: BenchServer, kind: str, count: int, iterations: int) -> float:
        """Push messages from a process of its own; returns the seconds it took."""
        command = [self.python, "-m", f"scripts.benchmarks.peers.{self.module}"]
        done = subprocess.run(
            [*command, kind, str(count), str(iterations)],
            cwd=ROOT,
            env={**plain_environment(None), URL_ENV: server.url},
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            raise RuntimeError(f"{self.name} cannot push: {done.stderr[-2000:]}")
        return float(done.stdout)


def _quietly(command: list[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command[1:])} failed: {(done.stdout + done.stderr)[-2000:]}")


# -- ours and the raw loop -------------------------------------------------------------------------

HANDLERS = {"nothing": "noted", "work": "work"}


@contextmanager
def _pool(server: BenchServer, kind: str, notes: Path) -> Iterator[Pids]:
    options = {"cwd": notes.parent, "notes": notes, "wait": False}
    with pool(server, HANDLERS[kind], WORKERS, **options) as process:  # type: ignore[arg-type]
        yield lambda: pids_of(process)


@contextmanager
def _raw(server: BenchServer, kind: str, notes: Path) -> Iterator[Pids]:
    with modules(WORKERS, "raw", HANDLERS[kind], server.url, notes=notes) as children:
        yield lambda: [child.pid for child in children]


@contextmanager
def _original(server: BenchServer, kind: str, notes: Path) -> Iterator[Pids]:
    with modules(WORKERS, "original", HANDLERS[kind], server.url, notes=notes) as children:
        yield lambda: [child.pid for child in children]


# -- the others ------------------------------------------------------------------------------------


@contextmanager
def _command(
    words: dict[str, list[str]], server: BenchServer, kind: str, notes: Path
) -> Iterator[Pids]:
    """words: the command for each kind; its program lies in .bench, URL stands for the server's."""
    program, *arguments = [server.url if word == "URL" else word for word in words[kind]]
    environment = {**plain_environment(None), URL_ENV: server.url, NOTES_ENV: str(notes)}
    log = notes.with_suffix(".log")
    with log.open("wb") as output:
        child = subprocess.Popen(
            [str(HOME / program), *arguments],
            cwd=ROOT,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # a Ctrl-C is for the driver
        )
    process = psutil.Process(child.pid)
    try:
        yield lambda: [child.pid, *(p.pid for p in process.children(recursive=True))]
        if child.poll() is not None:
            raise RuntimeError(f"{program} ended early: {log.read_text()[-2000:]}")
    except TimeoutError as error:
        raise TimeoutError(f"{error}; {program} says: {log.read_text()[-2000:]}") from None
    finally:
        _end(child, process)


def _end(child: subprocess.Popen[bytes], process: psutil.Process) -> None:
    """Kill it and everything it has started."""
    family = process.children(recursive=True) if child.poll() is None else []
    if child.poll() is None:
        os.killpg(child.pid, signal.SIGKILL)
    for member in family:
        try:
            member.kill()
        except psutil.NoSuchProcess:
            continue
    child.wait(LEAVE_TIMEOUT_S)


def _same(*words: str) -> dict[str, list[str]]:
    return {"nothing": list(words), "work": list(words)}


_APPS = "scripts.benchmarks.peers"
_QUIET = ("--without-gossip", "--without-mingle", "--without-heartbeat", "--loglevel", "WARNING")
_CELERY = _same(
    *("celery/bin/celery", "-A", f"{_APPS}.celery_app", "worker", "-P", "prefork"),
    *("-c", str(WORKERS), *_QUIET),
)
_RQ = _same(
    *("rq/bin/rq", "worker-pool", "default", "-q", "-l", "WARNING", "--url", "URL"),
    *("-n", str(WORKERS), "-w", "rq.worker.SimpleWorker"),
)
_DRAMATIQ = ("dramatiq/bin/dramatiq", f"{_APPS}.dramatiq_app", "--processes", str(WORKERS))
_THREADS = {
    "nothing": [*_DRAMATIQ, "--threads", "8"],
    "work": [*_DRAMATIQ, "--threads", "1"],
}

RAW = System("raw loops", 100_000, "ours_app", _raw)
SYSTEMS = (
    System("ours", 100_000, "ours_app", _pool),
    System(original.VERSION, 20_000, "original_app", _original),
    System(
        "celery",
        5000,
        "celery_app",
        partial(_command, _CELERY),
        ("celery[redis]==5.7.0", "hiredis"),
    ),
    System("rq", 3000, "rq_app", partial(_command, _RQ), ("rq==2.12.0", "hiredis")),
    System(
        "dramatiq",
        5000,
        "dramatiq_app",
        partial(_command, _THREADS),
        ("dramatiq[redis]==2.2.1", "hiredis"),
    ),
)
