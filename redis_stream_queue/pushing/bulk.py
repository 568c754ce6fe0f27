"""Add messages to a stream, many in few round trips; each gets an id or an error of its own."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from typing import Any

from redis.exceptions import ResponseError

from ..connection.exchange import OUTAGES
from ..connection.link import Link
from ..connection.scripts import PUSH
from ..connection.shapes import of_length
from .portions import Command, Pushes, round_trips

LIMIT = "proto-max-bulk-len"  # the server's setting


async def push_one(link: Link, key: str, push: Pushes, max_len: int | None = None) -> Any:
    """XADD one message; returns its id. max_len: a plain ``MAXLEN ~``."""
    [command] = push.adds(key, max_len)
    try:
        return await link.call(key, *command)
    except (ResponseError, *OUTAGES) as error:
        if push.is_large:
            raise refusal(len(push.payloads[0]), error, await _largest(link, key)) from None
        raise


async def push_all(link: Link, key: str, pushes: Pushes) -> list[Any]:
    """Add them; an id or an exception for each. After an outage the rest is not tried."""
    results: list[Any] = []
    for together in round_trips(pushes):
        try:
            results += await _send(link, key, together)
        except OUTAGES as error:
            left = len(pushes.payloads) - len(results)
            return results + [own_copy(error) for _ in range(left)]
    return results


async def _send(link: Link, key: str, together: Sequence[Pushes]) -> list[Any]:
    """The server adds one portion while the next is on its way."""
    if together[0].is_large:
        try:
            return [await push_one(link, key, together[0])]
        except ResponseError as error:  # refused: it fails alone
            return [error]
    plans = [(portion, _commands(key, portion)) for portion in together]
    timeout_s = link.endpoint.socket_timeout
    replies = await link.run(
        key,
        [command for _, commands in plans for command in commands],
        timeout_s and timeout_s * len(together),
    )
    results: list[Any] = []
    for portion, commands in plans:
        mine, replies = replies[: len(commands)], replies[len(commands) :]
        if portion.each is not None:
            results += mine
        elif not isinstance(mine[0], Exception):
            results += of_length(len(portion.payloads), mine[0])
        elif forbids_scripts(mine[0]):
            results += await link.run(key, portion.adds(key), timeout_s)
        else:
            results += [own_copy(mine[0]) for _ in portion.payloads]
    return results


def _commands(key: str, portion: Pushes) -> list[Command]:
    args = portion.script_args()
    return portion.adds(key) if args is None else [("EVAL", PUSH.source, 1, key, *args)]


async def _largest(link: Link, key: str) -> int | None:
    """The most bytes of one value that the server takes, None where it does not tell."""
    with contextlib.suppress(*OUTAGES, ValueError):
        _, limit = await link.call(key, "CONFIG", "GET", LIMIT)
        return int(limit)
    return None


def refusal(size: int, error: Exception, limit: int | None) -> Exception:
    """What to say of a large payload that did not go through.

    size, limit: bytes, of the payload and of what the server takes (None = it does not tell).
    """
    if limit is None and "Protocol error" not in str(error):
        return error
    if limit is not None and size <= limit:
        return error
    most = LIMIT if limit is None else f"{LIMIT} of {limit:,} bytes"
    return ResponseError(
        f"a payload of {size:,} bytes is above the server's {most}, so it was not added. Raise "
        "that limit, or keep large data elsewhere and push its address."
    )


def forbids_scripts(error: Exception) -> bool:
    """Does this error say that EVAL is not allowed or not known here?"""
    words = str(error).lower()
    return "eval" in words and ("noperm" in words or "permission" in words or "unknown" in words)


def own_copy(error: Exception) -> Exception:
    """The same error for one more caller: a traceback belongs to one alone."""
    try:
        return type(error)(*error.args)
    except Exception:  # its constructor wants something else
        return error
