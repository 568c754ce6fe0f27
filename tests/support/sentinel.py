"""A real master with a replica and three Sentinels on 127.0.0.1."""

from __future__ import annotations

import contextlib
import signal
import subprocess
import tempfile
from pathlib import Path
from shutil import rmtree

import redis

from .servers import Server, free_port, server_binary
from .waiting import wait_until

SERVICE = "mymaster"
SENTINELS = 3
READY_TIMEOUT_S = 30.0


class SentinelSet:
    """``servers``: the first is the master at the beginning."""

    def __init__(self, name: str = "valkey-9.1") -> None:
        self.directory = Path(tempfile.mkdtemp(prefix="rsq-sentinel-"))
        self.servers: list[Server] = []
        self.ports: list[int] = []
        self._children: list[subprocess.Popen[bytes]] = []
        try:
            self.servers.append(Server.start(name, tcp=True))
            replicaof = ["--replicaof", f"127.0.0.1 {self.servers[0].port}"]
            replicaof += ["--repl-diskless-sync-delay", "0"]
            self.servers.append(Server.start(name, tcp=True, extra_args=replicaof))
            for number in range(SENTINELS):
                self._start_sentinel(name, number)
            for port in self.ports:
                wait_until(lambda port=port: self._knows_all(port), READY_TIMEOUT_S,  # type: ignore[misc]
                           f"sentinel {port} knows the others and the replica")  # fmt: skip
        except BaseException:
            self.stop()
            raise

    def _start_sentinel(self, name: str, number: int) -> None:
        port = free_port()
        settings = self.directory / f"sentinel{number}.conf"
        settings.write_text(
            f"port {port}\nbind 127.0.0.1\ndir {self.directory}\n"
            f"sentinel monitor {SERVICE} 127.0.0.1 {self.servers[0].port} 2\n"
            f"sentinel down-after-milliseconds {SERVICE} 500\n"
            f"sentinel failover-timeout {SERVICE} 2000\n"
            f"sentinel parallel-syncs {SERVICE} 1\n"
        )
        child = subprocess.Popen(
            [str(server_binary(name)), str(settings), "--sentinel"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        self._children.append(child)
        self.ports.append(port)

    def _knows_all(self, port: int) -> bool:
        with contextlib.suppress(redis.RedisError), redis.Redis(port=port) as sentinel:
            state = sentinel.sentinel_master(SERVICE)
            return bool(state["num-other-sentinels"] == SENTINELS - 1 and state["num-slaves"] == 1)
        return False

    @property
    def url(self) -> str:
        nodes = ",".join(f"127.0.0.1:{port}" for port in self.ports)
        return f"redis+sentinel://{nodes}/{SERVICE}/0"

    def stop(self) -> None:
        """End everything; safe twice."""
        for child in self._children:
            child.send_signal(signal.SIGKILL)
            child.wait()
        for server in self.servers:
            server.stop()
        rmtree(self.directory, ignore_errors=True)

    def __enter__(self) -> SentinelSet:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
