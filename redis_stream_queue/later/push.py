"""Push messages that have options of their own (later/extras.py), many with one script call."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from redis.exceptions import ResponseError

from ..connection.exchange import OUTAGES
from ..connection.replies import text
from ..connection.scripts import Script
from ..connection.shapes import of_length
from ..exceptions import BacklogFull
from ..pushing.bulk import own_copy
from ..pushing.portions import PUSH_CHUNK_BYTES
from .extras import Asked, PushedId
from .keys import Companions
from .scripts import PUSH_WITH, TAKE_BACK

AT_ONCE = 100  # messages of one script call: a few ms of Redis' time

Call = tuple[int, Script, list[str], list[Any]]  # how many messages it adds; KEYS and ARGV


def calls(
    asked: Sequence[Asked],
    beside: Companions,
    most: int,
    group: str | None,
    results: list[Any] | None = None,
) -> Iterator[Call]:
    """Split messages into script calls.

    most: how many messages may be scheduled; 0 = any number. results: None, or the list of results
    so far, which the caller extends after each call: then either all messages are scheduled or,
    where there is no room for all, none: if others have taken the room meanwhile, what was
    scheduled is taken back, and the rest is not tried. A call that takes back adds 0 messages; if
    it fails, its error is what came of all of them.
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
        yield count, PUSH_WITH, keys, args
        if results is not None:
            if full := [one for one in results[start:] if isinstance(one, BacklogFull)]:
                yield from _back(asked, beside, results)
                results[:] = [own_copy(full[0]) for _ in asked]
                return
            wanted -= count
        start += count


def _back(asked: Sequence[Asked], beside: Companions, results: Sequence[Any]) -> Iterator[Call]:
    """Calls that take back what was scheduled."""
    pushed = [
        (one, asked[index].terms.dedup_id)
        for index, one in enumerate(results)
        if isinstance(one, PushedId) and not one.duplicate
    ]
    for start in range(0, len(pushed), AT_ONCE):
        keys: list[str] = [beside.later]
        args: list[Any] = []
        for entry_id, dedup_id in pushed[start : start + AT_ONCE]:
            if dedup_id:
                keys.append(beside.dedup(dedup_id))
            args += (entry_id, len(keys) - 1 if dedup_id else 0)
        yield 0, TAKE_BACK, keys, args


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
    for count, script, keys, args in calls(asked, beside, most, group, results if whole else None):
        try:
            reply = await link.script(script, keys, *args)
            results += map(result_of, of_length(count, reply))
        except OUTAGES as error:
            if not goes_on(error, count, asked, results):
                break
    return results


def goes_on(error: Exception, count: int, asked: Sequence[Asked], results: list[Any]) -> bool:
    """Note the error of a call for those that it concerns; may more calls be tried?

    count: how many messages the call adds. results: those of the calls before it.
    """
    refused = isinstance(error, ResponseError)
    if not count:  # nobody knows what was taken back
        results.clear()
    concerned = count if refused and count else len(asked) - len(results)
    results += [own_copy(error) for _ in range(concerned)]
    return refused and count > 0


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
