"""rsq pause, resume, cancel and show: a hand on what waits and runs."""

from __future__ import annotations

import contextlib
import time
from functools import partial
from typing import Any

import click

from .. import _exits
from .._clock import span_text
from .._exits import Failure
from .._plain import json_line
from ..dlq import EARLIER_IDS, DeadLetterQueue
from ..later.ids import due_ms, is_scheduled
from ..later.state import GroupState, MessageState
from ..message import id_before, id_key, is_entry_id
from ..operations.heartbeat import visible
from .common import Redis, ask, dlq_option, group_option, json_option, on_redis, stream_argument
from .output import complain, say
from .times import Span

LETTERS, PAGES = 100, 50  # dead letters of a page, and pages that are searched for a message


def _message_ids(_: click.Context, __: click.Parameter, value: Any) -> Any:
    """One id, or a tuple of them."""
    for message_id in [value] if isinstance(value, str) else value:
        if not is_scheduled(message_id) and not is_entry_id(message_id):
            raise click.BadParameter(
                "expected a message's id, as in 1700000000000-0, or one of a scheduled message, "
                f"as in @1767225660000-000000000042, got {message_id!r}."
            )
    return value


@click.command()
@stream_argument
@group_option
@click.option("--for", "span", type=Span(366), help="Go on by itself after this (10m, 2h).")
@on_redis
def pause(redis: Redis, stream: str, group: str | None, span: float | None) -> None:
    """Start no message of STREAM any more, on all hosts. What runs ends; nothing is lost.

    It stays paused when pools are started again, until `rsq resume`, or for as long as --for says.
    """
    if span == 0:
        raise click.BadParameter("a pause lasts longer than 0.", param_hint="--for")
    ask(redis, stream, lambda: redis.client.pause(stream, group, for_s=span))
    lasts = "until rsq resume" if span is None else f"for {span_text(round(span * 1000))}"
    say(f"paused {lasts}: {_what(redis, stream, group)}")
    with contextlib.suppress(Failure):  # this user may have no right to look at groups
        _warn_of_no_group(redis, stream, group)


def _warn_of_no_group(redis: Redis, stream: str, group: str | None) -> None:
    """Warn if the stream has no such group: the name may be wrong."""
    groups = [one["name"] for one in ask(redis, stream, lambda: redis.client.group_info(stream))]
    if not groups or group not in (None, *groups):
        which = "no group" if group is None else f"no group {group!r}"
        here = ", ".join(groups) or "none"
        complain("rsq", f"{redis.client.key(stream)} has {which} so far. It has: {here}.")


@click.command()
@stream_argument
@group_option
@on_redis
def resume(redis: Redis, stream: str, group: str | None) -> None:
    """Go on with STREAM after `rsq pause` with the same --group."""
    what = _what(redis, stream, group)
    if not ask(redis, stream, lambda: redis.client.resume(stream, group)):
        raise Failure(_exits.FAILURE, f"it was not paused: {what}.")
    say(f"goes on: {what}")


@click.command()
@stream_argument
@click.argument("ids", nargs=-1, required=True, callback=_message_ids)
@on_redis
def cancel(redis: Redis, stream: str, ids: tuple[str, ...]) -> None:
    """Take messages of STREAM back, scheduled, waiting, retrying or running ones.

    Says of each what it was. `gone`: done, dead or unknown, so that nothing was changed.
    """
    gone = 0
    for message_id in ids:
        state = ask(redis, stream, partial(redis.client.cancel, stream, message_id))
        gone += state is None
        say(f"{message_id}  {state or 'gone'}")
    if gone:
        raise Failure(_exits.FAILURE, f"{gone} of {len(ids)} had nothing left to cancel.")


@click.command()
@stream_argument
@click.argument("message_id", callback=_message_ids)
@dlq_option
@on_redis
@json_option
def show(redis: Redis, stream: str, message_id: str, dlq_stream: str | None, as_json: bool) -> None:
    """Show where a message of STREAM is: scheduled, waiting, running, retrying, done or dead."""
    found = ask(redis, stream, lambda: redis.client.find(stream, message_id))
    if found is None or found.state == "done":
        dlq = redis.dlq_of(stream, dlq_stream)
        found = _letter_of(redis, stream, dlq, message_id) or found
    if found is None:
        runs = ask(redis, stream, partial(_call_of, redis, redis.client.key(stream), message_id))
        raise Failure(
            _exits.FAILURE,
            f"no message {message_id} is known: it is done and trimmed, or there was none."
            if not runs
            else f"message {message_id} is done or was cancelled, but its call still runs: {runs}.",
        )
    say(*([json_line(_as_dict(found))] if as_json else _lines(found)))


def _what(redis: Redis, stream: str, group: str | None) -> str:
    return f"{redis.client.key(stream)}, " + ("all groups" if group is None else f"group {group}")


async def _call_of(redis: Redis, key: str, message_id: str) -> str:
    """Where a call of this message runs, though it is no longer pending; "" = nowhere."""
    pools, now_ms = await visible(redis.client)
    for pool in pools:
        for worker in pool.workers:
            if (pool.stream, worker.message_id) == (key, message_id):
                since = span_text(max(now_ms - worker.since_ms, 0))
                seen = span_text(max(now_ms - pool.beat_ms, 0))
                where = f"on {pool.host}, slot {worker.slot}, for {since} (seen {seen} ago)"
                return f"{where}; kill -9 {worker.pid} there ends it"
    return ""


def _letter_of(redis: Redis, stream: str, dlq: str, message_id: str) -> MessageState | None:
    """The state of a message that has become a dead letter, None if no letter of it is found.

    It looks at LETTERS * PAGES letters at most, from the time of the message on.
    """
    queue, key = DeadLetterQueue(redis.client, dlq), redis.client.key(stream)
    of_ms = due_ms(message_id) if is_scheduled(message_id) else id_key(message_id)[0]
    after: str | None = id_before(f"{of_ms}-0")
    for _ in range(PAGES):
        page = ask(redis, dlq, partial(queue.list, LETTERS, after, payloads=False))
        for letter in page:
            headers = letter.headers
            ids = [headers.get(name) for name in ("original_id", *EARLIER_IDS)]
            if message_id in ids and headers.get("original_stream") == key:
                shown = headers.get("original_id", message_id)
                return MessageState(shown, "dead", headers=headers, letter=letter.id)
        if len(page) < LETTERS:
            break
        after = page[-1].id
    return None


def _as_dict(found: MessageState) -> dict[str, Any]:
    made: dict[str, Any] = {"id": found.id, "state": found.state}
    if found.letter:
        return {**made, "letter": found.letter, "why": found.headers}
    made |= {"data": found.data.decode(errors="replace"), "headers": found.headers}
    if found.due is not None:
        made["due"] = found.due.isoformat(timespec="milliseconds")
    return {**made, "groups": [vars(group) for group in found.groups]}


def _lines(found: MessageState) -> list[str]:
    shown = _as_dict(found)
    rows: list[tuple[str, Any]] = [("id", shown["id"]), ("state", shown["state"])]
    if found.due is not None:
        in_ms = round((found.due.timestamp() - time.time()) * 1000)
        rows.append(("due", f"{shown['due']} (in {span_text(max(in_ms, 0))})"))
    rows += [("group", _group_line(group)) for group in found.groups]
    if found.letter:
        rows.append(("letter", f"{found.letter}  (rsq dlq show)"))
        rows += [(field, found.headers.get(field, "")) for field in ("reason", "last_error")]
    else:
        rows.append(("data", shown["data"]))
        rows += [("header", f"{field}: {value}") for field, value in found.headers.items()]
    return [f"{field:11} {str(value).partition(chr(10))[0]}".rstrip() for field, value in rows]


def _group_line(group: GroupState) -> str:
    parts = [group.group, group.state]
    if group.state == "running":
        parts.append(f"by {group.holder}, renewed {span_text(group.idle_ms)} ago")
    if group.retry_in_ms is not None:
        parts.append(f"again in {span_text(group.retry_in_ms)}")
    if group.delivery_count:
        parts.append(f"delivery {group.delivery_count}")
    return "  ".join(parts)
