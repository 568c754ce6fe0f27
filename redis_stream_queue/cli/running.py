"""rsq running: what runs now, where and since when."""

from __future__ import annotations

from typing import Any

import click

from .._clock import span_text
from .._plain import json_line
from ..operations.heartbeat import INDEX, Heartbeat, living, unseen
from .common import Redis, ask, counted, json_option, name, on_redis
from .output import complain, say
from .tables import show_table

HEADING = ("host", "slot", "pid", "stream", "message", "task", "runs for", "held")


@click.command()
@click.argument("stream", required=False, callback=name)
@on_redis
@json_option
def running(redis: Redis, stream: str | None, as_json: bool) -> None:
    """Show what runs now, of STREAM or of all streams: on which host, and for how long.

    Pools write it down each second while something changes (rsq-pool --no-heartbeat does not).
    """
    pools, now_ms = ask(redis, INDEX, lambda: living(redis.client))
    key = redis.client.key(stream) if stream else None
    pools = [pool for pool in pools if key in (None, pool.stream)]
    why = "" if pools else ask(redis, INDEX, lambda: unseen(redis.client, stream))
    lines = [line for pool in pools for line in _lines(pool, now_ms)]
    lines.sort(key=lambda line: -line["running_ms"])
    if as_json:
        shown = [_pool(pool, now_ms) for pool in pools]
        say(json_line({"pools": shown, "running": lines, "unseen": why}))
        return
    _show(pools, lines)
    if why:
        complain("rsq", f"{why}.")


def _show(pools: list[Heartbeat], lines: list[dict[str, Any]]) -> None:
    workers = sum(len(pool.workers) for pool in pools)
    masters = {(pool.host, pool.pid) for pool in pools}  # one may have several crews
    say(f"{counted(len(masters), 'pool')}, {counted(workers, 'worker')}, {len(lines)} running")
    if lines:
        show_table(HEADING, [_cells(line) for line in lines])


def _lines(pool: Heartbeat, now_ms: int) -> list[dict[str, Any]]:
    """A line for each worker of the pool that runs a message."""
    return [
        {
            "host": pool.host,
            "slot": worker.slot,
            "pid": worker.pid,
            "stream": pool.stream,
            "id": worker.message_id,
            "task": worker.task,
            "running_ms": max(now_ms - worker.since_ms, 0),
            "since_ms": worker.since_ms,
            "held": worker.held,
            "group": pool.group,
            "target": pool.target,
        }
        for worker in pool.workers
        if worker.message_id
    ]


def _cells(line: dict[str, Any]) -> list[Any]:
    names = "host", "slot", "pid", "stream", "id", "task"
    return [*(line[name] for name in names), span_text(line["running_ms"]), line["held"]]


def _pool(pool: Heartbeat, now_ms: int) -> dict[str, Any]:
    names = "host", "pid", "target", "stream", "group", "state", "version", "acked_per_s"
    return {
        **{name: getattr(pool, name) for name in names},
        "workers": len(pool.workers),
        "up_ms": now_ms - pool.started_ms,
        "seen_ms_ago": now_ms - pool.beat_ms,
    }
