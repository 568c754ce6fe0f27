"""A link to a Redis Cluster: each key's node is looked up, redirected commands are sent again."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

from redis.asyncio import RedisCluster
from redis.asyncio.cluster import ClusterNode
from redis.asyncio.connection import AbstractConnection, Connection
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import (
    AskError,
    AuthenticationError,
    ClusterDownError,
    MovedError,
    RedisError,
    ResponseError,
    TryAgainError,
)
from redis.exceptions import ConnectionError as RedisConnectionError

from .backoff import Backoff
from .endpoint import Endpoint
from .exchange import cut, exchange, life_of, opened
from .link import DedicatedConnection, Link, reconnect
from .packing import Command
from .refusals import passes

MOST_REDIRECTS = 8  # that are followed for one command
FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.05, 0.25  # between two tries while a slot moves
FAILOVER_S = 10.0  # how long a failover is waited for, where connecting has no limit
REDIRECTS = (MovedError, AskError, TryAgainError, ClusterDownError)


class _ClusterDedicated(DedicatedConnection):
    def __init__(self, link: ClusterLink, key: str) -> None:
        super().__init__(link)
        self._cluster_link = link
        self._key = key

    async def _open(self) -> AbstractConnection:
        node = await self._cluster_link.node_of(self._key)
        seen = self._cluster_link.version
        connection: AbstractConnection = node.connection_class(**node.connection_kwargs)
        try:
            return await opened(connection)
        except Exception:  # whatever it was, the node may have moved
            await self._cluster_link.refresh(seen)
            raise

    async def run(
        self,
        commands: Sequence[Command],
        timeout_s: float | None,
        on_reply: Callable[[int, Any], None] | None = None,
        last_s: float | None = None,
    ) -> list[Any]:
        seen = self._cluster_link.version
        replies = await super().run(commands, timeout_s, on_reply, last_s)
        redirected = [i for i, r in enumerate(replies) if isinstance(r, REDIRECTS)]
        if not redirected:
            return replies
        if any(isinstance(replies[i], MovedError) for i in redirected):
            await self.close()  # the next read goes to the slot's new node
            await self._cluster_link.refresh(seen)
        limit_s = timeout_s if last_s is None else last_s
        again = await self._cluster_link.run(self._key, [commands[i] for i in redirected], limit_s)
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
        self._failures, self._mapped = 1, 0  # of nodes, and how many of them the map knows of
        self._refreshing = asyncio.Lock()

    async def node_of(self, key: str) -> ClusterNode:
        """The master that serves the key's slot."""
        if self._failures > self._mapped:
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
            failures = self._failures  # the answer may be older than one that comes meanwhile
            before = list(self._cluster.nodes_manager.nodes_cache.values())
            try:
                if self.version == 0:
                    await self._cluster.initialize()
                else:
                    await self._cluster.nodes_manager.initialize()
            except (LookupError, TypeError, ValueError, AttributeError) as error:
                # what redis-py makes of a map without slots, or of half of one
                raise RedisConnectionError(
                    f"{self.endpoint} does not say which node serves which slot (yet): is it a "
                    f"cluster with all slots assigned? ({type(error).__name__}: {error})"
                ) from error
            for node in before:
                if self._is_replaced(node):  # redis-py before 7.2 would close those in use too
                    node._connections[:] = node._free
            self.version += 1
            self._mapped = failures

    def _is_replaced(self, node: ClusterNode) -> bool:
        """Has a newer map replaced the node? Whoever uses a connection of it closes it then."""
        return self._cluster.nodes_manager.nodes_cache.get(node.name) is not node

    async def run(
        self,
        key: str,
        commands: Sequence[Command],
        timeout_s: float | None,
        life: str | None = None,
    ) -> list[Any]:
        if life is not None:
            return await self._run_on_node(key, commands, timeout_s, None, life)
        replies: list[Any] = [None] * len(commands)
        todo = list(range(len(commands)))
        asking: AskError | None = None
        backoff, end_s = Backoff(FIRST_PAUSE_S, LONGEST_PAUSE_S), self._end_s()
        redirects = 0
        while True:
            seen = self.version
            got = await self._run_on_node(key, [commands[i] for i in todo], timeout_s, asking)
            for index, reply in zip(todo, got, strict=True):
                replies[index] = reply
            redirected = [i for i in todo if isinstance(replies[i], REDIRECTS)]
            # WAIT is about the writes of its own connection: it goes where they go.
            todo = [i for i in todo if i in redirected or (redirected and commands[i][0] == "WAIT")]
            if not todo:
                return replies
            asking = next((replies[i] for i in todo if isinstance(replies[i], AskError)), None)
            if asking is not None or isinstance(replies[todo[0]], MovedError):
                redirects += 1
                if redirects > MOST_REDIRECTS:
                    return replies
            elif self.loop.time() >= end_s:
                return replies
            else:
                await asyncio.sleep(backoff.next_s())
            if any(isinstance(replies[i], MovedError | ClusterDownError) for i in todo):
                await self.refresh(seen)

    def _end_s(self) -> float:
        """The end of a command's wait for a failover that begins now, by the loop's clock."""
        limit_s = self.endpoint.socket_connect_timeout
        return self.loop.time() + (FAILOVER_S if limit_s is None else limit_s)

    async def _run_on_node(
        self,
        key: str,
        commands: Sequence[Command],
        timeout_s: float | None,
        asking: AskError | None,
        life: str | None = None,
    ) -> list[Any]:
        node, connection = await self._connected(key, asking)
        if asking is not None:
            commands = [c for command in commands for c in (("ASKING",), command)]
        try:
            if life is not None and await life_of(connection) != life:
                return []
            replies = await exchange(connection, commands, timeout_s)
        except (OSError, RedisError):
            self._failures += 1  # the node may be gone: look where the slot went
            raise
        finally:
            node.release(connection)
            if self._is_replaced(node):
                await cut(connection)
        return replies[1::2] if asking is not None else replies

    async def _connected(self, key: str, asking: AskError | None) -> tuple[ClusterNode, Connection]:
        """The node that serves the key, or that ``asking`` names, and an open connection to it.

        A master that cannot be reached may be about to get a successor: it is looked for as long
        as connecting may take. (Nothing is sent yet.)
        """
        backoff, end_s = Backoff(FIRST_PAUSE_S, LONGEST_PAUSE_S), self._end_s()
        while True:
            node = await self.node_of(key)
            if asking is not None:
                node = self._cluster.get_node(host=asking.host, port=asking.port) or node
            connection = node.acquire_connection()
            try:
                if not connection.is_connected or not await self.is_good(connection):
                    await reconnect(self, connection)
                return node, connection
            except BaseException as error:  # a cancellation, too
                node.release(connection)
                if not isinstance(error, OSError | RedisError):
                    raise
                self._failures += 1
                stays = isinstance(error, ResponseError | AuthenticationError)
                if (stays and not passes(error)) or self.loop.time() >= end_s:
                    raise
            await asyncio.sleep(backoff.next_s())

    def _new_dedicated(self, key: str) -> DedicatedConnection:
        return _ClusterDedicated(self, key)

    async def close(self) -> None:
        await self._cluster.aclose()

    def _pooled(self) -> list[AbstractConnection]:
        nodes = list(self._cluster.nodes_manager.nodes_cache.values())
        return [connection for node in nodes for connection in node._connections]
