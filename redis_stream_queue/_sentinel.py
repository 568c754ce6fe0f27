"""Where the master is that a set of Sentinels watches: asked anew for each connection."""

from __future__ import annotations

from typing import Any

import redis
from redis.asyncio.connection import Connection, SSLConnection
from redis.asyncio.retry import Retry as AsyncRetry
from redis.asyncio.sentinel import MasterNotFoundError, Sentinel
from redis.backoff import NoBackoff
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.retry import Retry

from ._endpoint import Endpoint

ANSWER_S = 1.0  # a Sentinel that is slower is passed over


def _settings(endpoint: Endpoint, retry: Any, answer_s: float = ANSWER_S) -> dict[str, Any]:
    """How to connect to the Sentinels themselves; retry: what asks each of them once."""
    return {
        "socket_timeout": answer_s,
        "socket_connect_timeout": answer_s,
        "retry": retry,
        "username": endpoint.sentinel_username,
        "password": endpoint.sentinel_password,
        "ssl": endpoint.ssl,
        **{n: v for n, v in endpoint.options if endpoint.ssl and n.startswith("ssl_")},
    }


def _unknown(endpoint: Endpoint) -> RedisConnectionError:
    return RedisConnectionError(
        f"no Sentinel of {endpoint} answers and knows a master {endpoint.service!r} that is up"
    )


async def master_of(endpoint: Endpoint) -> tuple[str, int]:
    """Host and port of the master. Raises ConnectionError."""
    settings = _settings(endpoint, AsyncRetry(NoBackoff(), 0))
    sentinel = Sentinel(list(endpoint.nodes), sentinel_kwargs=settings)
    try:
        host, port = await sentinel.discover_master(endpoint.service)  # type: ignore[arg-type]
    except MasterNotFoundError:
        raise _unknown(endpoint) from None
    finally:
        for client in sentinel.sentinels:
            await client.aclose()
    return host, port


def master_of_sync(endpoint: Endpoint, limit_s: float | None = None) -> tuple[str, int]:
    """The same without an event loop. limit_s: seconds for all of them, None = no limit."""
    answer_s = ANSWER_S
    if limit_s is not None:
        answer_s = min(answer_s, limit_s / len(endpoint.nodes))
    settings = _settings(endpoint, Retry(NoBackoff(), 0), answer_s)
    sentinel = redis.sentinel.Sentinel(list(endpoint.nodes), sentinel_kwargs=settings)
    try:
        host, port = sentinel.discover_master(endpoint.service)
    except redis.sentinel.MasterNotFoundError:
        raise _unknown(endpoint) from None
    finally:
        for client in sentinel.sentinels:
            client.close()
    return host, port


class _ToMaster(Connection):
    def __init__(self, *, watched: Endpoint, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._watched = watched

    async def connect(self) -> None:
        if not self.is_connected:
            self.host, self.port = await master_of(self._watched)
        await super().connect()  # type: ignore[no-untyped-call]


class MasterConnection(_ToMaster):
    """Leads to the master that there is when it connects."""


class MasterSSLConnection(_ToMaster, SSLConnection):
    """The same in TLS."""
