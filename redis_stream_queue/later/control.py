"""Pauses of a stream, for all its groups or for one; and messages that were cancelled.

A pause holds on all hosts, until it is resumed or until its end.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from typing import Any, NamedTuple

from .._clock import wall_ms
from ..connection.exchange import first_error
from ..connection.link import Link
from ..connection.packing import Command
from ..connection.refusals import is_forbidden, of_key
from ..connection.replies import mapping, text
from ..connection.scripts import Script
from ..exceptions import ClusterSlotError
from .keys import companions
from .scripts import NOW

EVERY = "paused"  # the field for all groups
MOST_PAUSE_MS = 366 * 86_400_000  # the longest pause with an end
TIMES = re.compile(r"([0-9]{1,13}):([0-9]{1,13})")  # what others have written is no pause

# KEYS: control, bell. ARGV: field, ms that it lasts (0 = until resumed)
PAUSE = Script(
    NOW
    + """
local ends = 0
if tonumber(ARGV[2]) > 0 then ends = now + tonumber(ARGV[2]) end
redis.call('HSET', KEYS[1], ARGV[1], int(now) .. ':' .. int(ends))
redis.pcall('XADD', KEYS[2], 'MAXLEN', '~', 16, '*', 'control', '1')
"""
).returning(None)

# KEYS: control, bell. ARGV: field. Returns 1 if it was paused, 0 also if that was over.
RESUME = Script(
    NOW
    + """
local ends = tonumber(string.match(redis.call('HGET', KEYS[1], ARGV[1]) or '', ':(%d+)$')) or 0
if redis.call('HDEL', KEYS[1], ARGV[1]) == 0 then return 0 end
redis.pcall('XADD', KEYS[2], 'MAXLEN', '~', 16, '*', 'control', '1')
return (ends == 0 or ends > now) and 1 or 0
"""
).returning(int)


class Pause(NamedTuple):
    """A pause. since_ms, until_ms: since the epoch by Redis' clock; None = until it is resumed."""

    since_ms: int
    until_ms: int | None


def pauses(fields: Any) -> dict[str, Pause]:
    """The pauses in a reply of HGETALL, by field; other fields are left out."""
    return {name: made for name, value in mapping(fields).items() if (made := _pause(name, value))}


def _pause(name: str, value: str) -> Pause | None:
    found = TIMES.fullmatch(value) if name.partition(":")[0] == EVERY else None
    return Pause(int(found[1]), int(found[2]) or None) if found else None


def pause_of(found: Mapping[str, Pause], group: str, now_ms: float) -> Pause | None:
    """The pause that holds for this group now; of two the longer one, None = there is none."""
    of_group = (found.get(EVERY), found.get(field_of(group)))
    now = [p for p in of_group if p and (p.until_ms is None or p.until_ms > now_ms)]
    return max(now, key=lambda p: p.until_ms or float("inf"), default=None)


def field_of(group: str | None) -> str:
    """The field of the pause of a group. group: None = of all groups."""
    return EVERY if group is None else f"{EVERY}:{group}"


async def pause(link: Link, key: str, group: str | None, for_ms: int) -> None:
    """Pause a group (None = all groups). for_ms: how long, 0 = until it is resumed."""
    beside = companions(key)
    await link.script(PAUSE, [beside.control, beside.bell], field_of(group), for_ms)


async def resume(link: Link, key: str, group: str | None) -> bool:
    """End the pause of a group (None = of all groups); returns whether there was one."""
    beside = companions(key)
    return bool(await link.script(RESUME, [beside.control, beside.bell], field_of(group)))


async def paused(link: Link, key: str) -> dict[str, Pause]:
    """The pauses of a stream that are not over, by field. Raises what Redis raises.

    Redis' clock counts, where this user may ask for it.
    """
    control = companions(key).control
    asked: list[Command] = [("TIME",), ("HGETALL", control)]
    time, found = await link.run(control, asked, link.endpoint.socket_timeout)
    [fields] = first_error([of_key(found, control)])
    now_ms = wall_ms()
    if not isinstance(time, Exception):
        now_ms = int(time[0]) * 1000 + int(time[1]) // 1000
    return {
        name: made
        for name, made in pauses(fields).items()
        if made.until_ms is None or made.until_ms > now_ms
    }


async def cancelled(link: Link, key: str, ids: Collection[str], limit_s: float | None) -> set[str]:
    """Which of these messages, none of which is pending any more, were cancelled.

    The others may have been acknowledged by hand, or lost with the server's memory. limit_s: how
    long Redis may be silent, None = as the client says.
    """
    try:
        notes = companions(key).cancelled
    except ClusterSlotError:  # messages of such a stream cannot be cancelled
        return set()
    times = sorted({entry_id.partition("-")[0] for entry_id in ids})
    looks: list[Command] = [("ZRANGE", notes, ms, ms, "BYSCORE") for ms in times]
    replies = await link.run(key, looks, limit_s)
    noted = first_error([reply for reply in replies if not _says_never(reply)])
    return {text(entry_id) for reply in noted for entry_id in reply}.intersection(ids)


def _says_never(reply: Any) -> bool:
    """Is this an error that waiting does not end?"""
    return isinstance(reply, Exception) and (is_forbidden(reply) or "WRONGTYPE" in str(reply))
