"""Heartbeats: what each pool writes down about itself, for ``rsq running`` and ``rsq pending``.

``rsq:pool:<host>:<pid>:<rand4>`` holds one pool and expires by itself; the sorted set ``rsq:pools``
says which there are, scored by the time at which they expire. They are for people: no decision
about a message looks at them, and whoever may write them can only make a table wrong.
"""

from __future__ import annotations

import secrets
from dataclasses import asdict, astuple, dataclass, fields
from typing import Any, TypeVar

import msgpack
from redis.exceptions import ResponseError

from ..client import StreamClient
from ..connection.link import Command
from ..connection.refusals import is_forbidden
from ..connection.replies import name_text
from .readings import server_ms

INDEX = "rsq:pools"
POOL = "rsq:pool:"
VERSION = 1  # of what a key holds; a reader leaves out what it does not know
TTL_S = 15  # a pool that is silent for so long is gone
KEPT_S = 60  # so long it stays in the index
MOST_POOLS = 10_000

_KINDS: dict[str, tuple[type, ...]] = {"int": (int,), "str": (str,), "float": (int, float)}

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class WorkerLine:
    """One worker process. Times are the server's, in ms since the epoch.

    message_id, since_ms: the message that has been running longest, and when it was started; "" and
    0 = none. held: messages in its hands, this one included. task: which one that message calls.
    """

    slot: int
    pid: int
    state: str
    message_id: str
    since_ms: int
    held: int
    acked: int
    memory_mb: int
    task: str = ""


@dataclass(frozen=True, slots=True)
class Heartbeat:
    """One pool. Times are the server's, in ms since the epoch.

    stream, dlq_stream: keys, with their prefix. memory_limit_mb: of a worker, 0 = there is none.
    """

    host: str
    pid: int
    version: str
    target: str
    stream: str
    group: str
    dlq_stream: str
    max_deliveries: int
    min_idle_claim_ms: int
    state: str
    started_ms: int
    beat_ms: int
    acked: int
    errors: int
    dead: int
    replaced: int
    acked_per_s: float
    workers: tuple[WorkerLine, ...]
    memory_limit_mb: float = 0.0


def new_name(host: str, pid: int) -> str:
    """Name of the key of a pool that starts."""
    return f"{POOL}{host}:{pid}:{secrets.token_hex(2)}"


def encode(beat: Heartbeat) -> bytes:
    """What the key holds."""
    known = {**asdict(beat), "v": VERSION, "workers": [astuple(line) for line in beat.workers]}
    return bytes(msgpack.packb(known))


def decode(raw: Any) -> Heartbeat | None:
    """The pool of a key; None for anything else that somebody has written there."""
    try:
        known = msgpack.unpackb(raw)
        if known.pop("v") != VERSION:
            return None
        lines = tuple(_checked(WorkerLine, line_fields(line)) for line in known.pop("workers"))
        return _checked(Heartbeat, {"memory_limit_mb": 0, **known, "workers": lines})
    except Exception:  # msgpack and what is in it may fail in many ways
        return None


def line_fields(line: Any) -> dict[str, Any]:
    """The values of a line by name; what a newer version has appended is left out."""
    return {"task": "", **dict(zip((f.name for f in fields(WorkerLine)), line, strict=False))}


def _checked(made: type[T], values: dict[str, Any]) -> T:
    names = {f.name: str(f.type) for f in fields(made)}  # type: ignore[arg-type]
    for name, kind in names.items():
        if kind in _KINDS and type(values[name]) not in _KINDS[kind]:
            raise TypeError(name)
    return made(**{name: values[name] for name in names})


async def write(client: StreamClient, name: str, beat: Heartbeat, *, tidy: bool) -> None:
    """Write a pool down. tidy: also take out of the index what has long expired.

    The keys need not be in one slot of a cluster, so each command goes by itself.
    """
    await client.command("SET", name, encode(beat), "EX", TTL_S)
    await client.command("ZADD", INDEX, beat.beat_ms + TTL_S * 1000, name)
    if tidy:
        await client.command("ZREMRANGEBYSCORE", INDEX, "-inf", beat.beat_ms - KEPT_S * 1000)


async def erase(client: StreamClient, name: str) -> None:
    """A pool has ended."""
    await client.command("DEL", name)
    await client.command("ZREM", INDEX, name)


async def living(client: StreamClient) -> tuple[list[Heartbeat], int]:
    """The pools that live, by host and pid, and the server's time in ms."""
    now_ms = await server_ms(client, INDEX)
    members = await client.command("ZRANGEBYSCORE", INDEX, now_ms, "+inf", "LIMIT", 0, MOST_POOLS)
    names = [name for name in map(name_text, members) if name.startswith(POOL)]
    beats = [beat for raw in await _values(client, names) if (beat := decode(raw)) is not None]
    fresh = [beat for beat in beats if now_ms - beat.beat_ms < TTL_S * 1000]
    return sorted(fresh, key=lambda beat: (beat.host, beat.pid)), now_ms


async def visible(client: StreamClient) -> tuple[list[Heartbeat], int]:
    """The same; none where this user may not read that."""
    try:
        return await living(client)
    except ResponseError as error:
        if is_forbidden(error):
            return [], 0
        raise


async def _values(client: StreamClient, names: list[str]) -> list[Any]:
    """What the keys hold. Raises what the server says, but for a key that is no text."""
    if not names:
        return []
    link, timeout_s = client.link(), client.endpoint.socket_timeout
    commands: list[Command] = [("GET", client.key(name)) for name in names]
    if client.endpoint.cluster:  # each key has a slot of its own
        replies = [(await link.run(command[1], [command], timeout_s))[0] for command in commands]
    else:
        replies = await link.run(client.key(INDEX), commands, timeout_s)
    for reply in replies:
        if isinstance(reply, Exception) and "WRONGTYPE" not in str(reply):
            raise reply
    return replies
