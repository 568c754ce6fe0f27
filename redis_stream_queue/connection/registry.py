"""Which links there are: shared by all clients of an endpoint, event loop and process.

The one place that opens and closes them.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from redis.asyncio.connection import (
    AbstractConnection,
    Connection,
    SSLConnection,
    UnixDomainSocketConnection,
)
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import ConnectionError as RedisConnectionError

from .cluster import ClusterLink
from .endpoint import Endpoint
from .link import Command, DedicatedConnection, Link, cut, exchange, life_of, opened, reconnect
from .sentinel import MasterConnection, MasterSSLConnection


class _SingleDedicated(DedicatedConnection):
    def __init__(self, link: SingleLink) -> None:
        super().__init__(link)
        self._single = link

    async def _open(self) -> AbstractConnection:
        return await opened(self._single.make_connection())

    async def broke(self) -> None:
        await self._single.drop_idle()


class SingleLink(Link):
    """Connections to one server: idle ones, the last used on top, and those in use.

    redis-py's pool does the same with two locks, a condition and four metrics for each command,
    which cost more than the command.
    """

    def __init__(self, endpoint: Endpoint) -> None:
        super().__init__(endpoint)
        self.make_connection = connection_maker(endpoint)
        self._idle: list[AbstractConnection] = []
        self._in_use: set[AbstractConnection] = set()
        self._room = asyncio.Semaphore(endpoint.max_connections)

    async def run(
        self,
        key: str,
        commands: Sequence[Command],
        timeout_s: float | None,
        life: str | None = None,
    ) -> list[Any]:
        await self._wait_for_room()
        connection = self._idle.pop() if self._idle else self.make_connection()
        self._in_use.add(connection)
        try:
            if not is_usable(connection) or not await self.is_good(connection):
                await reconnect(self, connection)
            if life is not None and await life_of(connection) != life:
                return []
            return await exchange(connection, commands, timeout_s)
        finally:
            self._in_use.discard(connection)
            if connection.is_connected:
                self._idle.append(connection)
            else:
                await self.drop_idle()
            self._room.release()

    async def _wait_for_room(self) -> None:
        if not self._room.locked():
            await self._room.acquire()  # at once
            return
        limit_s = self.endpoint.pool_timeout
        try:
            async with asyncio.timeout(limit_s):
                await self._room.acquire()
        except TimeoutError:
            raise RedisConnectionError(
                f"all {self.endpoint.max_connections} connections to {self.endpoint} are in use, "
                f"and none got free within {limit_s:g} s. Raise max_connections or pool_timeout."
            ) from None

    async def drop_idle(self) -> None:
        """If one broke, so have those that nobody uses: they would cost a timeout each."""
        idle, self._idle = self._idle, []
        for connection in idle:
            await cut(connection)

    def _new_dedicated(self, key: str) -> DedicatedConnection:
        return _SingleDedicated(self)

    async def close(self) -> None:
        for connection in self._pooled():
            await cut(connection)
        self._idle.clear()

    def _pooled(self) -> list[AbstractConnection]:
        return [*self._idle, *self._in_use]


def is_usable(connection: AbstractConnection) -> bool:
    """Is it open, and has nothing come in since its last reply? (The server may have closed it.)"""
    reader, writer = connection._reader, connection._writer
    if reader is None or writer is None:
        return False
    unread: Any = getattr(reader, "_buffer", None)
    return not (writer.transport.is_closing() or reader.at_eof() or unread)


def connection_maker(endpoint: Endpoint) -> Callable[[], AbstractConnection]:
    """Makes connections to a single server, each not open yet."""
    kwargs = endpoint.connection_kwargs()
    kind: type[AbstractConnection] = Connection
    if endpoint.service is not None:
        kind = MasterSSLConnection if endpoint.ssl else MasterConnection
        kwargs["watched"] = endpoint
    elif endpoint.path:
        kind = UnixDomainSocketConnection
    elif endpoint.ssl:
        kind = SSLConnection
    return partial(kind, retry=Retry(NoBackoff(), 0), **kwargs)


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
    writers = [connection._writer for connection in link.connections()]
    for dedicated in list(link.dedicated_connections):
        await dedicated.close()
    await link.close()
    if link.endpoint.ssl:  # the end of TLS takes a round trip, and the loop may end now
        for writer in writers:
            if writer is not None:
                writer.transport.abort()


def links_of_running_loop() -> list[Link]:
    loop = asyncio.get_running_loop()
    return [link for link in list(_links.values()) if link.loop is loop]


def _forget_closed_loops() -> None:
    """Drop links whose loop was closed before the client; their sockets close with them."""
    for name, link in list(_links.items()):
        if link.loop.is_closed() and _links.pop(name, None) is link:  # or another thread was faster
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
