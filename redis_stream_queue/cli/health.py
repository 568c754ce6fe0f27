"""rsq health: is a stream being worked off? An exit code for probes."""

from __future__ import annotations

from typing import Any

import click

from .. import _exits
from .._clock import span_text
from .._plain import json_line
from ..group import ConsumerGroup
from ..operations.heartbeat import refuses
from ..operations.readings import read
from .common import Redis, ask, group_option, json_option, on_redis, stream_argument
from .groups import groups_of
from .output import say


@click.command()
@stream_argument
@group_option
@click.option(
    "--max-lag",
    type=click.IntRange(min=0),
    default=10_000,
    show_default=True,
    help="Undelivered messages that are still fine.",
)
@click.option(
    "--max-age-s",
    type=click.FloatRange(min=0),
    help="Seconds that the oldest undelivered message may have waited.  [default: any]",
)
@click.option(
    "--max-idle-s",
    type=click.FloatRange(min=0),
    default=60.0,
    show_default=True,
    help="Seconds that a consumer which holds messages may be silent.",
)
@on_redis
@json_option
def health(
    redis: Redis,
    stream: str,
    group: str | None,
    max_lag: int,
    max_age_s: float | None,
    max_idle_s: float,
    as_json: bool,
) -> None:
    """Say whether STREAM is being worked off. Exit code 0: yes, 1: no, and why; 4: Redis does not
    say."""

    async def look(each: str) -> dict[str, Any]:
        found = await ConsumerGroup(redis.client, stream, each).health_check(
            max_lag, round(max_idle_s * 1000)
        )
        reading = await read(redis.client, stream, each)
        issues = list(found["issues"])
        if why := await refuses(redis.client, "XACK", stream, each, "no-id"):
            issues.append(f"{redis.client.endpoint} refuses acknowledgements ({why})")
        if max_age_s is not None and reading.oldest_waiting_ms > max_age_s * 1000:
            issues.append(
                f"the oldest undelivered message has waited {span_text(reading.oldest_waiting_ms)} "
                f"(limit {max_age_s:g} s)"
            )
        if not reading.stats.consumers:
            issues.append("no consumer reads")
        return {
            "group": each,
            "healthy": not issues,
            "issues": issues,
            "lag": reading.stats.lag,
            "pending": reading.stats.group_pel_size,
            "oldest_waiting_ms": reading.oldest_waiting_ms,
            "consumers": len(reading.stats.consumers),
        }

    names = groups_of(redis, stream, group)
    reports = [ask(redis, stream, lambda each=each: look(each)) for each in names]  # type: ignore[misc]
    key = redis.client.key(stream)
    healthy = all(report["healthy"] for report in reports) and bool(reports)
    if as_json:
        say(json_line({"stream": key, "healthy": healthy, "groups": reports}))
    elif not reports:
        say(f"{key} has no consumer group: nobody reads it")
    for report in [] if as_json else reports:
        words = "; ".join(report["issues"]) or f"healthy, lag {report['lag']}"
        say(f"{key}, group {report['group']}: {words}")
    if not healthy:
        raise click.exceptions.Exit(_exits.FAILURE)
