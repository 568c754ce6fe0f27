"""One server, two hosts, and everything that a run has to leave behind as it found it."""

from __future__ import annotations

import asyncio
import signal
import threading
import time
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any, TypeVar

import psutil

from redis_stream_queue import StreamClient
from tests.support.faultproxy import ThreadedFaultProxy
from tests.support.ledger import HOST_ENV, NOTES_ENV
from tests.support.pool import READY, PoolProcess
from tests.support.servers import Server

from . import app
from .faults import Faults
from .jump import JumpingClock
from .later import Cancelled
from .verdict import MIN_IDLE_S, Pushed

Answer = TypeVar("Answer")

GRACEFUL_S = 10
READY_S = 30.0
OPTIONS = (
    ("--workers", "2"),
    ("--min-idle-claim-ms", str(int(MIN_IDLE_S * 1000))),
    ("--retry-delay-ms", "50"),
    ("--graceful-timeout", str(GRACEFUL_S)),
    ("--connect-timeout", "60"),
    ("--log-level", "debug"),
)
SERVER_ARGS = ("--appendfsync", "always", "--enable-debug-command", "yes")


class Host:
    """A machine: one pool after the other, which reaches Redis through a proxy of the host's own.

    busy: held by whoever is doing something to the pool, its workers, or its network.
    """

    def __init__(self, name: str, directory: Path, target: str, server: Server) -> None:
        self.name = name
        self.pools: list[PoolProcess] = []
        self.pool_busy = threading.Lock()
        self.workers_busy = threading.Lock()
        self.network_busy = threading.Lock()
        self._directory = directory / name
        self._directory.mkdir()
        self._notes = directory / "notes"
        self._target = target
        assert server.socket_path is not None
        self.proxy = ThreadedFaultProxy(server.socket_path)

    @property
    def pool(self) -> PoolProcess:
        """The pool of now."""
        return self.pools[-1]

    @property
    def life(self) -> str:
        """Its name: the host's, and how many it has had."""
        return f"{self.name}{len(self.pools)}"

    def start_pool(self) -> None:
        life = f"{self.name}{len(self.pools) + 1}"
        directory = self._directory / life
        directory.mkdir()
        self.pools.append(
            PoolProcess(
                app.SOURCE,
                *(word for option in OPTIONS for word in option),
                url=self.proxy.url,
                cwd=directory,
                target=self._target,
                env={NOTES_ENV: str(self._notes), HOST_ENV: life},
            )
        )

    def is_ready(self) -> bool:
        """Has the pool of now said that it is ready?"""
        return self.pool.alive and READY in self.pool.stderr

    def workers(self) -> list[psutil.Process]:
        """Living workers of the pool of now."""
        return _living(self.pool.workers())

    def stop(self) -> None:
        """End all pools, and let the network go; safe twice."""
        try:
            for pool in self.pools:
                for process in pool.processes():
                    _signal(process, signal.SIGCONT)
                pool.close()
        finally:
            self.proxy.stop()


class Stage:
    """The server and the hosts ``A`` (a plain handler) and ``B`` (an async one)."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.faults = Faults()
        self.complaints: list[str] = []  # what must not happen, apart from messages
        self.over = threading.Event()
        self.redis_busy = threading.Lock()
        self.operator_busy = threading.Lock()
        self.pushed: list[Pushed] = []
        self.cancelled: list[Cancelled] = []
        self.hosts: list[Host] = []
        self.clock = JumpingClock(directory)
        self.server = Server.start("valkey-9.1", extra_args=SERVER_ARGS, env=self.clock.env)
        try:
            for name, target in (("A", "app:plain"), ("B", "app:asynchronous")):
                self.hosts.append(Host(name, directory, target, self.server))
        except BaseException:
            self.stop()
            raise

    def pause(self, seconds: float) -> None:
        """Sleep, but not beyond the end of the faults."""
        self.over.wait(seconds)

    def complain(self, text: str) -> None:
        self.complaints.append(f"{clock(time.time())} {text}")

    def heal(self) -> None:
        """No faults any more, and a pool on every host."""
        for host in self.hosts:
            host.proxy.heal()
            host.proxy.set(refuse=False)
            self.replace_ended_pool(host)
        if not self.server.alive:
            self.server.restart()
        self.server.resume()
        self.ask(lambda client: client.resume(app.STREAM))

    def ask(self, call: Callable[[StreamClient], Coroutine[Any, Any, Answer]]) -> Answer:
        """One command as an operator gives it, directly to the server."""

        async def ask() -> Answer:
            client = StreamClient.from_url(self.server.url, socket_timeout=5)
            try:
                return await call(client)
            finally:
                await client.close()

        return asyncio.run(ask())

    def replace_ended_pool(self, host: Host) -> None:
        """A pool that nobody told to end must not end."""
        if not host.pool.alive:
            code = host.pool.process.poll()
            self.complain(f"pool {host.life} ended by itself, exit code {code}")
            host.start_pool()

    def stop(self) -> None:
        """End everything; safe twice."""
        for host in self.hosts:
            host.stop()
        self.server.stop()


def clock(at_s: float) -> str:
    """A time as the pools' logs show it."""
    whole = time.strftime("%H:%M:%S", time.gmtime(at_s))
    return f"{whole}.{int(at_s % 1 * 1000):03d}"


def _living(pids: list[int]) -> list[psutil.Process]:
    living = []
    for pid in pids:
        try:
            living.append(psutil.Process(pid))
        except psutil.NoSuchProcess:
            continue
    return living


def _signal(process: psutil.Process, number: int) -> None:
    try:
        process.send_signal(number)
    except psutil.NoSuchProcess:
        return
