"""Fixtures of the tests on a real cluster of three nodes."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio

from redis_stream_queue import StreamClient
from tests.library.kit import Bench
from tests.support.cluster import Cluster


@pytest.fixture
def nodes(cluster_url: str, real_cluster: Cluster) -> list[dict[str, Any]]:
    return [{"host": "127.0.0.1", "port": port} for port in real_cluster.ports]


@pytest_asyncio.fixture
async def cluster_client(cluster_url: str) -> AsyncIterator[StreamClient]:
    client = StreamClient.from_url(cluster_url)
    yield client
    await StreamClient.close_all()


@pytest.fixture
def stream(stream: str) -> str:
    return f"{{{stream}}}"  # so that "<stream>_dlq" is in its slot


@pytest_asyncio.fixture
async def bench(cluster_client: StreamClient, stream: str) -> AsyncIterator[Bench]:
    async with Bench(cluster_client, stream) as bench:
        yield bench
