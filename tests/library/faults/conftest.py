"""One real server for each file, and a proxy before it that cuts and stalls."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
import pytest_asyncio

from redis_stream_queue import StreamClient
from tests.library.kit import Bench
from tests.support.faultproxy import FaultProxy
from tests.support.servers import NAMES, Server

LONG_MS = 60_000


@pytest.fixture(scope="module")
def own_server(_no_process_left: None) -> Iterator[Server]:
    with Server.start(NAMES[0]) as server:
        yield server


@pytest_asyncio.fixture
async def direct(own_server: Server) -> AsyncIterator[StreamClient]:
    """A client past the proxy, to look at the facts."""
    own_server.flush()
    client = StreamClient.from_url(own_server.url)
    yield client
    await StreamClient.close_all()


@pytest_asyncio.fixture
async def proxy(own_server: Server, direct: StreamClient) -> AsyncIterator[FaultProxy]:
    assert own_server.socket_path is not None
    async with FaultProxy(own_server.socket_path) as proxy:
        yield proxy
        await StreamClient.close_all()


@pytest_asyncio.fixture
async def bench(direct: StreamClient, stream: str) -> AsyncIterator[Bench]:
    async with Bench(direct, stream) as bench:
        yield bench


def through(proxy: FaultProxy, **options: Any) -> StreamClient:
    return StreamClient.from_url(proxy.url, **options)


async def until_blocked(bench: Bench) -> None:
    """Wait until some consumer waits for messages in Redis."""

    async def is_blocked() -> bool:
        clients = await bench.client.link().call(bench.stream, "CLIENT", "LIST")
        return any(b"cmd=xreadgroup" in c and b"flags=b" in c for c in clients.splitlines())

    await bench.until(is_blocked, "a consumer waits for messages")
