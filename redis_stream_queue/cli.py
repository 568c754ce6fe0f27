"""rsq: put messages into a stream, see how a stream is doing."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import stat
import sys
from collections.abc import Awaitable, Callable, Iterable, Iterator
from dataclasses import asdict
from json import JSONDecodeError
from typing import IO, Any, NoReturn, TypeVar

import click
from redis.exceptions import (
    AuthenticationError,
    NoPermissionError,
    ResponseError,
)

from ._cli_url import hide_password
from ._connections import OUTAGES
from ._keys import default_dlq, parking_due_ms
from ._version import version
from .client import PUSH_CHUNK, StreamClient
from .exceptions import ConfigError, RedisStreamError
from .group import ConsumerGroup
from .message import StreamStats
from .pool import exits
from .pool.config import DEFAULT_URL, TARGET
from .pool.exits import Failure
from .pool.loading import SERIALIZERS, LoadError, load_serializer
from .serializers import Serializer

READ_BYTES = 1 << 18
ANSWER_S = 5.0
PUSH_S = 60.0  # a chunk may be long and the line slow
INTERRUPTED = 130  # as a shell reports SIGINT
URL_FORM = "Check --url or REDIS_URL (form: redis://user:password@host:port/db)."

T = TypeVar("T")


def _name(_: click.Context, __: click.Parameter, value: str | None) -> str | None:
    """A name that a key or a group can have."""
    if value is not None and (not value or not value.isprintable()):
        raise click.BadParameter(f"expected a name, got {value!r}.")
    return value


def _hide(_: click.Context, __: click.Parameter, url: str) -> str:
    hide_password(url, "redis_stream_queue.cli")
    return url


_stream = click.argument("stream", callback=_name)
_prefix = click.option(
    "--prefix",
    envvar="RSQ_PREFIX",
    default="",
    help="Put before every stream name, with an underscore.",
)
_url = click.option(
    "--url",
    envvar=["RSQ_URL", "REDIS_URL"],
    default=DEFAULT_URL,
    show_default="REDIS_URL or " + DEFAULT_URL,
    is_eager=True,  # before --file opens a pipe, which can be opened only once
    callback=_hide,
    help="redis://, rediss://, unix://, redis+cluster:// or embedded://DIR.",
)
_json = click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")


@click.group()
@click.version_option(version())
def main() -> None:
    """Put messages into streams, and see how the streams are doing.

    Exit codes: 0 done, 1 failure, 2 usage, 3 the serializer could not be loaded, 4 Redis
    unreachable or refusing us.
    """


@contextlib.contextmanager
def _complaints() -> Iterator[None]:
    """Every error that a user can do something about, as one sentence and an exit code."""
    try:
        yield
    except Failure as failure:
        _complain(str(failure), failure.code)
    except ConfigError as error:
        _complain(str(error), exits.USAGE)
    except (RedisStreamError, *OUTAGES) as error:  # embedded:// could not be started, say
        _complain(str(error), exits.REDIS)


def _complain(text: str, code: int) -> NoReturn:
    click.echo(f"rsq: {text}", err=True)
    raise click.exceptions.Exit(code)


class Redis:
    """A client and the event loop it lives in, for code that also waits for files and terminals."""

    def __init__(self, url: str, prefix: str) -> None:
        self.client = StreamClient.from_url(url, prefix=prefix)
        self._runner = asyncio.Runner()

    def run(self, work: Callable[[], Awaitable[T]], timeout_s: float = ANSWER_S) -> T:
        """Run to the end. Raises what the work raises, and TimeoutError."""

        async def limited() -> T:
            try:
                async with asyncio.timeout(timeout_s):
                    return await work()
            except TimeoutError:
                raise TimeoutError(f"no answer within {timeout_s:g} s") from None

        return self._runner.run(limited())

    def explained(self, error: BaseException, key: str = "", after: str = "") -> Failure:
        """What this error of Redis means to a user.

        key: the key it is about. after: said at the end.
        """
        why = " ".join(str(error).split()).rstrip(".")
        where = self.client.endpoint
        code = exits.REDIS
        if isinstance(error, NoPermissionError) or "NOPERM" in why:
            text = f"{where} does not let this user do that ({why})."
        elif isinstance(error, AuthenticationError) or "NOAUTH" in why:
            text = f"{where} refuses the user or password ({why}). {URL_FORM}"
        elif "WRONGTYPE" in why:
            code = exits.USAGE
            text = f"key {key!r} on {where} is not a stream. Choose another name or a prefix."
        elif isinstance(error, ResponseError):
            text = f"{where} refuses: {why}."
        else:
            text = f"cannot reach Redis at {where}: {why}. Is it running? Set --url or REDIS_URL."
        return Failure(code, f"{text} {after}".rstrip())

    def __enter__(self) -> Redis:
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(*OUTAGES):
            self._runner.run(self.client.close())
        self._runner.close()


# -- push ------------------------------------------------------------------------------------------


@main.command()
@_stream
@click.argument("data", nargs=-1)
@click.option("--file", "file", type=click.File("rb"), help="Push every line of FILE (- = stdin).")
@click.option("--text", is_flag=True, help="The data is text as it stands, not JSON.")
@click.option("--group", callback=_name, help="Create this consumer group first if it is missing.")
@click.option(
    "--serializer",
    envvar="RSQ_SERIALIZER",
    default="json",
    show_default=True,
    help="How payloads are written: json, msgpack, pickle or module:object.",
)
@_prefix
@_url
@_json
def push(
    stream: str,
    data: tuple[str, ...],
    file: IO[bytes] | None,
    text: bool,
    group: str | None,
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

    Every DATA is one JSON value, and its id is printed. Without any (or with -) every line of
    standard input is one. A line that is not JSON ends the command: what stands before it is
    pushed, nothing after it.
    """
    source = _source(data, file)
    with _complaints():
        encode = _Encoder(_serializer(serializer), text)
        with Redis(url, prefix) as redis:
            pusher = _Pusher(redis, stream)
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
    """Where lines come from; None = the data are the arguments."""
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
        raise Failure(exits.USAGE, f"serializer must be {known} or module:object, got {name!r}.")
    try:
        return load_serializer(name)
    except LoadError as error:
        raise Failure(exits.LOAD_FAILED, f"cannot load serializer {name!r}: {error}") from None


class _BadData(Exception):
    """One value cannot be pushed; the text says why and follows its number."""


class _Encoder:
    """From what the user wrote to a payload."""

    def __init__(self, serializer: Serializer, is_text: bool) -> None:
        self.is_text = is_text
        self._encode = serializer.encode
        self._decode = json.JSONDecoder(parse_constant=_refuse_constant).decode

    def __call__(self, written: str) -> bytes:
        """Raises _BadData."""
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
            raise Failure(exits.USAGE, text) from None
    return payloads


class _Pusher:
    """Pushes payloads and counts what is in."""

    def __init__(self, redis: Redis, stream: str) -> None:
        self.pushed = 0
        self.ids: list[str] = []
        self.key = redis.client.key(stream)
        self._redis = redis
        self._stream = stream

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
        """Raises Failure, saying how many are in."""
        for start in range(0, len(payloads), PUSH_CHUNK):
            self._push_chunk(payloads[start : start + PUSH_CHUNK])

    def _push_chunk(self, chunk: list[bytes]) -> None:
        try:
            results = self._redis.run(
                lambda: self._redis.client.push_payloads(self._stream, "data", chunk), PUSH_S
            )
        except ResponseError as error:
            raise self._redis.explained(error, self.key, self.so_far()) from None
        except OUTAGES as error:
            raise self._redis.explained(error, self.key, self.so_far(len(chunk))) from None
        except KeyboardInterrupt:
            raise Failure(INTERRUPTED, f"interrupted. {self.so_far(len(chunk))}") from None
        refused = [result for result in results if isinstance(result, Exception)]
        self.ids += [result.decode() for result in results if isinstance(result, bytes)]
        self.pushed += len(results) - len(refused)
        if refused:
            raise self._redis.explained(refused[0], self.key, self.so_far())

    def so_far(self, unknown: int = 0) -> str:
        """How many are in. unknown: how many of the next may be, because no answer came."""
        text = _messages(self.pushed) + (" was" if self.pushed == 1 else " were") + " pushed"
        if unknown:
            text += f", and perhaps some of the next {unknown}"
        return text + "."


def _messages(count: int) -> str:
    return f"{count} message" + ("" if count == 1 else "s")


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
                raise Failure(exits.USAGE, text) from None
            if payload is not None:
                payloads.append(payload)
        pusher.push(payloads)
        pusher.ids.clear()
        advance(sum(map(len, lines)) + len(lines), pusher.pushed)


def _payload(line: bytes, number: int, encode: _Encoder) -> bytes | None:
    """None for an empty line. Raises _BadData."""
    try:
        written = line.decode("utf-8-sig" if number == 1 else "utf-8").removesuffix("\r")
    except UnicodeDecodeError as error:
        raise _BadData(f"is not UTF-8 ({error.reason} at byte {error.start + 1}).") from None
    if not (written if encode.is_text else written.strip()):
        return None
    return encode(written)


def _portions(source: IO[bytes]) -> Iterator[list[bytes]]:
    """Whole lines, as many as there are at the moment, so that a slow pipe is pushed at once."""
    read: Callable[[int], bytes] = getattr(source, "read1", source.read)
    begun: list[bytes] = []
    while True:
        try:
            block = read(READ_BYTES)
        except OSError as error:
            raise Failure(exits.FAILURE, f"cannot read: {error.strerror}.") from None
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
    """A progress bar on a terminal; a mere counter where the length is not known."""
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
        click.echo(json.dumps({**answer, "ids": pusher.ids} if with_ids else answer))
    elif with_ids:
        click.echo("\n".join(pusher.ids))
    else:
        click.echo(f"pushed {_messages(pusher.pushed)} to {pusher.key}")


# -- stats -----------------------------------------------------------------------------------------


@main.command()
@_stream
@click.option("--group", callback=_name, help="Only this consumer group.  [default: all]")
@click.option("--dlq-stream", callback=_name, help="Dead letters.  [default: <stream>_dlq]")
@_prefix
@_url
@_json
def stats(
    stream: str,
    group: str | None,
    dlq_stream: str | None,
    prefix: str,
    url: str,
    as_json: bool,
) -> None:
    """Show how STREAM and its consumer groups are doing.

    \b
      lag                undelivered messages
      pending            delivered and not acknowledged, those that wait for a retry included
      waiting for retry  failed before, to be delivered again
    """
    with _complaints(), Redis(url, prefix) as redis:
        dlq = dlq_stream or default_dlq(stream, prefix, cluster=redis.client.endpoint.cluster)
        groups = _stats(redis, stream, group)
        report = {
            "stream": redis.client.key(stream),
            "length": groups[0].stream_length,
            "dlq_stream": redis.client.key(dlq),
            "dead_letters": _ask(redis, dlq, lambda: redis.client.stream_len(dlq)),
            "groups": [_group_report(found) for found in groups],
        }
    click.echo(json.dumps(report) if as_json else _table(report))


def _ask(redis: Redis, stream: str, question: Callable[[], Awaitable[T]]) -> T:
    try:
        return redis.run(question)
    except OUTAGES as error:
        raise redis.explained(error, redis.client.key(stream)) from None


def _stats(redis: Redis, stream: str, only: str | None) -> list[StreamStats]:
    """Of the groups there are, or of the one that a pool would make."""
    client, key = redis.client, redis.client.key(stream)

    async def ask() -> tuple[int, list[str]]:
        groups = await client.group_info(stream)
        return await client.stream_len(stream), [str(group["name"]) for group in groups]

    length, names = _ask(redis, stream, ask)
    if not length and not names:
        raise Failure(exits.FAILURE, f"there is no stream {key!r} on {client.endpoint}.")
    if only and only not in names:
        have = f"It has {', '.join(names)}." if names else "It has none yet."
        raise Failure(exits.FAILURE, f"stream {key!r} has no group {only!r}. {have}")
    asked = [only] if only else names or [f"{stream}_workers"]

    async def look() -> list[StreamStats]:
        return [await ConsumerGroup(client, stream, name).stats() for name in asked]

    return _ask(redis, stream, look)


def _group_report(found: StreamStats) -> dict[str, Any]:
    parked = {
        consumer.name: consumer.pending
        for consumer in found.consumers
        if parking_due_ms(found.group, consumer.name) is not None
    }
    return {
        "group": found.group,
        "lag": found.lag,
        "pending": found.group_pel_size,
        "waiting_for_retry": sum(parked.values()),
        "last_delivered_id": found.last_delivered_id,
        "consumers": [asdict(c) for c in found.consumers if c.name not in parked],
    }


def _table(report: dict[str, Any]) -> str:
    rows = [
        ("stream", report["stream"]),
        ("length", report["length"]),
        ("dead letters", f"{report['dead_letters']}  in {report['dlq_stream']}"),
    ]
    for group in report["groups"]:
        rows += [
            ("", ""),
            ("group", group["group"]),
            ("lag", group["lag"]),
            ("pending", group["pending"]),
            ("waiting for retry", group["waiting_for_retry"]),
            ("consumers", len(group["consumers"])),
        ]
        width = max((len(c["name"]) for c in group["consumers"]), default=0)
        for consumer in sorted(group["consumers"], key=lambda c: (-c["pending"], c["name"])):
            idle = _duration(consumer["idle_ms"])
            rows.append(
                ("", f"{consumer['name']:{width}}  pending {consumer['pending']}, idle {idle}")
            )
    return "\n".join(f"{name:18} {value}".rstrip() for name, value in rows)


def _duration(ms: int) -> str:
    for size_ms, unit in ((86_400_000, "d"), (3_600_000, "h"), (60_000, "min"), (1000, "s")):
        if ms >= size_ms:
            return f"{ms / size_ms:.1f} {unit}"
    return f"{ms} ms"


if __name__ == "__main__":
    main(prog_name="rsq")
