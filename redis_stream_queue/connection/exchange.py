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
    """Send the commands together and return all replies; an error reply stays in its place.

    timeout_s: seconds without one byte, in or out, after which the connection counts as dead, plus
        a round trip; None = no limit.
    last_s: the same for the last reply, where its command blocks at the server.
    on_reply: called with index and value of each reply but the last, when it arrives.
    on_late: called once when a silence has nearly lasted so long.
    Raises redis.exceptions.TimeoutError and ConnectionError.

    Whatever interrupts it (a timeout, a cancellation) closes the connection: a reply that was not
    read would be taken for that to the next command. So do a reply of another shape than its
    command's, one too many, a protocol error, and a server that is no master (Link.generation).
    """
    replies: list[Any] = []
    wire, asked = wire_of(connection), answered(commands)
    silence, demoted, spoiled, last = wire.silence, False, False, len(commands) - 1
    waits, limit_s = (True, last_s) if last_s and last == 0 else (False, timeout_s)
    wire.used_s = began_s = wire.now()
    silence.begin(limit_s and limit_s + wire.rtt_s, began_s, on_late, waits=waits)
    try:
        await _send(connection, commands)
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


async def _send(connection: AbstractConnection, commands: Sequence[Command]) -> None:
    for packed in packets(commands):
        wire_of(connection).sending(len(packed))
        try:
            await connection.send_packed_command(packed, check_health=False)
        except _BROKEN as error:
            raise _broken(error) from error


async def opened(connection: AbstractConnection) -> AbstractConnection:
    """Connect it and return it; where that fails, it is closed again."""
    try:
        await connection.connect()
    except BaseException:  # a cancellation, too
        await cut(connection)
        raise
    return connection


async def cut(connection: AbstractConnection) -> None:
    """Close a connection without waiting for it; errors of one that is broken are ignored."""
    with contextlib.suppress(OSError, *_BROKEN):
        await connection.disconnect(nowait=True)


def _broken(error: Exception) -> RedisConnectionError:
    return RedisConnectionError(f"the connection broke ({type(error).__name__}: {error})")


def first_error(replies: Sequence[Any]) -> list[Any]:
    """Return the replies. Raises the first error among them."""
    for reply in replies:
        if isinstance(reply, Exception):
            raise reply
    return list(replies)


def of_transaction(replies: Sequence[Any]) -> list[Any] | None:
    """Return the replies of the commands inside; None: a watched key has changed, none has run.

    Raises the first error, also one of a command that was refused when the others had run.
    """
    executed = first_error(replies)[-1]
    return None if executed is None else first_error(executed)


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
    """The run id of the server at the other end; "" if it does not tell.

    A server has a new one after each restart. The id of a client means something for one run id
    only: after a restart or a failover the same id is another program's connection.
    """
    wire = wire_of(connection)
    if wire.life is None:
        [info] = await exchange(connection, [("INFO", "server")], PROBE_S)
        wire.life = run_id(info)
    return wire.life


def run_id(info: Any) -> str:
    """The run id in a reply of ``INFO server``; "" if there is none (an ACL may forbid INFO)."""
    return info_lines(info).get("run_id", "")
