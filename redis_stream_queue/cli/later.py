"""rsq later: look at scheduled messages, take them back."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from contextlib import aclosing
from datetime import datetime
from typing import Any, TypeVar

import click

from .. import _exits
from .._clock import span_text
from .._exits import Failure
from .._plain import json_line, plain_cut
from ..exceptions import ConfigError
from ..later.ids import due_ms
from ..later.scheduled import (
    ScheduledMessage,
    cancel_scheduled,
    count_scheduled,
    find_scheduled,
    purge_scheduled,
    scheduled,
)
from .common import Redis, ask, counted, json_option, on_redis, stream_argument
from .output import say
from .times import Date

SHOWN_DATA = 60  # characters of a payload in a table
WHAT = "scheduled message"

T = TypeVar("T")


def _scheduled_ids(_: click.Context, __: click.Parameter, value: Any) -> Any:
    """One id, or a tuple of them."""
    for scheduled_id in [value] if isinstance(value, str) else value:
        try:
            due_ms(scheduled_id)
        except ConfigError as error:
            raise click.BadParameter(str(error)) from None
    return value


_before = click.option(
    "--before", type=Date(), help="Only what is due before this date (2027-01-01T09:00+01:00)."
)


@click.group()
def later() -> None:
    """Look at the scheduled messages of a stream, take them back.

    \b
      rsq later list orders
      rsq later show orders @1767225660000-000000000042
      rsq later cancel orders @1767225660000-000000000042
      rsq later purge orders --before 2027-01-01T00:00Z
    """


@later.command("list")
@stream_argument
@_before
@click.option("--limit", type=click.IntRange(min=1), default=50, show_default=True)
@on_redis
@json_option
def list_(redis: Redis, stream: str, before: datetime | None, limit: int, as_json: bool) -> None:
    """List the scheduled messages of STREAM in the order they are due."""
    messages = scheduled(redis.client, stream, before)
    found: list[ScheduledMessage] = ask(redis, stream, lambda: _first(messages, limit))
    if not found and not as_json:
        say(f"nothing is scheduled for {redis.client.key(stream)}", err=True)
    for message in found:
        say(json_line(_as_dict(message)) if as_json else _line(message))
    if len(found) == limit and not as_json:
        total = ask(redis, stream, lambda: count_scheduled(redis.client, stream, before))
        if total > limit:
            say(f"{total} are scheduled; --limit shows more than the first {limit}", err=True)


@later.command()
@stream_argument
@click.argument("scheduled_id", callback=_scheduled_ids)
@on_redis
@json_option
def show(redis: Redis, stream: str, scheduled_id: str, as_json: bool) -> None:
    """Show one scheduled message of STREAM."""
    found = ask(redis, stream, lambda: find_scheduled(redis.client, stream, scheduled_id))
    if found is None:
        raise Failure(_exits.FAILURE, _gone(scheduled_id, stream))
    shown = _as_dict(found)
    if as_json:
        say(json_line(shown))
        return
    headers = shown.pop("headers")
    rows = [*shown.items(), *(("header", f"{key}: {text}") for key, text in headers.items())]
    say(*(f"{field:8} {value}" for field, value in rows))


@later.command()
@stream_argument
@click.argument("ids", nargs=-1, required=True, callback=_scheduled_ids)
@on_redis
def cancel(redis: Redis, stream: str, ids: tuple[str, ...]) -> None:
    """Take scheduled messages of STREAM back. Those that are in the stream already stay there."""
    done = ask(redis, stream, lambda: cancel_scheduled(redis.client, stream, ids))
    say(f"cancelled: {counted(sum(done), WHAT)}")
    if gone := [i for i, was_there in zip(ids, done, strict=True) if not was_there]:
        raise Failure(_exits.FAILURE, _gone(", ".join(gone), stream))


@later.command()
@stream_argument
@_before
@click.option("--all", "every", is_flag=True, help="All scheduled messages.")
@click.option("--dry-run", is_flag=True, help="Only say how many there are.")
@on_redis
def purge(redis: Redis, stream: str, before: datetime | None, every: bool, dry_run: bool) -> None:
    """Delete scheduled messages of STREAM for good: those due --before a date, or --all."""
    if (before is not None) + every != 1:
        raise Failure(_exits.USAGE, "say --before DATE or --all: exactly one of them.")
    client, key = redis.client, redis.client.key(stream)
    work = count_scheduled if dry_run else purge_scheduled
    count = ask(redis, stream, lambda: work(client, stream, before))
    would = "would be purged" if dry_run else "purged"
    say(f"{would}: {counted(count, WHAT)} of {key}")


async def _first(items: AsyncIterator[T], count: int) -> list[T]:
    found: list[T] = []
    async with aclosing(items) as all_of_them:  # type: ignore[type-var]
        async for item in all_of_them:
            found.append(item)
            if len(found) == count:
                break
    return found


def _gone(ids: str, stream: str) -> str:
    return f"not scheduled for {stream!r} (any more): {ids}."


def _as_dict(message: ScheduledMessage) -> dict[str, Any]:
    return {
        "id": message.id,
        "due": message.due.isoformat(timespec="milliseconds"),
        "data": message.data.decode(errors="replace"),
        "headers": message.headers,
    }


def _line(message: ScheduledMessage) -> str:
    in_ms = round((message.due.timestamp() - time.time()) * 1000)
    when = f"in {span_text(in_ms)}" if in_ms > 0 else "now"
    data = plain_cut(message.data.decode(errors="replace"), SHOWN_DATA)
    return f"{message.id}  {when:10}  {data}".rstrip()
