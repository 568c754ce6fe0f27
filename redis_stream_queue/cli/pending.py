"""rsq pending: what was handed out and is not done, message by message."""

from __future__ import annotations

from typing import Any

import click

from .._clock import span_text
from .._names import parking_due_ms
from .._plain import json_line
from ..group import ConsumerGroup
from ..message import PendingEntry
from ..operations.heartbeat import Heartbeat, visible
from .common import Redis, ask, group_option, json_option, on_redis, stream_argument
from .groups import groups_of
from .output import say
from .tables import show_table

HEADING = ("message", "group", "deliveries", "how it is", "held by")


@click.command()
@stream_argument
@group_option
@click.option("--limit", type=click.IntRange(min=1), default=50, show_default=True)
@on_redis
@json_option
def pending(redis: Redis, stream: str, group: str | None, limit: int, as_json: bool) -> None:
    """Show which messages of STREAM were handed out and are not done, oldest first: what runs and
    for how long, what waits for a retry, what is held."""

    async def look() -> tuple[list[dict[str, Any]], int]:
        found = []
        infos = await redis.client.group_info(stream)
        for each in names:
            entries = await ConsumerGroup(redis.client, stream, each).pending_details(limit)
            found += [_line(each, entry, runs.get((each, entry.id)), now_ms) for entry in entries]
        return found, sum(int(info["pending"]) for info in infos if info["name"] in names)

    names = groups_of(redis, stream, group)
    pools, now_ms = ask(redis, stream, lambda: visible(redis.client))
    runs = _running(pools, redis.client.key(stream))
    lines, total = ask(redis, stream, look)
    if as_json:
        say(json_line({"stream": redis.client.key(stream), "total": total, "pending": lines}))
    elif not lines:
        say(f"nothing is pending in {redis.client.key(stream)}", err=True)
    else:
        show_table(HEADING, [_cells(line, several=len(names) > 1) for line in lines])
        if total > len(lines):
            say(f"{total} are pending; --limit shows more than the oldest {limit}", err=True)


def _running(pools: list[Heartbeat], key: str) -> dict[tuple[str, str], tuple[Heartbeat, Any]]:
    """Pool and worker that run each message, by (group, message id)."""
    return {
        (pool.group, worker.message_id): (pool, worker)
        for pool in pools
        if pool.stream == key
        for worker in pool.workers
    }


def _line(group: str, entry: PendingEntry, runs: Any, now_ms: int) -> dict[str, Any]:
    due_ms = parking_due_ms(group, entry.consumer)
    line: dict[str, Any] = {
        "id": entry.id,
        "group": group,
        "consumer": entry.consumer,
        "idle_ms": entry.idle_ms,
        "deliveries": entry.delivery_count,
        "state": "held",
    }
    if due_ms is not None:
        line |= {"state": "waits for retry", "due_in_ms": max(due_ms - entry.idle_ms, 0)}
    elif runs:
        pool, worker = runs
        line |= {"state": "running", "running_ms": max(now_ms - worker.since_ms, 0)}
        line |= {"host": pool.host, "slot": worker.slot, "pid": worker.pid}
    return line


def _cells(line: dict[str, Any], *, several: bool) -> list[Any]:
    group = line["group"] if several else ""
    return [line["id"], group, line["deliveries"], _words(line), line["consumer"]]


def _words(line: dict[str, Any]) -> str:
    match line["state"]:
        case "running":
            return f"runs for {span_text(line['running_ms'])} on {line['host']} slot {line['slot']}"
        case "waits for retry":
            return f"waits for a retry, due in {span_text(line['due_in_ms'])}"
        case _:
            return f"held, renewed {span_text(line['idle_ms'])} ago"
