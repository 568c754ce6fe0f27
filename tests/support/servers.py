"""Real servers that tests start, kill, pause and restart."""

from __future__ import annotations

import atexit
import contextlib
import os
import random
import shutil
import signal
import socket
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from .binaries import NAMES, ServerMissing, server_binary
from .waiting import wait_until

__all__ = ["NAMES", "Server", "ServerMissing", "free_port", "server_binary"]

READY_TIMEOUT_S = 10.0
PORT_ATTEMPTS = 5
PORTS = range(15_000, 32_768)  # below those that the system gives to connections

_mine: list[socket.socket] = []  # bound to the names of our ports; they end with this process


def free_port() -> int:
    """A TCP port on 127.0.0.1 that nobody listens on at this moment, and that no other process of
    tests is given as long as this one lives: a server may end there and start again."""
    for port in random.sample(PORTS, len(PORTS)):
        name = socket.socket(socket.AF_UNIX)
        try:
            name.bind(f"\0rsq-test-port-{port}")
            with socket.socket() as probe:
                probe.bind(("127.0.0.1", port))
        except OSError:
            name.close()
        else:
            _mine.append(name)
            return port
    raise AssertionError(f"all ports of {PORTS} are taken")


class Server:
    """One server with a directory of its own; it keeps its data over kill() and restart().

    url: for StreamClient.from_url; ``port`` is 0 on a unix socket.
    """

    def __init__(
        self,
        name: str,
        *,
        tcp: bool,
        password: str | None,
        extra_args: Sequence[str],
        env: dict[str, str] | None = None,
    ) -> None:
        self.name = name
        self.directory = Path(tempfile.mkdtemp(prefix="rsq-test-"))
        self.socket_path = None if tcp else str(self.directory / "server.sock")
        self.port = 0
        self.password = password
        self._tcp = tcp
        self._extra_args = list(extra_args)
        self._env = env or {}
        self._child: subprocess.Popen[bytes] | None = None

    @classmethod
    def start(
        cls,
        name: str,
        *,
        tcp: bool = False,
        password: str | None = None,
        extra_args: Sequence[str] = (),
        env: dict[str, str] | None = None,
    ) -> Server:
        """Start a server: on a unix socket, or on a free port of 127.0.0.1; env: added to ours."""
        server = cls(name, tcp=tcp, password=password, extra_args=extra_args, env=env)
        atexit.register(server.stop)
        try:
            for attempt in range(1, PORT_ATTEMPTS + 1):
                server.port = free_port() if tcp else 0
                try:
                    server._launch()
                    break
                except AssertionError:  # somebody else may have got the port meanwhile
                    if not tcp or attempt == PORT_ATTEMPTS:
                        raise
        except BaseException:
            server.stop()
            raise
        return server

    @property
    def url(self) -> str:
        credentials = f":{self.password}@" if self.password else ""
        if self._tcp:
            return f"redis://{credentials}127.0.0.1:{self.port}/0"
        return f"unix://{credentials}{self.socket_path}"

    @property
    def pid(self) -> int:
        assert self._child is not None, "the server was never started"
        return self._child.pid

    @property
    def alive(self) -> bool:
        return self._child is not None and self._child.poll() is None

    def client(self, **options: Any) -> redis.Redis:
        """A synchronous redis-py client; the caller closes it (``with``)."""
        options = {"socket_timeout": 5, "retry": Retry(NoBackoff(), 0), **options}
        return redis.Redis.from_url(self.url, **options)

    def flush(self) -> None:
        """Empty it, and first mend what a test has done to it: paused or killed."""
        if self.alive:
            self.resume()
        else:
            self._launch()
        with self.client() as client:
            client.flushall()

    def kill(self) -> None:
        """kill -9."""
        self._end(signal.SIGKILL)

    def restart(self) -> None:
        """Start it again on the same data and address; ends it in good order if it still runs."""
        self._end(signal.SIGTERM)
        self._launch()

    def pause(self) -> None:
        """SIGSTOP: it keeps its connections and answers nothing."""
        self._signal(signal.SIGSTOP)

    def resume(self) -> None:
        self._signal(signal.SIGCONT)

    def stop(self) -> None:
        """End it and remove its directory; safe twice."""
        atexit.unregister(self.stop)
        self._end(signal.SIGKILL)
        shutil.rmtree(self.directory, ignore_errors=True)

    def __enter__(self) -> Server:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _launch(self) -> None:
        """Start the process and wait until it has loaded its data."""
        command = [str(server_binary(self.name)), "--port", str(self.port)]
        if self.socket_path:
            command += ["--unixsocket", self.socket_path, "--unixsocketperm", "700"]
        else:
            command += ["--bind", "127.0.0.1"]
        if self.password:
            command += ["--requirepass", self.password]
        command += ["--dir", str(self.directory), "--logfile", "server.log", "--hz", "100"]
        command += ["--save", "", "--appendonly", "yes", "--appendfsync", "everysec"]
        self._child = subprocess.Popen(
            command + self._extra_args,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env={**os.environ, **self._env},
            start_new_session=True,  # a Ctrl-C is for pytest, which stops the server itself
        )
        what = f"{self.name} answers PING"
        try:
            wait_until(lambda: not self.alive or self._answers(), READY_TIMEOUT_S, what)
        except AssertionError:
            self._end(signal.SIGKILL)
            raise
        assert self.alive, f"{self.name} ended at once: {self._log_tail()}"

    def _answers(self) -> bool:
        with contextlib.suppress(redis.RedisError), self.client() as client:
            return bool(client.ping())
        return False

    def _log_tail(self) -> str:
        log = self.directory / "server.log"
        return log.read_text(errors="replace")[-500:] if log.exists() else "(no log)"

    def _signal(self, number: signal.Signals) -> None:
        if self._child is not None:
            self._child.send_signal(number)  # does nothing to a process that has ended

    def _end(self, number: signal.Signals) -> None:
        if self._child is not None:
            self._signal(number)
            self._signal(signal.SIGCONT)
            self._child.wait(timeout=READY_TIMEOUT_S)
