"""rsq push: put messages into a stream, from arguments, a file or a pipe."""

from __future__ import annotations

import contextlib
import json
import os
import stat
import sys
from collections.abc import Callable, Iterable, Iterator
from datetime import datetime
from json import JSONDecodeError
from typing import IO, Any

import click
from redis.exceptions import NoPermissionError, ResponseError

from .. import _exits
from .._exits import Failure
from .._loading import SERIALIZERS, TARGET, LoadError, load_serializer
from .._plain import json_line
from ..connection.exchange import OUTAGES
from ..connection.replies import text
from ..later.extras import Asked, Terms, terms_of
from ..later.keys import companions
from ..later.push import push_asked
from ..pushing.portions import PUSH_CHUNK, Pushes
from ..serializers import Serializer, for_stream
from .common import (
    INTERRUPTED,
    Redis,
    complaints,
    counted,
    json_option,
    name,
    prefix_option,
    stream_argument,
    url_option,
)
from .output import say
from .times import Date, Span

READ_BYTES = 1 << 18


@click.command()
@stream_argument
@click.argument("data", nargs=-1)
@click.option("--file", "file", type=click.File("rb"), help="Push every line of FILE (- = stdin).")
@click.option("--text", is_flag=True, help="The data is text as it stands, not JSON.")
@click.option("--group", callback=name, help="Create this consumer group first if it is missing.")
@click.option("--delay", type=Span(366), help="Not now, but so much later (90s, 15m, 2h).")
@click.option("--at", type=Date(), help="Not now, but then (2027-01-01T09:00+01:00).")
@click.option(
    "--serializer",
    envvar="RSQ_SERIALIZER",
    default="json",
    show_default=True,
    help="How payloads are written: json, msgpack, pickle or module:object.",
)
@prefix_option
@url_option
@json_option
def push(
    stream: str,
    data: tuple[str, ...],
    file: IO[bytes] | None,
    text: bool,
    group: str | None,
    delay: float | None,
    at: datetime | None,
    serializer: str,
    prefix: str,
    url: str,
    as_json: bool,
) -> None:
    """Push messages into STREAM.

    \b
      rsq push orders '{"order_id": 1}' '{"order_id": 2}'
      rsq push orders --text hello
      rsq push orders --file orders.jsonl
      produce | rsq push orders
      rsq push orders --delay 15m '{"order_id": 3}'

    Every DATA is one JSON value, and its id is printed. Without any (or with -) every line of
    standard input is one. A line that is not JSON ends the command: what stands before it is
    pushed, nothing after it.
    """
    source = _source(data, file)
    with complaints():
        delay_ms = None if delay is None else delay * 1000
        terms = terms_of({"delay_ms": delay_ms, "at": at}, group)
        loaded = _serializer(serializer)
        with Redis(url, prefix) as redis:
            encode = _Encoder(for_stream(loaded, redis.client.key(stream)), text)
            pusher = _Pusher(redis, stream, terms)
            if source is None:
                payloads = _encoded_arguments(data, encode)
                pusher.prepare(group)
                pusher.push(payloads)
            else:
                pusher.prepare(group)
                try:
                    with _progress(source) as advance:
                        _push_lines(source, encode, pusher, advance)
                except KeyboardInterrupt:
                    raise Failure(INTERRUPTED, f"interrupted. {pusher.so_far()}") from None
    _report(pusher, as_json=as_json, with_ids=source is None)


def _source(data: tuple[str, ...], file: IO[bytes] | None) -> IO[bytes] | None:
    """The file to read lines from; None = the data are the arguments. Raises click.UsageError."""
    if data and (file is not None or ("-" in data and len(data) > 1)):
        raise click.UsageError("expected DATA or --file or - (standard input), got more than one.")
    if file is not None:
        return file
    if data and data != ("-",):
        return None
    if sys.stdin is None or (not data and sys.stdin.isatty()):
        raise click.UsageError(
            "nothing to push. Pass JSON values, or --file FILE.jsonl, or pipe lines in."
        )
    return sys.stdin.buffer


def _serializer(name: str) -> Serializer:
    if name not in SERIALIZERS and not TARGET.match(name):
        known = ", ".join(SERIALIZERS)
        raise Failure(_exits.USAGE, f"serializer must be {known} or module:object, got {name!r}.")
    try:
        return load_serializer(name)
    except LoadError as error:
        raise Failure(_exits.LOAD_FAILED, f"cannot load serializer {name!r}: {error}") from None


class _BadData(Exception):
    """One value cannot be pushed; the text says why, and is printed after the value's number."""


class _Encoder:
    """Makes a payload of a value as the user wrote it: JSON, or text as it is."""

    def __init__(self, serializer: Serializer, is_text: bool) -> None:
        self.is_text = is_text
        self._encode = serializer.encode
        self._decode = json.JSONDecoder(parse_constant=_refuse_constant).decode

    def __call__(self, written: str) -> bytes:
        """The payload of one value. Raises _BadData."""
        try:
            value = written if self.is_text else self._decode(written)
        except (ValueError, RecursionError) as error:
            why = f"{error.msg} at {error.pos + 1}" if isinstance(error, JSONDecodeError) else error
            shown = repr(written if len(written) <= 50 else written[:47] + "...")
            raise _BadData(f"is not JSON ({why}): {shown}. Plain text needs --text.") from None
        try:
            payload = self._encode(value)
        except Exception as error:  # a serializer may be the user's own
            raise _BadData(f"cannot be serialized: {error or type(error).__name__}.") from None
        if not isinstance(payload, bytes):
            kind = type(payload).__name__
            raise _BadData(f"cannot be serialized: encode() returned {kind}, not bytes.")
        return payload


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"JSON has no {name}")


def _encoded_arguments(data: Iterable[str], encode: _Encoder) -> list[bytes]:
    payloads = []
    for number, written in enumerate(data, 1):
        try:
            payloads.append(encode(written))
        except _BadData as bad:
            text = f"argument {number} {bad} Nothing was pushed."
            raise Failure(_exits.USAGE, text) from None
    return payloads


class _Pusher:
    """Pushes payloads, and counts those that Redis has taken."""

    def __init__(self, redis: Redis, stream: str, terms: Terms | None) -> None:
        self.pushed = 0
        self.ids: list[str] = []
        self.key = redis.client.key(stream)
        self._redis = redis
        self._stream = stream
        self._terms = terms

    def prepare(self, group: str | None) -> None:
        """Reach Redis and create the group. Raises Failure; nothing is pushed then."""
        client = self._redis.client

        async def prepare() -> None:
            with contextlib.suppress(NoPermissionError):  # a user may be allowed XADD alone
                await client.link().call("", "PING")
            if group is not None:
                await client.create_group(self._stream, group)

        try:
            self._redis.run(prepare)
        except OUTAGES as error:
            raise self._redis.explained(error, self.key, "Nothing was pushed.") from None

    def push(self, payloads: list[bytes]) -> None:
        """Push payloads in chunks. Raises Failure, whose text says how many were pushed."""
        for start in range(0, len(payloads), PUSH_CHUNK):
            self._push_chunk(payloads[start : start + PUSH_CHUNK])

    def _push_chunk(self, chunk: list[bytes]) -> None:
        try:
            results = self._redis.run(lambda: self._send(chunk))
        except ResponseError as error:
            raise self._redis.explained(error, self.key, self.so_far()) from None
        except OUTAGES as error:
            raise self._redis.explained(error, self.key, self.so_far(len(chunk))) from None
        except KeyboardInterrupt:
            raise Failure(INTERRUPTED, f"interrupted. {self.so_far(len(chunk))}") from None
        refused = [result for result in results if isinstance(result, Exception)]
        self.ids += [text(result) for result in results if not isinstance(result, Exception)]
        self.pushed += len(results) - len(refused)
        if refused:
            unknown = sum(not isinstance(error, ResponseError) for error in refused)
            raise self._redis.explained(refused[0], self.key, self.so_far(unknown))

    async def _send(self, chunk: list[bytes]) -> list[Any]:
        client, terms = self._redis.client, self._terms
        if terms is None:
            return await client.push_all(self._stream, Pushes(chunk))
        asked = [Asked(payload, (), terms) for payload in chunk]
        return await push_asked(client.link(), asked, companions(self.key), 0, None)

    def so_far(self, unknown: int = 0) -> str:
        """A sentence that says how many were pushed.

        unknown: how many more may have been pushed, as their answer did not come.
        """
        text = (
            counted(self.pushed, "message") + (" was" if self.pushed == 1 else " were") + " pushed"
        )
        if unknown:
            text += f", and perhaps some of the next {unknown}"
        return text + "."


def _push_lines(
    source: IO[bytes], encode: _Encoder, pusher: _Pusher, advance: Callable[[int, int], None]
) -> None:
    """Push lines as they come in; empty ones are left out. Raises Failure."""
    number = 0
    for lines in _portions(source):
        payloads: list[bytes] = []
        for line in lines:
            number += 1
            try:
                payload = _payload(line, number, encode)
            except _BadData as bad:
                pusher.push(payloads)
                text = f"line {number} {bad} {pusher.so_far()[:-1]}, nothing from there on."
                raise Failure(_exits.USAGE, text) from None
            if payload is not None:
                payloads.append(payload)
        pusher.push(payloads)
        pusher.ids.clear()
        advance(sum(map(len, lines)) + len(lines), pusher.pushed)


def _payload(line: bytes, number: int, encode: _Encoder) -> bytes | None:
    """The payload of a line, None for an empty line. Raises _BadData."""
    try:
        written = line.decode("utf-8-sig" if number == 1 else "utf-8").removesuffix("\r")
    except UnicodeDecodeError as error:
        raise _BadData(f"is not UTF-8 ({error.reason} at byte {error.start + 1}).") from None
    if not (written if encode.is_text else written.strip()):
        return None
    return encode(written)


def _portions(source: IO[bytes]) -> Iterator[list[bytes]]:
    """Whole lines: as many as can be read now, so that lines of a slow pipe are pushed at once."""
    read: Callable[[int], bytes] = getattr(source, "read1", source.read)
    begun: list[bytes] = []
    while True:
        try:
            block = read(READ_BYTES)
        except OSError as error:
            raise Failure(_exits.FAILURE, f"cannot read: {error.strerror}.") from None
        if not block:
            break
        head, newline, tail = block.rpartition(b"\n")
        if newline:
            yield b"".join([*begun, head]).split(b"\n")
            begun = [tail] if tail else []
        else:
            begun.append(block)
    if begun:
        yield [b"".join(begun)]


@contextlib.contextmanager
def _progress(source: IO[bytes]) -> Iterator[Callable[[int, int], None]]:
    """A progress bar on a terminal, or a counter if the length of the source is not known."""
    if not sys.stderr.isatty():
        yield lambda read, pushed: None
        return
    status = os.fstat(source.fileno())
    if stat.S_ISREG(status.st_mode):
        with click.progressbar(length=status.st_size, label="pushing", file=sys.stderr) as bar:
            yield lambda read, pushed: bar.update(read)
        return
    yield lambda read, pushed: click.echo(f"\rpushing  {pushed}", nl=False, err=True)
    click.echo(err=True)


def _report(pusher: _Pusher, *, as_json: bool, with_ids: bool) -> None:
    if as_json:
        answer: dict[str, Any] = {"stream": pusher.key, "pushed": pusher.pushed}
        say(json_line({**answer, "ids": pusher.ids} if with_ids else answer))
    elif with_ids:
        say(*pusher.ids)
    else:
        say(f"pushed {counted(pusher.pushed, 'message')} to {pusher.key}")
