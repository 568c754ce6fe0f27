"""One exchange on a connection: commands go out in one write, and their replies come back.

Commands go out as they are and replies come back as they are (RESP2, bytes): no reply callbacks, no
automatic retry, and every exchange carries its own timeout.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any

from redis.asyncio.connection import AbstractConnection
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import InvalidResponse, RedisClusterException, RedisError, ResponseError
from redis.exceptions import TimeoutError as RedisTimeoutError

from .endpoint import Endpoint
from .packing import Command, packets
from .refusals import no_redis, says_demoted
from .replies import info_lines
from .shapes import answered
from .wire import wire_of

PROBE_S = 1.0  # how long a server may take to say that it is there

# What talking to a Redis that is down, unreachable or unwilling may raise. (UnicodeError: a host
# name that no lookup accepts.)
OUTAGES = (RedisError, RedisClusterException, OSError, TimeoutError, UnicodeError)

# What asyncio, uvloop and redis-py raise, in one version or another, out of a connection that has
# just broken: a transport that has lost its loop, a reader that is gone.
_BROKEN = (AttributeError, RuntimeError, AssertionError, EOFError, TypeError, ValueError)


async def exchange(
    connection: AbstractConnection,
    commands: Sequence[Command],
    timeout_s: float | None,
    on_reply: Callable[[int, Any], None] | None = None,
    last_s: float | None = None,
    on_late: Callable[[], None] | None = None,
) -> list[Any]:
    """Send the commands in one write and read all replies; an error reply stays in its place.

    timeout_s: longest silence, in which not one byte comes or goes; where ``last_s`` is given,
    that is how long it may last before the last reply. The connection's round trip comes on top.
    on_reply: called with the index and the value of each reply but the last as it comes in.
    on_late: called once when that silence is nearly over.

    Whatever interrupts it (timeout, cut, cancellation) closes the connection, since a reply that
    was not read would be taken for the answer to the next command. So do a reply of another shape
    than its command's, one too many, a protocol error, and a demoted server: see Link.generation.
    """
    replies: list[Any] = []
    wire, asked = wire_of(connection), answered(commands)
    silence, demoted, spoiled, last = wire.silence, False, False, len(commands) - 1
    waits, limit_s = (True, last_s) if last_s and last == 0 else (False, timeout_s)
    wire.used_s = began_s = wire.now()
    silence.begin(limit_s and limit_s + wire.rtt_s, began_s, on_late, waits=waits)
    try:
        for packed in packets(commands):
            wire.sending(len(packed))
            try:
                await connection.send_packed_command(packed, check_health=False)
            except _BROKEN as error:
                raise _broken(error) from error
        for index in range(last + 1):
            if index == last and last_s is not None and not waits:
                silence.begin(last_s + wire.rtt_s, wire.now(), on_late, waits=True)
            try:
                replies.append(await wire.reply(asked[index]))
            except ResponseError as error:
                replies.append(error)
                demoted |= says_demoted(error)
                spoiled |= str(error).startswith("Protocol error")
            except (OSError, *_BROKEN) as error:
                raise _broken(error) from error
            if on_reply is not None and index < last:
                on_reply(index, replies[index])
    except BaseException as error:  # a cancellation, too: its reply would be the next one's
        limit_s = silence.limit_s
        await cut(connection)
        if silence.ended and isinstance(error, OUTAGES):
            raise RedisTimeoutError(f"Redis did not answer within {limit_s:.3g} s") from None
        raise
    finally:
        silence.end()
    if last_s is None:
        wire.took(wire.now() - began_s)
    if demoted:
        wire.on_demoted()
    if demoted or spoiled or silence.ended or wire.unasked:
        await cut(connection)
    return replies


async def opened(connection: AbstractConnection) -> AbstractConnection:
    """Connect it, or leave nothing of it behind."""
    try:
        await connection.connect()
    except BaseException:  # a cancellation, too
        await cut(connection)
        raise
    return connection


async def cut(connection: AbstractConnection) -> None:
    """Close a connection without waiting; one that is broken may say so once more."""
    with contextlib.suppress(OSError, *_BROKEN):
        await connection.disconnect(nowait=True)


def _broken(error: Exception) -> RedisConnectionError:
    return RedisConnectionError(f"the connection broke ({type(error).__name__}: {error})")


def first_error(replies: Sequence[Any]) -> list[Any]:
    """The replies, or the first error among them raised."""
    for reply in replies:
        if isinstance(reply, Exception):
            raise reply
    return list(replies)


@contextlib.asynccontextmanager
async def connecting(endpoint: Endpoint) -> AsyncIterator[None]:
    """Bounds a connect with its handshake, which may break like any exchange."""
    try:
        async with asyncio.timeout(endpoint.socket_connect_timeout):
            yield
    except TimeoutError:
        raise RedisTimeoutError(f"{endpoint} accepts connections but does not answer") from None
    except UnicodeError:  # a ValueError, but about the host's name
        raise
    except InvalidResponse as error:
        raise no_redis(endpoint, str(error)) from error
    except _BROKEN as error:
        raise _broken(error) from error


async def life_of(connection: AbstractConnection) -> str:
    """Which life of which server is at the other end; "" if it does not tell.

    Ids of clients mean something in that life only: after a restart or a failover the same id is
    another program's connection.
    """
    wire = wire_of(connection)
    if wire.life is None:
        [info] = await exchange(connection, [("INFO", "server")], PROBE_S)
        wire.life = run_id(info)
    return wire.life


def run_id(info: Any) -> str:
    """The run id in a reply of ``INFO server``; "" if there is none (an ACL may forbid INFO)."""
    return info_lines(info).get("run_id", "")
