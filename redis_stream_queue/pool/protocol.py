"""Messages between master, template and workers: small tuples, msgpack on the wire.

Ids travel, payloads never do. A message that is not known is ignored by whoever reads it. After an
upgrade an old master may speak to new workers: a new field comes last and has a default.
"""

from __future__ import annotations

import functools
from dataclasses import asdict
from types import UnionType
from typing import Any, NamedTuple, Union, get_args, get_origin, get_type_hints

import msgpack

from ..config import ConsumerConfig

MAX_ERROR = 2000  # characters of an error text

# -- worker -> master ----------------------------------------------------------------------------


class Loaded(NamedTuple):
    """The app is imported; this is what its handler declares (see handlers.stream_handler)."""

    pid: int
    stream: str  # "" = it does not say
    settings: dict[str, Any]
    dlq_handler: bool
    one_at_a_time: bool  # a plain @per_message handler: the row names the message that runs
    memory_mb: int = 0  # what the app takes by itself; 0 = not known
    tasks: list[str] = []  # noqa: RUF012 - by the numbers in rows, from 1 on
    most_deliveries: int = 0  # of the task that has the most of its own
    limited: bool = False  # has a task a time limit of its own?
    workers: int | None = None  # how many are to run it


class LoadFailed(NamedTuple):
    """The app (or the serializer) could not be imported; the error's own last lines."""

    what: str
    error: str


class Ready(NamedTuple):
    """Reads messages from now on."""


class Retrying(NamedTuple):
    """A message failed and is parked; due in so many ms."""

    id: str
    error: str
    due_in_ms: int


class Failed(NamedTuple):
    """The handler has raised: [name of the error's type, its text, id of one message, how often]
    of each type."""

    errors: list[list[Any]]


class Buried(NamedTuple):
    """A message was moved to the dead letters."""

    reason: str


class Released(NamedTuple):
    """Messages were given back unstarted: somebody else could have them now."""


class AskForWork(NamedTuple):
    """Finished a batch while offers wait: asks for some before it reads new messages.

    taken: how many offers (Take) have reached it so far. beside: for so many there is room beside
    others that run, so they must not have to be alone; 0 = nothing runs.
    """

    taken: int
    beside: int = 0


class Declined(NamedTuple):
    """An offer came while a handler was running."""

    ids: list[str]


class GroupLost(NamedTuple):
    """The stream or the group is gone."""


class Retire(NamedTuple):
    """This life has nearly used up what it may handle: start a successor, then drain me."""

    why: str


class Leaving(NamedTuple):
    """Handles nothing more and has left Redis; ends as an interpreter does, threads first.

    threads: names of those that it waits for.
    """

    threads: list[str]


class Fatal(NamedTuple):
    """This worker cannot go on, and neither could another one."""

    error: str


class Periodic(NamedTuple):
    """What its handler wants to be pushed when; each a later.periodic.Schedule."""

    schedules: list[list[Any]]


class MorePeriodic(NamedTuple):
    """What does not fit into one Periodic, which comes after it with the last of them."""

    schedules: list[list[Any]]


# -- master -> worker ----------------------------------------------------------------------------


class Start(NamedTuple):
    """All settings; ``consumer`` has the name of this life. batch_size: None = adaptive.

    most_messages: so many may be handled; None = any number.
    """

    url: str
    prefix: str
    stream: str
    consumer: ConsumerConfig
    batch_size: int | None
    soft_time_limit_s: float | None
    most_messages: int | None
    time_limit_s: float | None = None


class Take(NamedTuple):
    """Offers to claim and handle: [id, owner, seen count, least idle ms, new count] each.

    They are handled as one batch. bury: reason to bury them for instead, with ``error``. alone:
    nothing else is handled beside them.
    """

    offers: list[list[Any]]
    bury: str | None = None
    error: str = ""
    alone: bool = True  # last, as a master from before an upgrade does not send it


class NoWork(NamedTuple):
    """The answer to AskForWork when no offer is left."""


class Pause(NamedTuple):
    """End what runs, give back the rest, start nothing until Resume."""


class Resume(NamedTuple):
    """Go on."""


class Cancel(NamedTuple):
    """This message was taken back: do not start it, or interrupt it."""

    id: str


class Drain(NamedTuple):
    """Finish what runs, give back the rest, leave."""


# -- master <-> template -------------------------------------------------------------------------


class WorkerSpec(NamedTuple):
    """What a worker process does before it is told its settings.

    row: of the scoreboard. directory: that the pool was started in. preload: the template has
    imported the target.
    """

    target: str
    serializer: str | None
    log_level: str
    log_format: str
    graceful_timeout_s: float
    row: int = 0
    directory: str = ""
    preload: bool = False


class Fork(NamedTuple):
    """Make a worker; its end of the pipe comes along as a file descriptor."""

    slot: int
    life: int
    spec: WorkerSpec


class Forked(NamedTuple):
    slot: int
    life: int
    pid: int


class ForkFailed(NamedTuple):
    """There is no such worker, and why."""

    slot: int
    life: int
    error: str


class Exited(NamedTuple):
    """A worker has ended; status as of waitpid."""

    pid: int
    status: int
    cpu_ms: int = 0  # processor time that it has used, with what it waited for


Message = (
    Loaded
    | LoadFailed
    | Ready
    | Retrying
    | Released
    | AskForWork
    | Declined
    | GroupLost
    | Retire
    | Fatal
    | Start
    | Take
    | NoWork
    | Drain
    | Fork
    | Forked
    | Exited
    | Leaving
    | ForkFailed
    | Pause
    | Resume
    | Cancel
    | Periodic
    | Failed
    | Buried
    | MorePeriodic
)

_TYPES: list[type[Message]] = list(Message.__args__)
_TAGS = {kind: tag for tag, kind in enumerate(_TYPES)}


@functools.cache
def _field_types(kind: Any) -> list[Any]:
    return list(get_type_hints(kind).values())


def _made(value: Any, hint: Any) -> Any:
    """A record within a message, out of what it was packed as."""
    if hint is ConsumerConfig:
        return ConsumerConfig(**value)
    if hint is WorkerSpec:
        made = WorkerSpec(*value)
        return made if all(map(_fits, made, _field_types(WorkerSpec))) else None
    return value


def _fits(value: Any, hint: Any) -> bool:
    """Is it of this type, and what is in it, too?"""
    kind, parts = get_origin(hint), get_args(hint)
    if kind in (Union, UnionType):
        return any(_fits(value, part) for part in parts)
    if hint is Any or kind is None:
        return hint is Any or isinstance(value, int | float if hint is float else hint)
    if not isinstance(value, kind):
        return False
    if kind is list:
        return all(_fits(one, parts[0]) for one in value)
    return all(_fits(k, parts[0]) and _fits(v, parts[1]) for k, v in value.items())


def encode(message: Message) -> bytes:
    """A message as bytes."""
    packed: bytes = msgpack.packb(
        [_TAGS[type(message)], *message], unicode_errors="surrogateescape", default=asdict
    )
    return packed


def decode(raw: bytes) -> Message | None:
    """The message, or None for what is not one."""
    try:
        tag, *values = msgpack.unpackb(raw, unicode_errors="surrogateescape")
        if type(tag) is not int:
            return None
        kind: Any = _TYPES[tag]
        hints = _field_types(kind)
        made = [_made(value, hint) for value, hint in zip(values, hints, strict=False)]
        message: Message = kind(*made, *values[len(hints) :])
        if not all(map(_fits, message, hints)):
            return None
    except Exception:  # whatever came, it was no message of ours
        return None
    return message
