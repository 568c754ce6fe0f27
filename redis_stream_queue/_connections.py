"""Connections to Redis: the one place that opens and closes them.

A Link belongs to one endpoint, one event loop and one process, and is shared by all clients of the
three. Commands go out as they are and replies come back as they are (RESP2, bytes): no reply
callbacks, no automatic retry, and every exchange carries its own timeout.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any

from redis.asyncio import BlockingConnectionPool, RedisCluster
from redis.asyncio.cluster import ClusterNode
from redis.asyncio.connection import (
    AbstractConnection,
    Connection,
    SSLConnection,
    UnixDomainSocketConnection,
)
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import (
    AskError,
    ClusterDownError,
    MovedError,
    NoScriptError,
    RedisClusterException,
    RedisError,
    ResponseError,
    TryAgainError,
)
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError

from ._endpoint import Endpoint
from ._scripts import Script

Command = tuple[Any, ...]

# What talking to a Redis that is down, unreachable or unwilling may raise. (UnicodeError: a host
# name that no lookup accepts.)
OUTAGES = (RedisError, RedisClusterException, OSError, TimeoutError, UnicodeError)

REDIRECTS = 8  # most redirections followed for one command
REDIRECT_PAUSE_S = 0.05


async def exchange(
    connection: AbstractConnection,
    commands: Sequence[Command],
    timeout_s: float | None,
    on_reply: Callable[[int, Any], None] | None = None,
) -> list[Any]:
    """Send the commands in one write and read all replies; an error reply stays in its place.

    on_reply: called with the index and the value of each reply as it comes in.

    Whatever interrupts it (timeout, cut, cancellation) closes the connection, since a reply that
    was not read would be taken for the answer to the next command.
    """
    replies: list[Any] = []
    try:
        async with asyncio.timeout(timeout_s):
            await connection.send_packed_command(
                connection.pack_commands(commands), check_health=False
            )
            for _ in commands:
                try:
                    replies.append(await connection.read_response(disable_decoding=True))
                except ResponseError as error:
                    replies.append(error)
                if on_reply is not None:
                    on_reply(len(replies) - 1, replies[-1])
    except TimeoutError:
        await connection.disconnect(nowait=True)
        raise RedisTimeoutError(f"Redis did not answer within {timeout_s} s") from None
    except BaseException:
        await connection.disconnect(nowait=True)
        raise
    return replies


def first_error(replies: Sequence[Any]) -> list[Any]:
    """The replies, or the first error among them raised."""
    for reply in replies:
        if isinstance(reply, Exception):
            raise reply
    return list(replies)


@contextlib.asynccontextmanager
async def connecting(endpoint: Endpoint) -> AsyncIterator[None]:
    """Bounds a connect with its handshake, and the wait for a free connection."""
    limit_s = endpoint.socket_connect_timeout
    try:
        async with asyncio.timeout(limit_s and limit_s + endpoint.pool_timeout):
            yield
    except TimeoutError:
        raise RedisTimeoutError(f"{endpoint} accepts connections but does not answer") from None


class Channel(ABC):
    """A connection of one's own, for reads that block. Connects by itself when needed."""

    def __init__(self, endpoint: Endpoint) -> None:
        self.endpoint = endpoint
        self.client_id: int | None = None
        self.connection: AbstractConnection | None = None

    @abstractmethod
    async def _open(self) -> AbstractConnection: ...

    async def run(
        self,
        commands: Sequence[Command],
        timeout_s: float | None,
        on_reply: Callable[[int, Any], None] | None = None,
    ) -> list[Any]:
        """Exchange commands; error replies are returned in place."""
        connection = self.connection
        if connection is None or not connection.is_connected:
            connection = await self._connect()
        return await exchange(connection, commands, timeout_s, on_reply)

    async def _connect(self) -> AbstractConnection:
        await self.close()
        async with connecting(self.endpoint):
            connection = self.connection = await self._open()
            [reply] = await exchange(connection, [("CLIENT", "ID")], None)
        self.client_id = reply if isinstance(reply, int) else None  # an ACL may forbid it
        return connection

    async def close(self) -> None:
        connection, self.connection, self.client_id = self.connection, None, None
        if connection is not None:
            await connection.disconnect(nowait=True)


class Link(ABC):
    """All connections of one (endpoint, loop, process)."""

    def __init__(self, endpoint: Endpoint) -> None:
        self.endpoint = endpoint
        self.loop = asyncio.get_running_loop()
        self.pid = os.getpid()
        self.users = 0
        self.channels: set[Channel] = set()
        self.closed = False

    @abstractmethod
    async def run(
        self, key: str, commands: Sequence[Command], timeout_s: float | None
    ) -> list[Any]:
        """Run commands that all concern one key in one round trip; error replies stay in place."""

    @abstractmethod
    def _new_channel(self, key: str) -> Channel: ...

    @abstractmethod
    async def close(self) -> None: ...

    @abstractmethod
    def _pooled(self) -> list[AbstractConnection]: ...

    def connections(self) -> list[AbstractConnection]:
        """Every connection there is, for cleaning up behind a loop that is closed already."""
        own = [channel.connection for channel in self.channels if channel.connection]
        return own + self._pooled()

    def channel(self, key: str) -> Channel:
        """A connection of one's own to the node that serves the key; closes with the link."""
        channel = self._new_channel(key)
        self.channels.add(channel)
        return channel

    async def drop(self, channel: Channel) -> None:
        """Close a channel for good."""
        self.channels.discard(channel)
        await channel.close()

    async def call(self, key: str, *command: Any) -> Any:
        """Run one command within the endpoint's ``socket_timeout``."""
        [reply] = first_error(await self.run(key, [command], self.endpoint.socket_timeout))
        return reply

    async def script(self, script: Script, keys: Sequence[str], *args: Any) -> Any:
        """Run a script by its hash, and by its source where the server does not know it yet."""
        try:
            return await self.call(keys[0], "EVALSHA", script.sha, len(keys), *keys, *args)
        except NoScriptError:
            return await self.call(keys[0], "EVAL", script.source, len(keys), *keys, *args)


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
            await self._pool.release(connection)

    def _new_channel(self, key: str) -> Channel:
        return _SingleChannel(self._pool, self.endpoint)

    async def close(self) -> None:
        await self._pool.disconnect()

    def _pooled(self) -> list[AbstractConnection]:
        return [*self._pool._available_connections, *self._pool._in_use_connections]


class _ClusterChannel(Channel):
    def __init__(self, link: ClusterLink, key: str) -> None:
        super().__init__(link.endpoint)
        self._link = link
        self._key = key

    async def _open(self) -> AbstractConnection:
        node = await self._link.node_of(self._key)
        seen = self._link.version
        connection: AbstractConnection = node.connection_class(**node.connection_kwargs)
        try:
            await connection.connect()
        except BaseException as error:
            await connection.disconnect(nowait=True)
            if isinstance(error, OSError | RedisError):
                await self._link.refresh(seen)
            raise
        return connection

    async def run(
        self,
        commands: Sequence[Command],
        timeout_s: float | None,
        on_reply: Callable[[int, Any], None] | None = None,
    ) -> list[Any]:
        seen = self._link.version
        replies = await super().run(commands, timeout_s, on_reply)
        redirected = [i for i, r in enumerate(replies) if isinstance(r, _REDIRECTS)]
        if not redirected:
            return replies
        if any(isinstance(replies[i], MovedError) for i in redirected):
            await self.close()  # the next read goes to the slot's new node
            await self._link.refresh(seen)
        again = await self._link.run(self._key, [commands[i] for i in redirected], timeout_s)
        for index, reply in zip(redirected, again, strict=True):
            replies[index] = reply
        return replies


class ClusterLink(Link):
    """Connections to the nodes of a Redis Cluster; a redirected command is sent again."""

    def __init__(self, endpoint: Endpoint) -> None:
        super().__init__(endpoint)
        kwargs = endpoint.connection_kwargs()
        kwargs.pop("db")
        nodes = [ClusterNode(host, port) for host, port in endpoint.nodes]
        self._cluster = RedisCluster(
            startup_nodes=nodes,
            ssl=endpoint.ssl,
            max_connections=endpoint.max_connections,
            retry=Retry(NoBackoff(), 0),
            require_full_coverage=False,
            **kwargs,
        )
        self.version = 0  # of the slot map; 0 = none yet
        self._stale = True
        self._refreshing = asyncio.Lock()

    async def node_of(self, key: str) -> ClusterNode:
        """The master that serves the key's slot."""
        if self._stale:
            await self.refresh(self.version)
        node: ClusterNode | None = self._cluster.get_node_from_key(key)
        if node is None:
            await self.refresh(self.version)
            node = self._cluster.get_node_from_key(key)
        if node is None:
            raise RedisConnectionError(f"no node of the cluster serves the slot of {key!r}")
        return node

    async def refresh(self, seen: int) -> None:
        """Ask the cluster again which node serves which slot.

        seen: version of the map that turned out to be wrong; a newer one is not asked for again.
        The connections of others stay as they are.
        """
        async with self._refreshing, asyncio.timeout(self.endpoint.socket_timeout):
            if self.version != seen:
                return
            if self.version == 0:
                await self._cluster.initialize()
            else:
                await self._cluster.nodes_manager.initialize()
            self.version += 1
            self._stale = False

    async def run(
        self, key: str, commands: Sequence[Command], timeout_s: float | None
    ) -> list[Any]:
        replies: list[Any] = [None] * len(commands)
        todo = list(range(len(commands)))
        asking: AskError | None = None
        for attempt in range(REDIRECTS + 1):
            seen = self.version
            got = await self._run_on_node(key, [commands[i] for i in todo], timeout_s, asking)
            for index, reply in zip(todo, got, strict=True):
                replies[index] = reply
            todo = [i for i in todo if isinstance(replies[i], _REDIRECTS)]
            if not todo or attempt == REDIRECTS:
                break
            asking = next((replies[i] for i in todo if isinstance(replies[i], AskError)), None)
            if any(isinstance(replies[i], MovedError | ClusterDownError) for i in todo):
                await self.refresh(seen)
            if asking is None and not isinstance(replies[todo[0]], MovedError):
                await asyncio.sleep(REDIRECT_PAUSE_S)
        return replies

    async def _run_on_node(
        self,
        key: str,
        commands: Sequence[Command],
        timeout_s: float | None,
        asking: AskError | None,
    ) -> list[Any]:
        node = await self.node_of(key)
        if asking is not None:
            node = self._cluster.get_node(host=asking.host, port=asking.port) or node
            commands = [c for command in commands for c in (("ASKING",), command)]
        connection = node.acquire_connection()
        try:
            replies = await exchange(connection, commands, timeout_s)
        except (OSError, RedisError):
            self._stale = True  # the node may be gone: look where the slot went
            raise
        finally:
            node.release(connection)
        return replies[1::2] if asking is not None else replies

    def _new_channel(self, key: str) -> Channel:
        return _ClusterChannel(self, key)

    async def close(self) -> None:
        await self._cluster.aclose()

    def _pooled(self) -> list[AbstractConnection]:
        nodes = list(self._cluster.nodes_manager.nodes_cache.values())
        return [connection for node in nodes for connection in node._connections]


_REDIRECTS = (MovedError, AskError, TryAgainError, ClusterDownError)


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
