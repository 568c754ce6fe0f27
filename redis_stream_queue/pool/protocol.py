"""Messages between master, template and workers: small frozen dataclasses, msgpack on the wire.

Ids travel, payloads never do. A message that is not known is ignored by whoever reads it.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

import msgpack

MAX_ERROR = 2000  # characters of an error text

# -- worker -> master ----------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Loaded:
    """The app is imported; this is what its handler declares (see handlers.stream_handler)."""

    pid: int
    stream: str | None
    settings: dict[str, Any]
    serializer: bool
    dlq_handler: bool
    one_at_a_time: bool  # a plain @per_message handler: the row names the message that runs


@dataclass(frozen=True, slots=True)
class LoadFailed:
    """The app (or the serializer) could not be imported; the error's own last lines."""

    what: str
    error: str


@dataclass(frozen=True, slots=True)
class Ready:
    """Reads messages from now on."""


@dataclass(frozen=True, slots=True)
class Retrying:
    """A message failed and is parked; due in so many ms."""

    id: str
    error: str
    due_in_ms: int


@dataclass(frozen=True, slots=True)
class Released:
    """Messages were given back unstarted: somebody else could have them now."""

    count: int


@dataclass(frozen=True, slots=True)
class Free:
    """Finished a batch while offers wait: asks for some before it reads new messages.

    taken: how many offers (Take) have reached it so far.
    """

    taken: int


@dataclass(frozen=True, slots=True)
class Declined:
    """An offer came while a handler was running."""

    ids: list[str]


@dataclass(frozen=True, slots=True)
class GroupLost:
    """The stream or the group is gone."""


@dataclass(frozen=True, slots=True)
class Retire:
    """This life has nearly used up what it may handle: start a successor, then drain me."""

    why: str


@dataclass(frozen=True, slots=True)
class Fatal:
    """This worker cannot go on, and neither could another one."""

    error: str


# -- master -> worker ----------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Start:
    """All settings, the consumer name of this life among them."""

    settings: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Take:
    """Offers to claim and handle: [id, owner, seen count, least idle ms, new count] each.

    They are handled as one batch. bury: reason to bury them for instead, with ``error``.
    """

    offers: list[list[Any]]
    bury: str | None = None
    error: str = ""


@dataclass(frozen=True, slots=True)
class Nothing:
    """The answer to Free when no offer is left."""


@dataclass(frozen=True, slots=True)
class Drain:
    """Finish what runs, give back the rest, leave."""


# -- master <-> template -------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Fork:
    """Make a worker; its end of the pipe comes along as a file descriptor."""

    slot: int
    life: int
    spec: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Forked:
    slot: int
    life: int
    pid: int


@dataclass(frozen=True, slots=True)
class Exited:
    """A worker has ended; status as of waitpid."""

    pid: int
    status: int


Message = (
    Loaded
    | LoadFailed
    | Ready
    | Retrying
    | Released
    | Free
    | Declined
    | GroupLost
    | Retire
    | Fatal
    | Start
    | Take
    | Nothing
    | Drain
    | Fork
    | Forked
    | Exited
)

_TYPES: list[type[Message]] = list(Message.__args__)
_TAGS = {kind: tag for tag, kind in enumerate(_TYPES)}
_FIELDS = {kind: [f.name for f in fields(kind)] for kind in _TYPES}


def encode(message: Message) -> bytes:
    """A message as bytes."""
    kind = type(message)
    packed: bytes = msgpack.packb(
        [_TAGS[kind], *(getattr(message, name) for name in _FIELDS[kind])],
        unicode_errors="surrogateescape",
    )
    return packed


def decode(raw: bytes) -> Message | None:
    """The message, or None for what is not one."""
    try:
        tag, *values = msgpack.unpackb(raw, unicode_errors="surrogateescape")
        if type(tag) is not int:
            return None
        message: Message = _TYPES[tag](*values)
    except Exception:  # whatever came, it was no message of ours
        return None
    return message
