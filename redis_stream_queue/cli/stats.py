"""rsq stats: how a stream and its consumer groups are doing."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import click
from redis.exceptions import NoPermissionError

from .._clock import span_text
from .._plain import json_line, plain_cut
from ..connection.refusals import WrongKind
from ..delivery.pending import PendingList
from ..delivery.retention import blocker
from ..exceptions import ClusterSlotError
from ..group import ConsumerGroup
from ..later.control import paused
from ..later.ids import as_datetime
from ..message import StreamStats
from .common import Redis, ask, dlq_option, group_option, json_option, on_redis, stream_argument
from .groups import groups_of, how_many_scheduled
from .output import say
from .tables import shown_by_rich

SHOWN_NAME = 100  # characters of a consumer's name in a table
GROUPS = "group", "lag", "pending", "waiting for retry", "consumers"
CONSUMERS = "group", "consumer", "pending", "idle"
NOTHING_TO_TRIM = 2**53  # a length that no stream has


@click.command()
@stream_argument
@group_option
@dlq_option
@on_redis
@json_option
def stats(
    redis: Redis,
    stream: str,
    group: str | None,
    dlq_stream: str | None,
    as_json: bool,
) -> None:
    """Show how STREAM and its consumer groups are doing.

    \b
      lag                undelivered messages
      pending            delivered and not acknowledged, those that wait for a retry included
      waiting for retry  to be delivered again: failed before, or given back
      oldest unfinished  what keeps finished messages before it in the stream
    """
    dlq = redis.dlq_of(stream, dlq_stream)
    length, groups = _stats(redis, stream, group)
    report = {
        "stream": redis.client.key(stream),
        "length": length,
        "dlq_stream": redis.client.key(dlq),
        "dead_letters": ask(redis, dlq, lambda: redis.client.stream_len(dlq)),
        "scheduled": ask(redis, stream, lambda: how_many_scheduled(redis, stream)),
        "paused": ask(redis, stream, lambda: _paused(redis, stream)),
        "oldest_unfinished": ask(redis, stream, lambda: _oldest(redis, stream, groups)),
        "groups": [_group_report(found) for found in groups],
    }
    if as_json:
        say(json_line(report))
        return
    say(*_lines(_about(report)))
    if not report["groups"]:
        return
    if not shown_by_rich(GROUPS, _group_rows(report)):
        say(*_lines(_of_groups(report)))
    elif consumers := _consumer_rows(report):
        shown_by_rich(CONSUMERS, consumers)


def _stats(redis: Redis, stream: str, only: str | None) -> tuple[int, list[StreamStats]]:
    """The length of a stream, and the state of each of its groups, or of one."""
    client = redis.client
    asked = groups_of(redis, stream, only)

    async def look() -> list[StreamStats]:
        return [await ConsumerGroup(client, stream, name).stats() for name in asked]

    return ask(redis, stream, lambda: client.stream_len(stream)), ask(redis, stream, look)


async def _oldest(redis: Redis, stream: str, groups: list[StreamStats]) -> str | None:
    """The entry that keeps finished ones from being trimmed, and who holds it."""
    if not any(found.lag or found.group_pel_size for found in groups):
        return None
    looked = await PendingList(redis.client, stream, "").trim(NOTHING_TO_TRIM)
    return await blocker(redis.client, stream, looked)


async def _paused(redis: Redis, stream: str) -> list[str]:
    """A line for each pause; [] where this user may not see pauses."""
    try:
        found = await paused(redis.client.link(), redis.client.key(stream))
    except (NoPermissionError, ClusterSlotError, WrongKind):
        return []
    words = []
    for field, made in found.items():
        _, _, group = field.partition(":")
        until = "" if made.until_ms is None else f", until {as_datetime(made.until_ms):%F %TZ}"
        since = f"since {as_datetime(made.since_ms):%F %TZ}"
        words.append(f"{f'group {group}' if group else 'all groups'}, {since}{until}")
    return words


def _group_report(found: StreamStats) -> dict[str, Any]:
    return {
        "group": found.group,
        "lag": found.lag,
        "pending": found.group_pel_size,
        "waiting_for_retry": found.waiting_retries,
        "last_delivered_id": found.last_delivered_id,
        "consumers": [asdict(c) for c in found.consumers],
    }


def _about(report: dict[str, Any]) -> list[tuple[str, Any]]:
    """Lines about the stream itself, as pairs of name and value."""
    rows = [
        ("stream", report["stream"]),
        ("length", report["length"]),
        ("dead letters", f"{report['dead_letters']}  in {report['dlq_stream']}"),
    ]
    rows += [("PAUSED", what) for what in report["paused"]]
    if report["scheduled"]:
        rows.append(("scheduled", report["scheduled"]))
    if report["oldest_unfinished"]:
        rows.append(("oldest unfinished", report["oldest_unfinished"]))
    if not report["groups"]:
        rows.append(("groups", "none yet"))
    return rows


def _group_rows(report: dict[str, Any]) -> list[list[Any]]:
    names = "group", "lag", "pending", "waiting_for_retry"
    return [[*(g[name] for name in names), len(g["consumers"])] for g in report["groups"]]


def _consumer_rows(report: dict[str, Any]) -> list[list[Any]]:
    return [
        [group["group"], c["name"], c["pending"], span_text(c["idle_ms"])]
        for group in report["groups"]
        for c in _busiest_first(group)
    ]


def _busiest_first(group: dict[str, Any]) -> list[dict[str, Any]]:
    return sorted(group["consumers"], key=lambda c: (-c["pending"], c["name"]))


def _of_groups(report: dict[str, Any]) -> list[tuple[str, Any]]:
    """Lines about the groups, where rich is not there to show tables."""
    rows: list[tuple[str, Any]] = []
    for group in report["groups"]:
        rows += [
            ("", ""),
            ("group", group["group"]),
            ("lag", group["lag"]),
            ("pending", group["pending"]),
            ("waiting for retry", group["waiting_for_retry"]),
            ("consumers", len(group["consumers"])),
        ]
        shown = {c["name"]: plain_cut(c["name"], SHOWN_NAME) for c in group["consumers"]}
        width = max(map(len, shown.values()), default=0)
        for consumer in _busiest_first(group):
            consumer_name, idle = shown[consumer["name"]], span_text(consumer["idle_ms"])
            rows.append(
                ("", f"{consumer_name:{width}}  pending {consumer['pending']}, idle {idle}")
            )
    return rows


def _lines(rows: list[tuple[str, Any]]) -> list[str]:
    return [f"{name:18} {value}".rstrip() for name, value in rows]
