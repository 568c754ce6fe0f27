"""Push messages that have options of their own (later/extras.py), many with one script call."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from redis.exceptions import ResponseError

from ..connection.exchange import OUTAGES
from ..connection.replies import text
from ..connection.shapes import of_length
from ..exceptions import BacklogFull
from ..pushing.bulk import own_copy
from ..pushing.portions import PUSH_CHUNK_BYTES
from .extras import Asked, PushedId
from .keys import Companions
from .scripts import PUSH_WITH

AT_ONCE = 100  # messages of one script call: a few ms of Redis' time

Call = tuple[list[str], list[Any]]  # KEYS and ARGV


def calls(
    asked: Sequence[Asked],
    beside: Companions,
    most: int,
    group: str | None,
    results: Sequence[Any] | None = None,
) -> Iterator[tuple[int, Call]]:
    """Split messages into script calls: how many each one takes, and its KEYS and ARGV.

    most: how many messages may be scheduled; 0 = any number. results: None, or the list of results
    so far, which the caller extends after each call: then either all messages are scheduled or,
    where there is no room for all, none.
    """
    start, wanted = 0, 0 if results is None else len(asked)
    while start < len(asked):
        keys = [beside.stream, beside.later, beside.seq, beside.bell, beside.unique]
        args: list[Any] = [most, group or "", wanted]
        count = size = 0
        for one in asked[start : start + AT_ONCE]:
            if count and size + len(one.payload) > PUSH_CHUNK_BYTES:
                break
            window = 0
            if one.terms.dedup_id:
                keys.append(beside.dedup(one.terms.dedup_id))
                window = len(keys) - 5
            args += one.script_args(window)
            count, size = count + 1, size + len(one.payload)
        yield count, (keys, args)
        if results is not None and not any(isinstance(r, BacklogFull) for r in results[start:]):
            wanted -= count
        start += count


async def push_asked(
    link: Any,
    asked: Sequence[Asked],
    beside: Companions,
    most: int,
    group: str | None,
    *,
    whole: bool = False,
) -> list[Any]:
    """Push messages; returns an id or an exception for each. After an outage no more are tried.

    most: see calls(). whole: schedule all of them, or none where there is no room for all.
    """
    results: list[Any] = []
    for count, (keys, args) in calls(asked, beside, most, group, results if whole else None):
        try:
            reply = await link.script(PUSH_WITH, keys, *args)
            results += map(result_of, of_length(count, reply))
        except ResponseError as error:
            results += [own_copy(error) for _ in range(count)]
        except OUTAGES as error:
            return results + [own_copy(error) for _ in asked[len(results) :]]
    return results


def result_of(reply: Any) -> PushedId | Exception:
    """The id or the exception in PUSH_WITH's reply about one message."""
    if isinstance(reply, list):
        return PushedId(text(reply[0]), duplicate=True)
    if not isinstance(reply, Exception):
        return PushedId(text(reply))
    words = str(reply)
    if words.startswith("FULL "):
        return BacklogFull(
            f"{words.removeprefix('FULL ')}, which is max_scheduled. Push later, or raise it."
        )
    return reply
