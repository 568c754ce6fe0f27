"""Heartbeats: what each pool writes into Redis about itself, for people and their commands.

The key ``rsq:pool:<host>:<pid>:<rand4>`` describes one pool and expires by itself. The sorted set
``rsq:pools`` lists these keys, with the times at which they expire as scores. Only people read
them: no decision about a message does, so a forged one can do no more than make a table wrong.
"""

from __future__ import annotations

import secrets
from dataclasses import asdict, astuple, dataclass, fields
from typing import Any, TypeVar

import msgpack
from redis.exceptions import ResponseError

from ..client import StreamClient
from ..connection.packing import Command
from ..connection.refusals import is_forbidden, passes, words_of
from ..connection.replies import name_text
from .readings import server_ms

INDEX = "rsq:pools"
POOL = "rsq:pool:"
VERSION = 1  # of the format; a reader leaves out pools of another version
TTL_S = 15  # a pool that has not written for this time is gone
KEPT_S = 60  # how long an expired pool stays in the index
MOST_POOLS = 10_000  # that living() reads

_KINDS: dict[str, tuple[type, ...]] = {"int": (int,), "str": (str,), "float": (int, float)}

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class WorkerLine:
    """One worker process. Times are the server's, in ms since the epoch.

    message_id, since_ms: the message that has been running longest, and when it was started; "" and
    0 = none. held: how many messages it holds, this one included. acked: how many it has
    acknowledged. task: name of the task that the message calls, "" = none.
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
    """A new name for the key of a pool, without the prefix."""
    return f"{POOL}{host}:{pid}:{secrets.token_hex(2)}"


def encode(beat: Heartbeat) -> bytes:
    """A heartbeat as bytes, as decode() reads it."""
    known = {**asdict(beat), "v": VERSION, "workers": [astuple(line) for line in beat.workers]}
    return bytes(msgpack.packb(known))


def decode(raw: Any) -> Heartbeat | None:
    """The heartbeat in a key; None for bytes that are none, or of another version."""
    try:
        known = msgpack.unpackb(raw)
        if known.pop("v") != VERSION:
            return None
        lines = tuple(_checked(WorkerLine, line_fields(line)) for line in known.pop("workers"))
        return _checked(Heartbeat, {"memory_limit_mb": 0, **known, "workers": lines})
    except Exception:  # msgpack and a wrong content raise errors of many types
        return None


def line_fields(line: Any) -> dict[str, Any]:
    """The values of a WorkerLine by name, without those that a newer version has appended."""
    return {"task": "", **dict(zip((f.name for f in fields(WorkerLine)), line, strict=False))}


def _checked(made: type[T], values: dict[str, Any]) -> T:
    names = {f.name: str(f.type) for f in fields(made)}  # type: ignore[arg-type]
    for name, kind in names.items():
        if kind in _KINDS and type(values[name]) not in _KINDS[kind]:
            raise TypeError(name)
    return made(**{name: values[name] for name in names})


async def write(client: StreamClient, name: str, beat: Heartbeat, *, tidy: bool) -> None:
    """Write the heartbeat of a pool. tidy: also remove what has long expired from the index.

    The keys need not be in one slot of a cluster, so each command goes by itself.
    """
    await client.command("SET", name, encode(beat), "EX", TTL_S)
    await client.command("ZADD", INDEX, beat.beat_ms + TTL_S * 1000, name)
    if tidy:
        await client.command("ZREMRANGEBYSCORE", INDEX, "-inf", beat.beat_ms - KEPT_S * 1000)


async def erase(client: StreamClient, name: str) -> None:
    """Remove the heartbeat of a pool that has ended."""
    await client.command("DEL", name)
    await client.command("ZREM", INDEX, name)


async def living(client: StreamClient) -> tuple[list[Heartbeat], int]:
    """The pools that run now, in the order of host, pid and target, and the server's time in ms.

    Raises what Redis raises.
    """
    now_ms = await server_ms(client, INDEX)
    members = await client.command("ZRANGEBYSCORE", INDEX, now_ms, "+inf", "LIMIT", 0, MOST_POOLS)
    names = [name for name in map(name_text, members) if name.startswith(POOL)]
    beats = [beat for raw in await _values(client, names) if (beat := decode(raw)) is not None]
    fresh = [beat for beat in beats if now_ms - beat.beat_ms < TTL_S * 1000]
    return sorted(fresh, key=lambda beat: (beat.host, beat.pid, beat.target)), now_ms


async def visible(client: StreamClient) -> tuple[list[Heartbeat], int]:
    """As living(), but ([], 0) where this user has no right to read heartbeats."""
    try:
        return await living(client)
    except ResponseError as error:
        if is_forbidden(error):
            return [], 0
        raise


async def unseen(client: StreamClient, stream: str | None) -> str:
    """Why living() has no pool, or none of this stream, in words. Raises what Redis raises."""
    none = f"no pool of {client.key(stream)!r} is seen" if stream else "no pool is seen"
    try:
        await living(client)
    except ResponseError as error:
        if not is_forbidden(error):
            raise
        return f"{none}: this user may not read what pools write ({words_of(error)})"
    if why := await refuses(client, "ZADD", INDEX, "XX", 0, ""):
        return f"{none}: {client.endpoint} refuses what pools write about themselves ({why})"
    if stream and (active := await _active(client, stream)):
        return (
            f"{none}, but {active} of its consumers have done something within {TTL_S} s: they are "
            f"no pools, have --no-heartbeat, or may not write {client.key(INDEX)[:-1]}*"
        )
    return (
        f"{none}: none runs, or it has another database or --prefix, or --no-heartbeat, or may not "
        f"write {client.key(INDEX)[:-1]}*"
    )


async def refuses(client: StreamClient, name: str, stream: str, *args: object) -> str:
    """Why the server takes no such command now (it is full, a replica, cannot save); "" = it does.

    The command must change nothing. That this user alone may not give it is no answer.
    """
    try:
        await client.command(name, stream, *args)
    except ResponseError as error:
        return words_of(error) if passes(error) else ""
    return ""


async def _active(client: StreamClient, stream: str) -> int:
    """How many consumers of the stream have done something of late; 0 where this is not told."""
    try:
        groups = [str(info["name"]) for info in await client.group_info(stream)]
        lines = [line for group in groups for line in await client.consumer_info(stream, group)]
    except ResponseError:
        return 0
    return sum(int(line["idle"]) < TTL_S * 1000 for line in lines)


async def _values(client: StreamClient, names: list[str]) -> list[Any]:
    """The values of these keys. Raises what Redis raises, but not for a key of another type."""
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
