"""rsq consumers: remove names of consumers that are gone."""

from __future__ import annotations

import click

from .._plain import json_line
from ..group import GHOST_IDLE_MS, ConsumerGroup
from .common import Redis, ask, counted, group_option, json_option, on_redis, stream_argument
from .groups import groups_of
from .output import say


@click.group()
def consumers() -> None:
    """Look after the names of consumers in a group."""


@consumers.command()
@stream_argument
@group_option
@click.option(
    "--idle-s",
    type=click.FloatRange(min=0),
    default=GHOST_IDLE_MS / 1000,
    show_default=True,
    help="Seconds of silence after which a consumer counts as gone.",
)
@on_redis
@json_option
def prune(redis: Redis, stream: str, group: str | None, idle_s: float, as_json: bool) -> None:
    """Remove consumers of STREAM that hold nothing and have been silent.

    One that holds messages stays: they are taken over from it, not lost. A pool does this by
    itself, once a minute.
    """

    async def remove() -> list[tuple[str, str]]:
        return [
            (each, gone)
            for each in names
            for gone in await ConsumerGroup(redis.client, stream, each).prune_consumers(
                round(idle_s * 1000)
            )
        ]

    names = groups_of(redis, stream, group)
    removed = ask(redis, stream, remove)
    if as_json:
        say(json_line({"removed": [{"group": g, "consumer": c} for g, c in removed]}))
        return
    for each, gone in removed:
        say(f"{each}  {gone}")
    say(f"removed: {counted(len(removed), 'consumer')} of {redis.client.key(stream)}")
