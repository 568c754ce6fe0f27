"""A link: all connections of one endpoint, event loop and process."""

from __future__ import annotations

import asyncio
import os
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from redis.asyncio.connection import AbstractConnection
from redis.exceptions import NoScriptError, ReadOnlyError

from .._log import logger
from .endpoint import Endpoint
from .exchange import OUTAGES, PROBE_S, connecting, cut, exchange, first_error, run_id
from .packing import Command
from .refusals import is_wrong_kind, keys_of, wrong_kind
from .scripts import Script
from .wire import Wire, wire_of

log = logger(__name__)

IDLE_S = 10.0  # a connection that was not used for so long is asked whether it still is one
BY_TURNS_S = 60.0  # a server that answers again within this time has not been restarted twice
ROLE_S = 0.8  # after which the role of a server is asked for again


async def reconnect(link: Link, connection: AbstractConnection) -> None:
    """Open a connection anew; nothing is logged, as nobody has waited for anything on it."""
    await cut(connection)
    async with connecting(link.endpoint):
        began = link.begin()
        await connection.connect()
        link.wire(connection, began)
        await exchange(connection, [("PING",)], None)


class DedicatedConnection(ABC):
    """A connection that one reader has to itself, for reads that block. It connects when needed.

    client_id: its number at the server, as CLIENT ID tells it; None where that is not known.
    life: the server's run id, see ``life_of``.
    on_late: called when the reply to a blocking read is overdue.
    """

    def __init__(self, link: Link) -> None:
        self.link = link
        self.endpoint = link.endpoint
        self.client_id: int | None = None
        self.life = ""
        self.connection: AbstractConnection | None = None
        self.on_late: Callable[[], None] | None = None

    @property
    def wire(self) -> Wire | None:
        """What is known of the open connection."""
        if self.connection is None or not self.connection.is_connected:
            return None
        return wire_of(self.connection)

    async def broke(self) -> None:  # noqa: B027
        """Called when its connection has just broken: others to the same server may have, too."""

    @abstractmethod
    async def _open(self) -> AbstractConnection: ...

    async def run(
        self,
        commands: Sequence[Command],
        timeout_s: float | None,
        on_reply: Callable[[int, Any], None] | None = None,
        last_s: float | None = None,
    ) -> list[Any]:
        """Exchange commands; error replies are returned in place. Times: see exchange()."""
        connection = await self.connect()
        try:
            return await exchange(connection, commands, timeout_s, on_reply, last_s, self.on_late)
        except BaseException:  # a cancellation cuts it, too
            if not connection.is_connected:
                await self.broke()
            raise

    async def connect(self) -> AbstractConnection:
        """Return the connection; it is opened if it is not open or leads nowhere any more."""
        connection = self.connection
        if (
            connection is not None
            and connection.is_connected
            and await self.link.is_good(connection)
        ):
            return connection
        await self.close()
        async with connecting(self.endpoint):
            began = self.link.begin()
            connection = self.connection = await self._open()
            wire = self.link.wire(connection, began)
            id_, info = await exchange(connection, [("CLIENT", "ID"), ("INFO", "server")], None)
        self.life = wire.life = run_id(info)
        self.link.answered_by(self.life)
        # An ACL may forbid it; and without a life it cannot be told from another's.
        self.client_id = id_ if isinstance(id_, int) and self.life else None
        return connection

    async def close(self) -> None:
        connection, self.connection, self.client_id = self.connection, None, None
        if connection is not None:
            await cut(connection)


class Link(ABC):
    """All connections of one (endpoint, loop, process).

    generation: goes up when the server turns out to be no master any more. A connection of an
    older generation is opened anew when it is used next.
    receivers: called now and then while a long reply arrives on any of the connections.
    """

    def __init__(self, endpoint: Endpoint) -> None:
        self.endpoint = endpoint
        self.loop = asyncio.get_running_loop()
        self.pid = os.getpid()
        self.users = 0
        self.dedicated_connections: set[DedicatedConnection] = set()
        self.closed = False
        self.generation = 0
        self._ask_role_s = 0.0
        self.receivers: set[Callable[[], None]] = set()
        self._lives: dict[str, float] = {}  # when each has last answered a new connection
        self._is_one_address = not endpoint.cluster and endpoint.service is None

    @abstractmethod
    async def run(
        self,
        key: str,
        commands: Sequence[Command],
        timeout_s: float | None,
        life: str | None = None,
    ) -> list[Any]:
        """Run commands that all concern one key in one round trip; error replies stay in place.

        life: run nothing, and return [], unless this life of the server answers (see ``life_of``).
        """

    @abstractmethod
    def _new_dedicated(self, key: str) -> DedicatedConnection: ...

    @abstractmethod
    async def close(self) -> None: ...

    @abstractmethod
    def _pooled(self) -> list[AbstractConnection]: ...

    def begin(self) -> tuple[float, int]:
        """For wire(): when connecting begins, and in which generation. An older one may have led to
        the wrong server."""
        return self.loop.time(), self.generation

    def wire(self, connection: AbstractConnection, began: tuple[float, int]) -> Wire:
        """What is known of a connection that was opened just now.

        began: what begin() has told. (Connecting takes two round trips or more: a first measure of
        one.)
        """
        began_s, generation = began
        wire = wire_of(connection, (self.loop.time() - began_s) / 2)
        if wire.on_progress is None:
            wire.generation = generation
            wire.on_progress, wire.on_demoted = self._progressed, self.abandon
        return wire

    async def is_good(self, connection: AbstractConnection) -> bool:
        """Does an open connection still lead to the wanted server? One that was idle is asked."""
        wire = wire_of(connection)
        if wire.generation != self.generation or wire.ended or wire.unasked:
            return False
        if wire.now() - wire.used_s < IDLE_S:
            return True
        try:
            await exchange(connection, [("PING",)], PROBE_S)
        except OUTAGES:  # a server or something on the way has forgotten it: no reason to worry
            return False
        return wire.generation == self.generation  # it may have been abandoned meanwhile

    async def read(
        self, key: str, commands: Sequence[Command], timeout_s: float | None
    ) -> list[Any]:
        """As run(), for commands that only read: a replica would answer them, too.

        So the server is asked for its role every ROLE_S. Raises ReadOnlyError for a replica.
        """
        now_s = self.loop.time()
        if now_s < self._ask_role_s:
            return await self.run(key, commands, timeout_s)
        *replies, info = await self.run(key, [*commands, ("INFO", "replication")], timeout_s)
        if isinstance(info, bytes) and b"role:slave" in info and b"slave_read_only:1" in info:
            self.abandon()
            raise ReadOnlyError(f"{self.endpoint} is a replica (now)")
        self._ask_role_s = now_s + ROLE_S
        return replies

    def answered_by(self, life: str) -> None:
        """Note which server has answered a new connection, by its run id.

        Warns once where two servers answer by turns at one address: after a restart or a failover
        the run id of before does not come back. (The nodes of a cluster and a master that
        Sentinels know have addresses of their own.)
        """
        lives, now_s = self._lives, self.loop.time()
        is_back = life in lives and life != next(reversed(lives))
        if is_back and now_s - lives[life] < BY_TURNS_S and life and self._is_one_address:
            self._is_one_address = False
            log.warning(
                "two servers answer by turns at %s: what is read from one cannot be acknowledged "
                "at the other, so messages run twice. Name one of them, not what shares out "
                "connections among them.",
                self.endpoint,
            )
        lives.pop(life, None)
        lives[life] = now_s

    def abandon(self) -> None:
        """Open all connections anew, each when it is used next: they lead to no master any more."""
        self.generation += 1

    def _progressed(self) -> None:
        for receiver in list(self.receivers):
            receiver()

    def connections(self) -> list[AbstractConnection]:
        """All connections, for closing them where the loop is closed already."""
        own = [one.connection for one in self.dedicated_connections if one.connection]
        return own + self._pooled()

    def dedicated(self, key: str) -> DedicatedConnection:
        """A new connection to the node that serves the key; it is closed with the link."""
        dedicated = self._new_dedicated(key)
        self.dedicated_connections.add(dedicated)
        return dedicated

    async def drop(self, dedicated: DedicatedConnection) -> None:
        """Close a dedicated connection for good."""
        self.dedicated_connections.discard(dedicated)
        await dedicated.close()

    async def call(self, key: str, *command: Any) -> Any:
        """Run one command within the endpoint's ``socket_timeout``; WRONGTYPE names the key."""
        [reply] = await self.run(key, [command], limit_s := self.endpoint.socket_timeout)
        if is_wrong_kind(reply):
            kinds = [("TYPE", one) for one in keys_of(command, key)]
            reply = wrong_kind(kinds, await self.run(key, kinds, limit_s)) or reply
        return first_error([reply])[0]

    async def script(self, script: Script, keys: Sequence[str], *args: Any) -> Any:
        """Run a script by its hash, and by its source where the server does not know it yet."""
        return await run_script(self.call, script, keys, *args)


async def run_script(
    call: Callable[..., Awaitable[Any]], script: Script, keys: Sequence[str], *args: Any
) -> Any:
    """Run a script by means of ``call(key, *command)``; see Link.script()."""
    try:
        return await call(keys[0], "EVALSHA", script.sha, len(keys), *keys, *args)
    except NoScriptError:
        return await call(keys[0], "EVAL", script.source, len(keys), *keys, *args)
