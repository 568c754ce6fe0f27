"""Which links there are: shared by all clients of an endpoint, event loop and process.

The one place that opens and closes them.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Callable, Sequence
from typing import Any

from redis.asyncio import BlockingConnectionPool
from redis.asyncio.connection import (
    AbstractConnection,
    Connection,
    SSLConnection,
    UnixDomainSocketConnection,
)
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from ._cluster import ClusterLink
from ._endpoint import Endpoint
from ._link import Channel, Command, Link, connecting, exchange


class _SingleChannel(Channel):
    def __init__(self, pool: BlockingConnectionPool, endpoint: Endpoint) -> None:
        super().__init__(endpoint)
        self._pool = pool

    async def _open(self) -> AbstractConnection:
        connection: AbstractConnection = self._pool.make_connection()
        try:
            await connection.connect()
        except BaseException:
            await connection.disconnect(nowait=True)
            raise
        return connection

    async def run(
        self,
        commands: Sequence[Command],
        timeout_s: float | None,
        on_reply: Callable[[int, Any], None] | None = None,
        last_s: float | None = None,
    ) -> list[Any]:
        try:
            return await super().run(commands, timeout_s, on_reply, last_s)
        finally:
            if self.connection is not None:
                await _drop_idle_after(self.connection, self._pool)


async def _drop_idle_after(connection: AbstractConnection, pool: BlockingConnectionPool) -> None:
    """If this one broke, so have those that nobody uses: they would cost a timeout each."""
    if not connection.is_connected:
        for idle in pool._available_connections:
            await idle.disconnect(nowait=True)


class SingleLink(Link):
    """Connections to one server."""

    def __init__(self, endpoint: Endpoint) -> None:
        super().__init__(endpoint)
        self._pool = make_pool(endpoint)

    async def run(
        self, key: str, commands: Sequence[Command], timeout_s: float | None
    ) -> list[Any]:
        async with connecting(self.endpoint):
            connection = await self._pool.get_connection()
        try:
            return await exchange(connection, commands, timeout_s)
        finally:
            await _drop_idle_after(connection, self._pool)
            await self._pool.release(connection)

    def _new_channel(self, key: str) -> Channel:
        return _SingleChannel(self._pool, self.endpoint)

    async def close(self) -> None:
        await self._pool.disconnect()

    def _pooled(self) -> list[AbstractConnection]:
        return [*self._pool._available_connections, *self._pool._in_use_connections]


def make_pool(endpoint: Endpoint) -> BlockingConnectionPool:
    """The redis-py pool of a single server."""
    connection_class: type[AbstractConnection] = Connection
    if endpoint.path:
        connection_class = UnixDomainSocketConnection
    elif endpoint.ssl:
        connection_class = SSLConnection
    return BlockingConnectionPool(
        connection_class=connection_class,
        max_connections=endpoint.max_connections,
        timeout=endpoint.pool_timeout,
        retry=Retry(NoBackoff(), 0),
        **endpoint.connection_kwargs(),
    )


_links: dict[tuple[Endpoint, int], Link] = {}
_inherited: list[Any] = []  # what a forked child got from its parent: never used, never closed


def acquire(endpoint: Endpoint) -> Link:
    """The link of this endpoint in the running loop, with one more user."""
    loop = asyncio.get_running_loop()
    link = _links.get((endpoint, id(loop)))
    if link is None or link.loop is not loop:
        _forget_closed_loops()
        link = ClusterLink(endpoint) if endpoint.cluster else SingleLink(endpoint)
        _links[endpoint, id(loop)] = link
    link.users += 1
    return link


async def release(link: Link) -> None:
    """Give a link back; the last user closes it."""
    link.users -= 1
    if link.users <= 0:
        await discard(link)


async def discard(link: Link) -> None:
    """Close a link, whoever uses it."""
    if _links.get((link.endpoint, id(link.loop))) is link:
        del _links[link.endpoint, id(link.loop)]
    link.closed = True
    for channel in list(link.channels):
        await channel.close()
    await link.close()


def links_of_running_loop() -> list[Link]:
    loop = asyncio.get_running_loop()
    return [link for link in _links.values() if link.loop is loop]


def _forget_closed_loops() -> None:
    """Drop links whose loop was closed before the client; their sockets close with them."""
    for name, link in list(_links.items()):
        if link.loop.is_closed():
            del _links[name]
            for connection in link.connections():
                _close_without_loop(connection)


def _close_without_loop(connection: AbstractConnection) -> None:
    """Close the socket of a connection whose loop is closed: nothing can be awaited any more."""
    writer, connection._writer, connection._reader = connection._writer, None, None
    if writer is None:
        return
    transport: Any = getattr(writer, "transport", None)
    with contextlib.suppress(RuntimeError, AttributeError):  # the loop is closed
        transport.abort()
    sock = getattr(transport, "_sock", None)
    if sock is not None:
        sock.close()
        transport._sock = None  # or its __del__ warns


def _after_fork_in_child() -> None:
    _inherited.append(dict(_links))
    _links.clear()


os.register_at_fork(after_in_child=_after_fork_in_child)
