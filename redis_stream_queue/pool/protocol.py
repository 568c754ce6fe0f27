"""Messages between master, template and workers: small tuples, msgpack on the wire.

Ids travel, payloads never do. A reader ignores a message that it does not know. After an upgrade an
old master may speak to new workers: so a new field comes last and has a default.
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
    tasks: list[str] = []  # noqa: RUF012 - names; the first one has number 1 in the scoreboard
    most_deliveries: int = 0  # the largest max_deliveries that a task sets for itself
    limited: bool = False  # does a task set a time limit for itself?
    workers: int | None = None  # how many workers the app wants, None = it does not say


class LoadFailed(NamedTuple):
    """The app or the serializer (``what``) could not be imported; error: its last lines."""

    what: str
    error: str


class Ready(NamedTuple):
    """This worker reads messages from now on."""


class Retrying(NamedTuple):
    """A message failed and waits under a parking name; its retry is due in ``due_in_ms``."""

    id: str
    error: str
    due_in_ms: int


class Failed(NamedTuple):
    """The handler has raised.

    errors: for each type of error [name of the type, text, id of one message, how often].
    """

    errors: list[list[Any]]


class Buried(NamedTuple):
    """This worker has moved a message to the dead letters."""

    reason: str


class Released(NamedTuple):
    """This worker has given messages back unstarted: they can be offered to another one now."""


class AskForWork(NamedTuple):
    """A worker asks for offers before it reads new messages, as some are waiting.

    taken: how many Take messages have reached it so far. beside: how many messages it can run
    beside those that run already, so it cannot take one that must run alone; 0 = nothing runs.
    """

    taken: int
    beside: int = 0


class Declined(NamedTuple):
    """The worker does not take these offers: a handler was running when they came."""

    ids: list[str]


class GroupLost(NamedTuple):
    """The stream or the group does not exist any more."""


class Retire(NamedTuple):
    """This life is near one of its limits: start a successor, then drain this worker."""

    why: str


class Leaving(NamedTuple):
    """This worker handles nothing more and has left Redis; its interpreter is ending.

    threads: names of the threads that it still waits for.
    """

    threads: list[str]


class Fatal(NamedTuple):
    """This worker cannot go on, and neither could another one."""

    error: str


class Periodic(NamedTuple):
    """The periodic messages that its handler declares; each is a later.periodic.Schedule."""

    schedules: list[list[Any]]


class MorePeriodic(NamedTuple):
    """Schedules that do not fit into one Periodic; that one follows, with the last of them."""

    schedules: list[list[Any]]


# -- master -> worker ----------------------------------------------------------------------------


class Start(NamedTuple):
    """All settings of a worker, which starts to work with them.

    consumer: with the consumer name of this life. batch_size: None = adaptive. most_messages: how
    many this life may handle; None = any number.
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
    """Claim these messages and handle them as one batch.

    offers: [id, owner, delivery count as seen, least idle time in ms, new delivery count] each.
    bury: not None = bury them instead, for this reason and with ``error``. alone: the worker
    handles nothing beside them.
    """

    offers: list[list[Any]]
    bury: str | None = None
    error: str = ""
    alone: bool = True


class NoWork(NamedTuple):
    """The answer to AskForWork when no offer is left."""


class Pause(NamedTuple):
    """Finish the messages that run, give back the rest, start nothing until Resume."""


class Resume(NamedTuple):
    """Read and handle messages again."""


class Cancel(NamedTuple):
    """This message was cancelled: do not start it, or interrupt it if it runs."""

    id: str


class Drain(NamedTuple):
    """Finish the messages that run, give back the rest, then end."""


# -- master <-> template -------------------------------------------------------------------------


class WorkerSpec(NamedTuple):
    """What a worker process needs before it gets its settings with Start.

    target, serializer: ``module:attribute`` each. row: number of its row in the scoreboard.
    directory: where the pool was started. preload: does the template import the target?
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
    """Fork a worker; the ends of its pipes and the scoreboard come along as file descriptors."""

    slot: int
    life: int
    spec: WorkerSpec


class Forked(NamedTuple):
    """The worker has been forked."""

    slot: int
    life: int
    pid: int


class ForkFailed(NamedTuple):
    """The worker could not be forked; error: why."""

    slot: int
    life: int
    error: str


class Exited(NamedTuple):
    """A worker process has ended. status: wait status, as of waitpid(2)."""

    pid: int
    status: int
    cpu_ms: int = 0  # processor time of the process and of the children that it waited for


# A message travels as its place in this list, so a new one comes last.
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
    """The value of a field, where that is a record of its own: out of its packed form."""
    if hint is ConsumerConfig:
        return ConsumerConfig(**value)
    if hint is WorkerSpec:
        made = WorkerSpec(*value)
        return made if all(map(_fits, made, _field_types(WorkerSpec))) else None
    return value


def _fits(value: Any, hint: Any) -> bool:
    """Has the value the type ``hint``, with all that it contains?"""
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
    """A message as bytes, as decode() reads it."""
    packed: bytes = msgpack.packb(
        [_TAGS[type(message)], *message], unicode_errors="surrogateescape", default=asdict
    )
    return packed


def decode(raw: bytes) -> Message | None:
    """The message that these bytes are, or None if they are no message of this version."""
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
    except Exception:  # bytes of a handler or of another version may raise anything
        return None
    return message
