"""A link: the connections of one endpoint, event loop and process. What all kinds have in common.

Commands go out as they are and replies come back as they are (RESP2, bytes): no reply callbacks, no
automatic retry, and every exchange carries its own timeout.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from typing import Any

import hiredis
from redis.asyncio.connection import AbstractConnection
from redis.exceptions import (
    NoScriptError,
    ReadOnlyError,
    RedisClusterException,
    RedisError,
    ResponseError,
)
from redis.exceptions import TimeoutError as RedisTimeoutError

from ._endpoint import Endpoint
from ._patience import Patience
from ._scripts import Script

Command = tuple[Any, ...]

PACKET_BYTES = 32_768  # sent together

# What talking to a Redis that is down, unreachable or unwilling may raise. (UnicodeError: a host
# name that no lookup accepts.)
OUTAGES = (RedisError, RedisClusterException, OSError, TimeoutError, UnicodeError)


async def exchange(
    connection: AbstractConnection,
    commands: Sequence[Command],
    timeout_s: float | None,
    on_reply: Callable[[int, Any], None] | None = None,
    last_s: float | None = None,
) -> list[Any]:
    """Send the commands in one write and read all replies; an error reply stays in its place.

    timeout_s: for all of it; but where ``last_s`` is given, that is how long the last reply may
    take after the one before.
    on_reply: called with the index and the value of each reply as it comes in.

    Whatever interrupts it (timeout, cut, cancellation) closes the connection, since a reply that
    was not read would be taken for the answer to the next command. So does READONLY: behind the
    address is another server by now, and this connection leads to one that was demoted. And so does
    a protocol error, after which the server closes its side.
    """
    replies: list[Any] = []
    patience = Patience(timeout_s)
    demoted = False
    try:
        async with patience.limit:
            for packed in _packets(commands):
                await connection.send_packed_command(packed, check_health=False)
            for _ in commands:
                if last_s is not None and len(replies) == len(commands) - 1:
                    patience.start(last_s)
                try:
                    replies.append(await connection.read_response(disable_decoding=True))
                except ResponseError as error:
                    replies.append(error)
                    # (Redis 6.2 passes it on from a script as another error's text.)
                    demoted |= isinstance(error, ReadOnlyError) or "READONLY" in str(error)
                    demoted |= str(error).startswith("Protocol error")
                if on_reply is not None:
                    on_reply(len(replies) - 1, replies[-1])
    except TimeoutError:
        await connection.disconnect(nowait=True)
        raise RedisTimeoutError(f"Redis did not answer within {patience.limit_s} s") from None
    except BaseException:
        await connection.disconnect(nowait=True)
        raise
    finally:
        patience.end()
    if demoted:
        await connection.disconnect(nowait=True)
    return replies


def _packets(commands: Sequence[Command]) -> Iterator[bytes]:
    """Bytes to send: small commands together; the server works on a large one meanwhile."""
    packet = b""
    for command in commands:
        packet += hiredis.pack_command(command)
        if len(packet) >= PACKET_BYTES:
            yield packet
            packet = b""
    if packet:
        yield packet


def first_error(replies: Sequence[Any]) -> list[Any]:
    """The replies, or the first error among them raised."""
    for reply in replies:
        if isinstance(reply, Exception):
            raise reply
    return list(replies)


@contextlib.asynccontextmanager
async def connecting(endpoint: Endpoint) -> AsyncIterator[None]:
    """Bounds a connect with its handshake."""
    try:
        async with asyncio.timeout(endpoint.socket_connect_timeout):
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
        last_s: float | None = None,
    ) -> list[Any]:
        """Exchange commands; error replies are returned in place. Times: see exchange()."""
        connection = await self.connect()
        return await exchange(connection, commands, timeout_s, on_reply, last_s)

    async def connect(self) -> AbstractConnection:
        """The connection, opened if it is not open."""
        if self.connection is not None and self.connection.is_connected:
            return self.connection
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
