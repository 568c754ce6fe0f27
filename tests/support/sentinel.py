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
# ms. What a Sentinel knows of a replica is good for five ping periods, and it asks once a second
# while the master is down: with shorter ones it often finds no good replica, and waits.
HURRY = ("INFO-PERIOD", 200, "PUBLISH-PERIOD", 200, "PING-PERIOD", 300, "ASK-PERIOD", 100)


class SentinelSet:
    """``servers``: the first is the master at the beginning."""

    def __init__(self, name: str = "valkey-9.1") -> None:
        self._name = name
        self.directory = Path(tempfile.mkdtemp(prefix="rsq-sentinel-"))
        self.servers: list[Server] = []
        self.ports: list[int] = []
        self._children: list[subprocess.Popen[bytes]] = []
        try:
            at_once = ["--repl-diskless-sync-delay", "0"]
            self.servers.append(Server.start(name, tcp=True, extra_args=at_once))
            replicaof = ["--replicaof", f"127.0.0.1 {self.servers[0].port}", *at_once]
            self.servers.append(Server.start(name, tcp=True, extra_args=replicaof))
            wait_until(self._replicates, READY_TIMEOUT_S, "the replica has all that there is")
            master = self.servers[0].port
            self.ports = [self.start_sentinel(master) for _ in range(SENTINELS)]
            for port in self.ports:
                wait_until(lambda port=port: self._knows_all(port), READY_TIMEOUT_S,  # type: ignore[misc]
                           f"sentinel {port} knows the others and the replica")  # fmt: skip
        except BaseException:
            self.stop()
            raise

    def start_sentinel(self, master_port: int) -> int:
        """Start one more Sentinel, told that this is the master; returns its port.

        It finds the others through the master, so one that is told wrong stays alone.
        """
        port = free_port()
        settings = self.directory / f"sentinel-{port}.conf"
        settings.write_text(
            f"port {port}\nbind 127.0.0.1\ndir {self.directory}\n"
            f"sentinel monitor {SERVICE} 127.0.0.1 {master_port} 2\n"
            f"sentinel down-after-milliseconds {SERVICE} 500\n"
            f"sentinel failover-timeout {SERVICE} 2000\n"
            f"sentinel parallel-syncs {SERVICE} 1\n"
        )
        child = subprocess.Popen(
            [str(server_binary(self._name)), str(settings), "--sentinel"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        self._children.append(child)
        wait_until(lambda: _answers(port), READY_TIMEOUT_S, f"sentinel {port} answers")
        with redis.Redis(port=port) as sentinel:
            sentinel.execute_command("SENTINEL DEBUG", *HURRY)
        return port

    def _replicates(self) -> bool:
        with self.servers[1].client() as client:
            return bool(client.info("replication")["master_link_status"] == "up")

    def _knows_all(self, port: int) -> bool:
        with contextlib.suppress(redis.RedisError), redis.Redis(port=port) as sentinel:
            state = sentinel.sentinel_master(SERVICE)
            return bool(state["num-other-sentinels"] == SENTINELS - 1 and state["num-slaves"] == 1)
        return False

    @property
    def url(self) -> str:
        return self.url_of(self.ports)

    @staticmethod
    def url_of(ports: list[int]) -> str:
        """URL that names the Sentinels on these ports, to be asked in this order."""
        nodes = ",".join(f"127.0.0.1:{port}" for port in ports)
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


def _answers(port: int) -> bool:
    with contextlib.suppress(redis.RedisError), redis.Redis(port=port) as sentinel:
        return bool(sentinel.ping())
    return False
