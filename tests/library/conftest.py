"""Fixtures of the library's tests: a client and a stream name of one's own."""

from __future__ import annotations

import itertools
import logging
from collections.abc import AsyncIterator, Iterator

import pytest
import pytest_asyncio

from redis_stream_queue import StreamClient
from redis_stream_queue.delivery import sightings
from tests.conftest import SharedServers, is_repeated
from tests.library.kit import Bench, CountingProxy
from tests.support.servers import NAMES, Server

_numbers = itertools.count(1)


@pytest.fixture(autouse=True)
def _watched_sooner(request: pytest.FixtureRequest) -> Iterator[None]:
    """Each test waits for as long as users do on the first server alone: a message of another
    consumer is watched for 0.3 s instead of 1.5 s on the others, which know nothing of that."""
    with pytest.MonkeyPatch.context() as patch:  # a test's own ends before its fixtures
        if is_repeated(request.node):
            patch.setattr(sightings, "WATCH_MS", sightings.LOOK_MS)
        yield


@pytest.fixture
def stream() -> str:
    """A new name each time: the library remembers in a process which groups exist."""
    return f"orders{next(_numbers)}"


@pytest_asyncio.fixture
async def client(client_url: str) -> AsyncIterator[StreamClient]:
    """A client of fakeredis and of each real server in turn, empty."""
    client = StreamClient.from_url(client_url)
    yield client
    await StreamClient.close_all()


@pytest_asyncio.fixture
async def real_client(redis_url: str) -> AsyncIterator[StreamClient]:
    """A client of each real server in turn, for what fakeredis cannot do."""
    client = StreamClient.from_url(redis_url)
    yield client
    await StreamClient.close_all()


@pytest.fixture
def server(shared_servers: SharedServers) -> Server:
    """One real server, empty, for what does not depend on its version."""
    server = shared_servers.get(NAMES[0])
    server.flush()
    return server


@pytest_asyncio.fixture
async def server_client(server: Server) -> AsyncIterator[StreamClient]:
    """A client of that one server."""
    client = StreamClient.from_url(server.url)
    yield client
    await StreamClient.close_all()


@pytest.fixture
def replicated(_no_process_left: None) -> Iterator[tuple[Server, Server]]:
    """A master and its replica, of this test alone."""
    at_once = ["--repl-diskless-sync-delay", "0"]
    with Server.start(NAMES[0], tcp=True, extra_args=at_once) as master:
        replicaof = ["--replicaof", f"127.0.0.1 {master.port}", *at_once]
        with Server.start(NAMES[0], tcp=True, extra_args=replicaof) as replica:
            yield master, replica


@pytest_asyncio.fixture
async def proxy(server: Server) -> AsyncIterator[CountingProxy]:
    """Between clients and that one server."""
    assert server.socket_path is not None
    async with CountingProxy(server.socket_path) as proxy:
        yield proxy
        await StreamClient.close_all()


@pytest_asyncio.fixture
async def bench(client: StreamClient, stream: str) -> AsyncIterator[Bench]:
    """A stream with producers and consumers on fakeredis and on each real server."""
    async with Bench(client, stream) as bench:
        yield bench


@pytest_asyncio.fixture
async def real_bench(real_client: StreamClient, stream: str) -> AsyncIterator[Bench]:
    """The same on each real server."""
    async with Bench(real_client, stream) as bench:
        yield bench


@pytest_asyncio.fixture
async def server_bench(server_client: StreamClient, stream: str) -> AsyncIterator[Bench]:
    """The same on one real server."""
    async with Bench(server_client, stream) as bench:
        yield bench


@pytest.fixture
def warnings_logged(caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    """What the library says at level WARNING and above."""
    caplog.set_level(logging.WARNING, logger="redis_stream_queue")
    return caplog
