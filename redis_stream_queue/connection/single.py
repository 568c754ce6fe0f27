"""A link to one server, or to the master that Sentinels watch."""

from __future__ import annotations

import asyncio
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

from .endpoint import Endpoint
from .exchange import cut, exchange, life_of, opened
from .link import DedicatedConnection, Link, reconnect
from .packing import Command
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
        """Close the idle ones: where one connection broke, they have, too, and each would cost a
        timeout."""
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
    """Is it open, and has nothing arrived since its last reply? (The server may have closed it.)"""
    reader, writer = connection._reader, connection._writer
    if reader is None or writer is None:
        return False
    unread: Any = getattr(reader, "_buffer", None)
    return not (writer.transport.is_closing() or reader.at_eof() or unread)


def connection_maker(endpoint: Endpoint) -> Callable[[], AbstractConnection]:
    """Return a function that makes connections to a single server; they are not open yet."""
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
