"""Fixtures: real servers, emptied before each test, and a check that no process is left."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import fakeredis
import hypothesis
import pytest
from redis.asyncio.connection import AbstractConnection

from redis_stream_queue.connection import single
from redis_stream_queue.connection.endpoint import Endpoint
from tests.support.cluster import Cluster
from tests.support.guarded import SECRET
from tests.support.leaks import child_processes_of_this_session, describe, mark_session
from tests.support.servers import NAMES, Server, ServerMissing
from tests.support.waiting import wait_until

FAKE = "fakeredis"
LEAK_TIMEOUT_S = 10.0
URL_QUERY = os.environ.get("RSQ_TEST_URL_QUERY", "")  # for the matrix: ?protocol=3

# No test is about time, and the machine may be busy. The examples are the same in each run, so that
# a change is judged by what it changed; --hypothesis-profile=default looks for others, as soaks do.
hypothesis.settings.register_profile(
    "here",
    deadline=None,
    derandomize=True,
    suppress_health_check=[hypothesis.HealthCheck.too_slow],
)
hypothesis.settings.load_profile("here")
mark_session()
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # in a shell's background: inherited by all
    signal.signal(signal.SIGINT, signal.default_int_handler)


class SharedServers:
    """One server of each kind for the whole session, started when first asked for."""

    def __init__(self) -> None:
        self._running: dict[str, Server] = {}

    def get(self, name: str) -> Server:
        if name not in self._running:
            try:
                self._running[name] = Server.start(name)
            except ServerMissing as missing:
                pytest.fail(str(missing))
        return self._running[name]

    def stop(self) -> None:
        for server in self._running.values():
            server.stop()


@pytest.fixture(scope="session", autouse=True)
def _no_process_left(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """After the last test and the last fixture no process of this session lives."""
    yield
    places = [tmp_path_factory.getbasetemp()]

    def none_left() -> bool:
        return not child_processes_of_this_session(places)

    try:
        wait_until(none_left, LEAK_TIMEOUT_S, "every process of the tests has ended")
    except AssertionError:
        left = describe(child_processes_of_this_session(places))
        pytest.fail("the tests left processes behind:\n" + "\n".join(left))


@pytest.fixture(scope="session")
def shared_servers(_no_process_left: None) -> Iterator[SharedServers]:
    servers = SharedServers()
    yield servers
    servers.stop()


def is_repeated(item: pytest.Item) -> bool:
    """Does this test run on the first server, too?"""
    params = item.callspec.params if hasattr(item, "callspec") else {}
    others = {FAKE, *NAMES[1:]}
    return bool(others & {value for value in params.values() if isinstance(value, str)})


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Coverage (scripts/test --cov) is measured on one server: the others run the same lines, and
    measuring costs time. What takes long begins first: at the end, others would wait for it."""
    items.sort(key=lambda item: item.get_closest_marker("long") is None)
    for item in items:
        if is_repeated(item):
            item.add_marker("no_cover")


@pytest.fixture(scope="session", params=NAMES)
def real_server(request: pytest.FixtureRequest, shared_servers: SharedServers) -> Server:
    """Each server of the matrix in turn, on a unix socket; shared, so leave it as it was."""
    return shared_servers.get(request.param)


@pytest.fixture
def redis_url(real_server: Server) -> str:
    """URL of each server of the matrix in turn, empty."""
    real_server.flush()
    return real_server.url + URL_QUERY


@pytest.fixture(scope="module")
def pool_server(_no_process_left: None) -> Iterator[Server]:
    """A valkey-9.1 of this test module alone, free to be killed and restarted."""
    with Server.start("valkey-9.1") as server:
        yield server


@pytest.fixture
def pool_url(pool_server: Server) -> str:
    """URL of the module's own valkey-9.1, empty."""
    pool_server.flush()
    return pool_server.url


@pytest.fixture(scope="module")
def guarded_server(_no_process_left: None) -> Iterator[Server]:
    """A server of this test module alone, on a TCP port, that wants the password ``SECRET``."""
    with Server.start("valkey-9.1", tcp=True, password=SECRET) as server:
        yield server


@pytest.fixture(scope="session")
def real_cluster(_no_process_left: None) -> Iterator[Cluster]:
    """A cluster of three redis-8.2 masters; shared, so leave it as it was."""
    with Cluster.start("redis-8.2") as cluster:
        yield cluster


@pytest.fixture
def cluster_url(real_cluster: Cluster) -> str:
    """URL of the cluster, empty."""
    real_cluster.flush()
    return real_cluster.url


@pytest.fixture(params=[FAKE, *NAMES])
def client_url(
    request: pytest.FixtureRequest,
    shared_servers: SharedServers,
    monkeypatch: pytest.MonkeyPatch,
) -> str:
    """For the library's tests: fakeredis, then each server of the matrix; empty."""
    if request.param == FAKE:
        return _install_fakeredis(monkeypatch)
    server = shared_servers.get(request.param)
    server.flush()
    return server.url + URL_QUERY


class _FakeConnection(fakeredis.FakeAsyncRedisConnection):
    """No answer of a server comes within the same turn of the loop; fakeredis's would."""

    async def read_response(self, *args: Any, **kwargs: Any) -> Any:
        await asyncio.sleep(0)
        return await super().read_response(*args, **kwargs)


def _install_fakeredis(monkeypatch: pytest.MonkeyPatch) -> str:
    """Make the library talk to a fresh fakeredis; returns the URL that leads there.

    The place to patch is redis_stream_queue.connection.single, which makes every connection.
    """
    server = fakeredis.FakeServer()

    def connection_maker(endpoint: Endpoint) -> Callable[[], AbstractConnection]:
        return partial(_FakeConnection, server=server, db=endpoint.db, protocol=2)

    monkeypatch.setattr(single, "connection_maker", connection_maker)
    return "redis://fake:1/0"
