"""Where the master is that a set of Sentinels watches: asked anew for each connection."""

from __future__ import annotations

from typing import Any

import redis
from redis.asyncio.connection import Connection, SSLConnection
from redis.asyncio.sentinel import MasterNotFoundError, Sentinel
from redis.exceptions import ConnectionError as RedisConnectionError

from ._endpoint import Endpoint

ANSWER_S = 1.0  # a Sentinel that is slower is passed over


def _settings(endpoint: Endpoint) -> dict[str, Any]:
    """How to connect to the Sentinels themselves."""
    return {
        "socket_timeout": ANSWER_S,
        "socket_connect_timeout": ANSWER_S,
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
    sentinel = Sentinel(list(endpoint.nodes), sentinel_kwargs=_settings(endpoint))
    try:
        host, port = await sentinel.discover_master(endpoint.service)  # type: ignore[arg-type]
    except MasterNotFoundError:
        raise _unknown(endpoint) from None
    finally:
        for client in sentinel.sentinels:
            await client.aclose()
    return host, port


def master_of_sync(endpoint: Endpoint) -> tuple[str, int]:
    """The same without an event loop."""
    sentinel = redis.sentinel.Sentinel(list(endpoint.nodes), sentinel_kwargs=_settings(endpoint))
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
