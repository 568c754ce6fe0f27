"""rsq top: all pools of all hosts, live."""

from __future__ import annotations

import importlib
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict
from typing import Any, NamedTuple

import click

from .. import _exits
from .._clock import span_text
from .._exits import Failure
from .._plain import json_line
from ..connection.exchange import OUTAGES
from ..operations.heartbeat import INDEX, Heartbeat, living, unseen
from ..operations.readings import Reading, read
from .common import Redis, ask, complaints, counted, json_option, name, prefix_option, url_option
from .output import say
from .tables import text_table

STREAMS = "stream", "group", "lag", "oldest", "pending", "retries", "letters", "per s"
POOLS = (
    *("host", "pid", "target", "state", "busy", "per s", "handled", "errors", "dead"),
    *("replaced", "memory", "up", "seen"),
)
WORKERS = "host", "slot", "pid", "state", "runs", "for", "held", "handled", "memory"
LEAST = (  # important, of all columns: a narrow terminal goes without them
    *("replaced", "held", "pid", "memory", "dead", "up", "group", "handled", "letters"),
    *("retries", "seen", "pending", "state", "host", "errors", "target"),
)
KEYS = "q quits, w shows workers, p holds still"
GONE = "?"  # Redis did not say


class Overview(NamedTuple):
    """All pools at one moment.

    now_ms: since the epoch. readings: by (key of the stream, group); None = Redis did not say.
    unseen: why there is no pool, "" = there is one.
    """

    now_ms: int
    pools: list[Heartbeat]
    readings: dict[tuple[str, str], Reading | None]
    unseen: str


@click.command()
@click.argument("stream", required=False, callback=name)
@click.option(
    "--interval", type=click.FloatRange(0.2), default=1.0, help="Seconds between two looks."
)
@click.option("--once", is_flag=True, help="Print it once; so does what is no terminal.")
@prefix_option
@url_option
@json_option
def top(
    stream: str | None, interval: float, once: bool, prefix: str, url: str, as_json: bool
) -> None:
    """Show all pools of all hosts live: of STREAM, or of all streams.

    Keys: q quits, w shows the workers, p holds still. On a terminal it needs the extra top (rich).
    """
    with complaints(), Redis(url, prefix) as redis:
        if as_json:
            say(json_line(_report(_look(redis, stream))))
        elif once or not (sys.stdout.isatty() and sys.stdin.isatty()):
            say(*_lines(_look(redis, stream), where=str(redis.client.endpoint)))
        else:
            _live(redis, stream, interval)


# -- what there is ---------------------------------------------------------------------------------


def _look(redis: Redis, stream: str | None) -> Overview:
    """Ask Redis about the pools of a stream, None = of all streams. Raises Failure."""
    client = redis.client
    wanted = client.key(stream) if stream else None
    pools, now_ms = ask(redis, INDEX, lambda: living(client))
    pools = [pool for pool in pools if wanted in (None, pool.stream)]
    places = {_place(pool): pool for pool in pools}
    readings = {place: _reading(redis, places[place]) for place in sorted(places)}
    why = "" if pools else ask(redis, INDEX, lambda: unseen(client, stream))
    return Overview(now_ms, pools, readings, why)


def _place(pool: Heartbeat) -> tuple[str, str]:
    return pool.stream, pool.group


def _reading(redis: Redis, pool: Heartbeat) -> Reading | None:
    """How far behind the pool's group is; None where Redis does not say, so that others show."""
    client = redis.client
    names = [key.removeprefix(client.key("")) for key in (pool.stream, pool.dlq_stream)]
    try:
        return redis.run(lambda: read(client, names[0], pool.group, names[1] or None))
    except OUTAGES:
        return None


def _report(seen: Overview) -> dict[str, Any]:
    streams = [
        {
            "stream": stream,
            "group": group,
            "reading": reading and asdict(reading),
            "acked_per_s": _rate(seen, stream, group),
        }
        for (stream, group), reading in seen.readings.items()
    ]
    pools = [{**asdict(pool), "seen_ms_ago": seen.now_ms - pool.beat_ms} for pool in seen.pools]
    return {"now_ms": seen.now_ms, "streams": streams, "pools": pools, "unseen": seen.unseen}


def _rate(seen: Overview, stream: str, group: str) -> float:
    return round(sum(p.acked_per_s for p in seen.pools if _place(p) == (stream, group)), 2)


# -- as text ---------------------------------------------------------------------------------------


def _summary(seen: Overview, where: str) -> str:
    lines = [line for pool in seen.pools for line in pool.workers]
    busy = sum(line.state == "busy" for line in lines)
    at = time.strftime("%H:%M:%S", time.localtime(seen.now_ms / 1000))
    masters = {(pool.host, pool.pid) for pool in seen.pools}  # one may have several crews
    pools, workers = counted(len(masters), "pool"), counted(len(lines), "worker")
    why = f"; {seen.unseen}" if seen.unseen else ""
    return f"{pools}, {workers}, {busy} busy at {where}, {at}{why}"


def _tables(seen: Overview, *, workers: bool) -> Iterator[tuple[tuple[str, ...], list[list[str]]]]:
    """Heading and rows of each table."""
    yield STREAMS, [_stream_row(seen, *item) for item in seen.readings.items()]
    yield POOLS, [_pool_row(pool, seen.now_ms) for pool in seen.pools]
    if workers:
        yield WORKERS, [row for pool in seen.pools for row in _worker_rows(pool, seen.now_ms)]


def _stream_row(seen: Overview, place: tuple[str, str], reading: Reading | None) -> list[str]:
    rate = f"{_rate(seen, *place):.1f}"
    if reading is None:
        return [*place, *[GONE] * 5, rate]
    stats, oldest_ms = reading.stats, max(reading.oldest_waiting_ms, reading.oldest_pending_ms)
    oldest = span_text(oldest_ms) if oldest_ms else "-"
    counts = stats.group_pel_size, stats.waiting_retries, stats.dlq_length or 0
    return [*place, str(stats.lag), oldest, *map(str, counts), rate]


def _pool_row(pool: Heartbeat, now_ms: int) -> list[str]:
    busy = sum(line.state == "busy" for line in pool.workers)
    return [
        *(pool.host, str(pool.pid), pool.target, pool.state),
        *(f"{busy}/{len(pool.workers)}", f"{pool.acked_per_s:.1f}"),
        *map(str, (pool.acked, pool.errors, pool.dead, pool.replaced)),
        f"{sum(line.memory_mb for line in pool.workers)} MB",
        span_text(max(now_ms - pool.started_ms, 0)),
        f"{span_text(max(now_ms - pool.beat_ms, 0))} ago",
    ]


def _worker_rows(pool: Heartbeat, now_ms: int) -> Iterator[list[str]]:
    for line in pool.workers:
        runs = span_text(max(now_ms - line.since_ms, 0)) if line.message_id else "-"
        yield [
            *(pool.host, str(line.slot), str(line.pid), line.state, line.message_id or "-", runs),
            *(str(line.held), str(line.acked), f"{line.memory_mb} MB"),
        ]


def _lines(seen: Overview, where: str) -> Iterator[str]:
    yield _summary(seen, where)
    for heading, rows in _tables(seen, workers=True):
        if rows:
            yield from ("", *text_table(heading, rows))


# -- on a terminal ---------------------------------------------------------------------------------


def _live(redis: Redis, stream: str | None, interval_s: float) -> None:
    try:
        screen = importlib.import_module(".screen", __package__)
    except ImportError as error:
        raise Failure(
            _exits.USAGE,
            f"rsq top on a terminal needs the extra top ({error}): pip install "
            "'redis-stream-queue[top]'; or print it once: rsq top --once",
        ) from None
    where, shows_workers, held = str(redis.client.endpoint), False, False
    seen, trouble = _look(redis, stream), ""
    with screen.Screen(LEAST) as shown:
        while True:
            summary = trouble + _summary(seen, where) + (", held still" if held else "")
            shown.show(summary, _tables(seen, workers=shows_workers), KEYS)
            key = shown.key(interval_s)
            if key == "q":
                return
            shows_workers ^= key == "w"
            held ^= key == "p"
            if held:
                continue
            try:
                seen, trouble = _look(redis, stream), ""
            except Failure as failure:  # it may come back; what is shown stays
                trouble = f"OLD: {failure} "
