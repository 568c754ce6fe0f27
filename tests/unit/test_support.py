"""The tests' own tools do what they say."""

from __future__ import annotations

import asyncio
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator

import psutil
import pytest
import redis
import redis.asyncio
from redis.backoff import NoBackoff
from redis.cluster import RedisCluster
from redis.retry import Retry

from tests.support.cluster import Cluster
from tests.support.faultproxy import FaultProxy, ThreadedFaultProxy
from tests.support.leaks import child_processes_of_this_session, listening_ports
from tests.support.servers import NAMES, Server
from tests.support.waiting import wait_until, wait_until_async

ONCE = Retry(NoBackoff(), 0)


@pytest.fixture
def tcp_server() -> Iterator[Server]:
    with Server.start("valkey-9.1", tcp=True) as server:
        yield server


@pytest.fixture
def proxy(tcp_server: Server) -> Iterator[ThreadedFaultProxy]:
    with ThreadedFaultProxy(("127.0.0.1", tcp_server.port)) as proxy:
        yield proxy


@pytest.fixture
def through_proxy(proxy: ThreadedFaultProxy) -> Iterator[redis.Redis]:
    with redis.Redis.from_url(proxy.url, socket_timeout=0.5, retry=ONCE) as client:
        yield client


class TestServer:
    @pytest.mark.parametrize("name", NAMES)
    def test_data_survives_kill_and_restart_by_aof(self, name: str) -> None:
        with Server.start(name) as server:
            with server.client() as client:
                client.set("k", "v")
                client.config_set("appendfsync", "always")
                client.set("synced", "v")
            server.kill()
            assert not server.alive

            server.restart()

            with server.client() as client:
                assert client.mget("k", "synced") == [b"v", b"v"]

    def test_restart_of_a_living_server_makes_a_new_process(self) -> None:
        with Server.start("valkey-9.1") as server:
            before = server.pid
            server.restart()
            assert server.alive
            assert server.pid != before

    def test_tcp_server_with_a_password(self) -> None:
        with Server.start("redis-6.2", tcp=True, password="s3cret") as server:
            assert f":s3cret@127.0.0.1:{server.port}" in server.url
            assert server.port in listening_ports()
            with server.client() as client:
                assert client.ping()
            with (
                redis.Redis(port=server.port, password="wrong", retry=ONCE) as client,
                pytest.raises(redis.AuthenticationError),
            ):
                client.ping()

    def test_paused_server_answers_after_resume(self) -> None:
        with Server.start("valkey-9.1") as server:
            server.pause()
            with server.client(socket_timeout=0.1) as client, pytest.raises(redis.TimeoutError):
                client.ping()
            server.resume()
            with server.client() as client:
                assert client.ping()

    def test_nothing_is_left_after_stop_even_of_a_paused_one(self) -> None:
        server = Server.start("valkey-9.1")
        server.pause()
        server.stop()
        server.stop()
        assert not psutil.pid_exists(server.pid)
        assert not server.directory.exists()

    def test_flush_mends_a_killed_server(self) -> None:
        with Server.start("valkey-9.1") as server:
            with server.client() as client:
                client.set("k", "v")
            server.kill()
            server.flush()
            with server.client() as client:
                assert client.dbsize() == 0


class TestCluster:
    def test_forms_and_answers_for_keys_on_all_three_nodes(self) -> None:
        with Cluster.start() as cluster:
            keys = [f"k{i}" for i in range(30)]
            with RedisCluster.from_url(cluster.url.replace("redis+cluster", "redis")) as client:
                for key in keys:
                    client.set(key, key)
                assert all(client.get(key) == key.encode() for key in keys)
            for node in cluster.nodes:
                with node.client() as direct:
                    mine = [key for key in keys if cluster.node_of(key) is node]
                    assert direct.dbsize() == len(mine) > 0

            cluster.nodes[1].kill()
            cluster.flush()

            with RedisCluster.from_url(cluster.url.replace("redis+cluster", "redis")) as client:
                assert client.mget_nonatomic(keys) == [None] * len(keys)
        assert not any(node.alive for node in cluster.nodes)


class TestThreadedFaultProxy:
    def test_passes_everything_on(self, through_proxy: redis.Redis) -> None:
        through_proxy.set("k", "v" * 1_000_000)
        assert len(through_proxy.get("k") or b"") == 1_000_000

    def test_latency(self, proxy: ThreadedFaultProxy, through_proxy: redis.Redis) -> None:
        through_proxy.ping()
        proxy.set(latency_s=0.3)  # each way: more than the client's timeout of 0.5 s
        with pytest.raises(redis.TimeoutError):
            through_proxy.ping()
        proxy.heal()
        assert through_proxy.ping()

    def test_stall_and_resume(self, proxy: ThreadedFaultProxy, through_proxy: redis.Redis) -> None:
        through_proxy.ping()
        proxy.stall()
        with pytest.raises(redis.TimeoutError):
            through_proxy.ping()
        proxy.resume()
        assert through_proxy.ping()

    def test_cut_in_the_middle_of_a_reply(
        self, proxy: ThreadedFaultProxy, through_proxy: redis.Redis
    ) -> None:
        through_proxy.set("k", "v" * 1000)
        proxy.set(cut_after=500)
        with pytest.raises(redis.ConnectionError):
            through_proxy.get("k")
        proxy.heal()
        assert through_proxy.get("k") == b"v" * 1000

    def test_refuse(self, proxy: ThreadedFaultProxy, through_proxy: redis.Redis) -> None:
        proxy.set(refuse=True)
        with pytest.raises(redis.ConnectionError):
            through_proxy.ping()
        proxy.heal()
        assert through_proxy.ping()

    def test_reset_all_breaks_open_connections(self, proxy: ThreadedFaultProxy) -> None:
        with socket.create_connection(("127.0.0.1", proxy.port), timeout=5) as connection:
            connection.sendall(b"PING\r\n")
            assert connection.recv(100) == b"+PONG\r\n"
            assert proxy.connections == 1
            proxy.reset_all()
            with pytest.raises(ConnectionResetError):
                connection.recv(100)
        wait_until(lambda: proxy.connections == 0, 5, "the proxy has dropped the connection")

    def test_server_that_is_gone(
        self, tcp_server: Server, proxy: ThreadedFaultProxy, through_proxy: redis.Redis
    ) -> None:
        tcp_server.kill()
        with pytest.raises(redis.ConnectionError):
            through_proxy.ping()
        tcp_server.restart()
        assert through_proxy.ping()

    def test_stop_frees_the_port(self, tcp_server: Server) -> None:
        proxy = ThreadedFaultProxy(("127.0.0.1", tcp_server.port))
        assert proxy.port in listening_ports()
        proxy.stop()
        proxy.stop()
        assert proxy.port not in listening_ports()


async def test_fault_proxy_in_a_loop_breaks_a_blocked_read() -> None:
    with Server.start("valkey-9.1") as server:
        assert server.socket_path is not None
        async with FaultProxy(server.socket_path) as proxy:
            client = redis.asyncio.Redis.from_url(proxy.url, socket_timeout=5)
            client.set_retry(redis.asyncio.retry.Retry(NoBackoff(), 0))
            await client.ping()

            async def read() -> object:
                return await client.xread({"s": "$"}, block=4000)

            reading = asyncio.create_task(read())
            await wait_until_async(lambda: _blocked(server) == 1, 5, "the read blocks")

            proxy.reset_all()

            with pytest.raises(redis.ConnectionError):
                await reading
            await client.aclose()


def _blocked(server: Server) -> int:
    with server.client() as client:
        return int(client.info("clients")["blocked_clients"])


class TestWaiting:
    def test_returns_what_the_condition_returned(self) -> None:
        values = iter([0, 0, 7])
        assert wait_until(lambda: next(values), 1, "a value comes") == 7

    def test_failure_names_the_fact(self) -> None:
        with pytest.raises(AssertionError, match=r"pigs fly \(last seen: 0\)"):
            wait_until(lambda: 0, 0.01, "pigs fly")

    async def test_async_condition(self) -> None:
        async def yes() -> str:
            return "yes"

        assert await wait_until_async(yes, 1, "a coroutine answers") == "yes"
        with pytest.raises(AssertionError, match="pigs fly"):
            await wait_until_async(lambda: False, 0.01, "pigs fly")


class TestLeaks:
    def test_finds_a_child_and_an_orphan(self) -> None:
        """A process counts as ours even when the one that started it is gone."""
        sleeper = "import time; time.sleep(60)"
        starter = f"import subprocess, sys; subprocess.Popen([sys.executable, '-c', {sleeper!r}])"
        subprocess.run([sys.executable, "-c", starter], check=True)
        child = subprocess.Popen([sys.executable, "-c", sleeper])

        def sleepers() -> list[psutil.Process]:
            return [p for p in child_processes_of_this_session() if sleeper in p.cmdline()]

        found = sleepers()
        for process in found:
            process.send_signal(signal.SIGKILL)
        child.wait()
        assert len(found) == 2
        wait_until(lambda: not sleepers(), 5, "both sleepers have ended")
