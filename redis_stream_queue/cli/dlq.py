"""rsq dlq: look at dead letters, send them back, throw them away."""

from __future__ import annotations

import contextlib
import re
import sys
import time
from collections.abc import Awaitable, Callable, Iterator
from functools import partial
from typing import Any

import click

from .. import _exits
from .._exits import Failure
from .._plain import json_line, plain_cut
from ..delivery.dead_letter import LETTER_FIELDS
from ..dlq import DeadLetter, DeadLetterQueue
from ..message import id_key
from .common import (
    INTERRUPTED,
    Redis,
    ask,
    counted,
    dlq_option,
    json_option,
    name,
    on_redis,
    stream_argument,
)
from .output import say
from .tables import shown_by_rich
from .times import Span

LETTER = "dead letter"
PAGE = 100
SHOWN_ERROR = 70  # characters of an error in a table
HEADING = "letter", "reason", "deliveries", "task", "last error"


def _letter_ids(_: click.Context, __: click.Parameter, value: Any) -> Any:
    """One id, or a tuple of them."""
    for entry_id in [value] if isinstance(value, str) else value:
        if not re.fullmatch(r"[0-9]{1,20}-[0-9]{1,20}", entry_id):
            raise click.BadParameter(
                f"expected a letter's id, as in 1700000000000-0, got {entry_id!r}."
            )
    return value


def _filters(command: Callable[..., Any]) -> Callable[..., Any]:
    for option in (
        click.option("--reason", help="Only letters with this reason, such as max_deliveries."),
        click.option("--error", help="Only letters whose last error contains this text."),
        click.option("--task", help="Only letters of calls of this task."),
        click.option("--older-than", type=Span(), help="Only letters older than this (15m, 2h)."),
        click.option("--newer-than", type=Span(), help="Only letters newer than this."),
    ):
        command = option(command)
    return command


@click.group()
def dlq() -> None:
    """Look at the dead letters of a stream, send them back, throw them away.

    \b
      rsq dlq list orders
      rsq dlq show orders 1700000000000-0
      rsq dlq requeue orders --error Timeout --dry-run
      rsq dlq purge orders --older-than 30d
    """


class _Letters:
    """The dead letters of one stream, of which the filters choose some."""

    def __init__(
        self, redis: Redis, stream: str, dlq_stream: str | None, filters: dict[str, Any]
    ) -> None:
        self.stream = redis.dlq_of(stream, dlq_stream)
        self.key = redis.client.key(self.stream)
        self._own_key = redis.client.key(stream)
        self._redis = redis
        self._queue = DeadLetterQueue(redis.client, self.stream)
        self._filters = filters

    def pages(
        self, ids: tuple[str, ...] = (), *, payloads: bool = False
    ) -> Iterator[list[DeadLetter]]:
        """Matching letters, oldest first; those that come after this call are left out.

        ids: only these, whatever the filters say. payloads: read the payloads, too.
        """
        if ids:
            yield [self.one(entry_id, payloads=payloads) for entry_id in ids]
            return
        after, left = None, self._ask(self._queue.count)  # no clock: ids may be of any time
        while left > 0:
            page = self._ask(partial(self._queue.list, PAGE, after, payloads=payloads))
            if not page:
                return
            after = page[-1].id
            yield [letter for letter in page[:left] if self._matches(letter)]
            left -= len(page)

    def one(self, entry_id: str, *, payloads: bool) -> DeadLetter:
        """One letter. Raises Failure if there is none with this id."""
        letter: DeadLetter | None = self._ask(lambda: self._queue.get(entry_id, payloads=payloads))
        if letter is None:
            raise Failure(_exits.FAILURE, f"there is no letter {entry_id!r} in {self.key!r}.")
        return letter

    def requeue(self, ids: list[str], to: str | None) -> int:
        return int(self._ask(lambda: self._queue.requeue(ids, to)))

    def is_own(self, letter: DeadLetter) -> bool:
        """Does the letter say that it came from this stream?"""
        return letter.headers.get("original_stream") == self._own_key

    def purge(self, ids: list[str]) -> int:
        return int(self._ask(lambda: self._queue.purge(ids)))

    def _ask(self, question: Callable[[], Awaitable[Any]]) -> Any:
        return ask(self._redis, self.stream, question)

    def _matches(self, letter: DeadLetter) -> bool:
        wanted, headers = self._filters, letter.headers
        age_s = max(time.time() - id_key(letter.id)[0] / 1000, 0.0)
        return (
            wanted["reason"] in (None, headers.get("reason"))
            and (wanted["error"] or "") in headers.get("last_error", "")
            and wanted["task"] in (None, letter.called)
            and age_s >= (wanted["older_than"] or 0)
            and age_s <= (wanted["newer_than"] or float("inf"))
        )


@dlq.command("list")
@stream_argument
@_filters
@click.option("--limit", type=click.IntRange(min=1), default=50, show_default=True)
@dlq_option
@on_redis
@json_option
def list_(
    redis: Redis,
    stream: str,
    limit: int,
    dlq_stream: str | None,
    as_json: bool,
    **filters: Any,
) -> None:
    """List the dead letters of STREAM, oldest first."""
    found, letters = _Letters(redis, stream, dlq_stream, filters), list[DeadLetter]()
    for page in found.pages(payloads=as_json):
        letters += page
        if len(letters) >= limit:
            break
    if not letters and not as_json:
        say(f"no such letters in {found.key}", err=True)
    if len(letters) >= limit and not as_json:
        say(f"the oldest {limit}; --limit shows more", err=True)
    del letters[limit:]
    if letters and as_json:
        say(*(json_line(_as_dict(letter)) for letter in letters))
    elif letters and not shown_by_rich(HEADING, map(_cells, letters)):
        say(*map(_line, letters))


@dlq.command()
@stream_argument
@click.argument("letter_id", callback=_letter_ids)
@dlq_option
@on_redis
@json_option
def show(redis: Redis, stream: str, letter_id: str, dlq_stream: str | None, as_json: bool) -> None:
    """Show one dead letter of STREAM: where it came from, why it died, its payload."""
    letter = _as_dict(_Letters(redis, stream, dlq_stream, {}).one(letter_id, payloads=True))
    if as_json:
        say(json_line(letter))
        return
    headers = letter.pop("headers")
    rows = [("id", letter.pop("id")), *letter.items()]
    for field, value in [*rows, *(("header", f"{key}: {text}") for key, text in headers.items())]:
        first, *others = str(value).split("\n")
        say(f"{field:17} {first}", *(" " * 18 + line for line in others))


def _changes(command: Callable[..., Any]) -> Callable[..., Any]:
    for option in (
        click.argument("ids", nargs=-1, callback=_letter_ids),
        click.option("--all", "every", is_flag=True, help="All letters."),
        click.option("--dry-run", is_flag=True, help="Only say how many there are."),
    ):
        command = option(command)
    return _filters(command)


@dlq.command()
@stream_argument
@_changes
@click.option(
    "--to", callback=name, help="To this stream.  [default: STREAM, if it came from there]"
)
@dlq_option
@on_redis
def requeue(
    redis: Redis,
    stream: str,
    ids: tuple[str, ...],
    every: bool,
    dry_run: bool,
    to: str | None,
    dlq_stream: str | None,
    **filters: Any,
) -> None:
    """Send dead letters of STREAM back: IDS, those that match the filters, or --all.

    Each one moves in one step: interrupting loses none and doubles none. A letter that did not come
    from STREAM stays, unless --to says where it should go.
    """
    letters = _Letters(redis, stream, dlq_stream, filters)
    chosen = _chosen(letters, ids, every, filters)
    own = [letter for letter in chosen if to or letters.is_own(letter)]
    _change(letters, own, dry_run, "requeued", lambda i: letters.requeue(i, to))
    if others := [letter for letter in chosen if not to and not letters.is_own(letter)]:
        raise Failure(_exits.FAILURE, _left(others, stream))


@dlq.command()
@stream_argument
@_changes
@dlq_option
@on_redis
def purge(
    redis: Redis,
    stream: str,
    ids: tuple[str, ...],
    every: bool,
    dry_run: bool,
    dlq_stream: str | None,
    **filters: Any,
) -> None:
    """Delete dead letters of STREAM for good: IDS, those that match the filters, or --all."""
    letters = _Letters(redis, stream, dlq_stream, filters)
    chosen = _chosen(letters, ids, every, filters)
    _change(letters, chosen, dry_run, "purged", letters.purge)


def _left(others: list[DeadLetter], stream: str) -> str:
    """A text that says which letters were not sent back, and how they could be."""
    names = sorted({letter.headers.get("original_stream", "(none)") for letter in others})
    return (
        f"{counted(len(others), LETTER)} did not come from {stream!r} but from "
        f"{plain_cut(', '.join(names), SHOWN_ERROR)} and stayed. To send them anywhere, "
        "say where with --to STREAM."
    )


def _chosen(
    letters: _Letters, ids: tuple[str, ...], every: bool, filters: dict[str, Any]
) -> list[DeadLetter]:
    """The letters that the command names. Raises Failure unless it names ids, filters or --all."""
    filtered = any(value is not None for value in filters.values())
    if bool(ids) + filtered + every != 1:
        raise Failure(_exits.USAGE, "name letter ids, or a filter, or --all: exactly one of them.")
    return [letter for page in letters.pages(ids) for letter in page]


def _change(
    letters: _Letters,
    letters_chosen: list[DeadLetter],
    dry_run: bool,
    done: str,
    carry_out: Callable[[list[str]], int],
) -> None:
    chosen = [letter.id for letter in letters_chosen]
    if dry_run:
        say(f"{counted(len(chosen), LETTER)} in {letters.key} would be {done}")
        return
    count = 0
    try:
        with _progress(chosen) as advance:
            for start in range(0, len(chosen), PAGE):
                part = chosen[start : start + PAGE]
                count += carry_out(part)
                advance(len(part))
    except KeyboardInterrupt:
        raise Failure(
            INTERRUPTED, f"interrupted; {done} so far: {counted(count, LETTER)}."
        ) from None
    say(f"{done}: {counted(count, LETTER)} in {letters.key}")


@contextlib.contextmanager
def _progress(chosen: list[str]) -> Iterator[Callable[[int], None]]:
    """A progress bar on a terminal if there is more than one page of letters."""
    if len(chosen) <= PAGE or not sys.stderr.isatty():
        yield lambda _: None
        return
    with click.progressbar(length=len(chosen), file=sys.stderr) as bar:
        yield bar.update


def _as_dict(letter: DeadLetter) -> dict[str, Any]:
    """A letter as a dict. Fields of the message with names of ours cannot replace ours."""
    ours = {name: letter.headers[name] for name in LETTER_FIELDS if name in letter.headers}
    data = None if letter.unread else letter.data.decode(errors="replace")
    why = {"unread": letter.unread} if letter.unread else {}
    return {"headers": letter.own_headers, "data": data, **why, **ours, "id": letter.id}


def _cells(letter: DeadLetter) -> list[str]:
    headers = letter.headers
    error = headers.get("last_error", "").partition("\n")[0][:SHOWN_ERROR]
    reason, count = headers.get("reason", "?"), headers.get("delivery_count", "?")
    return [letter.id, reason, count, letter.called[:SHOWN_ERROR], error]


def _line(letter: DeadLetter) -> str:
    entry_id, reason, count, *others = _cells(letter)
    return "  ".join(filter(None, [entry_id, reason, f"deliveries {count}", *others]))
