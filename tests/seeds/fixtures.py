"""Takes the place of conftest.py in the tests of 0.1.3: the same fixtures on a real server."""

from __future__ import annotations

import os
import weakref
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
import redis.asyncio

from redis_stream_queue import ConsumerGroup, StreamClient, StreamConsumer, StreamProducer


@pytest.fixture
async def fake_redis() -> AsyncIterator[Any]:
    StreamProducer._instances = weakref.WeakSet()
    StreamConsumer._instances = weakref.WeakSet()
    server = redis.asyncio.from_url(os.environ["REDIS_URL"])
    await server.flushall()
    ConsumerGroup._known.clear()
    yield server
    await server.aclose()
    await StreamClient.close_all()


@pytest.fixture
def make_client() -> Callable[[object], StreamClient]:
    return lambda _: StreamClient.from_url(os.environ["REDIS_URL"])
