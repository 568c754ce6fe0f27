"""What travels and what Redis says about it: plain dataclasses, no I/O."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any

from .metrics import ConsumerMetrics as ConsumerMetrics  # 0.1.x had them here
from .metrics import ProducerMetrics as ProducerMetrics


@dataclass
class StreamMessage:
    """One entry of a stream.

    id: entry id, ``<ms>-<seq>``.
    data: the decoded payload (``bytes`` where nothing decoded it yet).
    delivery_count: how often the message was handed out, this time included; 0 = never.
    headers: the entry's other fields, as text.
    """

    id: str
    data: Any
    delivery_count: int = 0
    headers: dict[str, str] = field(default_factory=dict)

    def __hash__(self) -> int:
        return hash(self.id)


@dataclass
class PendingEntry:
    """One line of XPENDING.

    id: entry id. consumer: the name that holds it; retries wait under ``<group>:retry:<ms>``.
    idle_ms: since its holder last renewed its hold.
    delivery_count: how often it was delivered.
    """

    id: str
    consumer: str
    idle_ms: int
    delivery_count: int


@dataclass
class ConsumerInfo:
    """One consumer of a group.

    name: its name. pending: how many entries it holds. idle_ms: since it last asked for any.
    """

    name: str
    pending: int
    idle_ms: int


@dataclass
class StreamStats:
    """State of one stream and group.

    stream_length: entries in the stream. group_pel_size: entries that are pending in the group.
    last_delivered_id: "" for a group that does not exist.
    lag: entries not delivered to the group yet (counted where the server cannot tell).
    consumers: those that read; the names under which retries wait are none.
    dlq_length: entries in the dead-letter stream; None if none was named.
    waiting_retries: pending messages that wait for their next delivery.
    """

    stream: str
    group: str
    stream_length: int
    group_pel_size: int
    lag: int
    last_delivered_id: str
    consumers: list[ConsumerInfo] = field(default_factory=list)
    dlq_length: int | None = None
    waiting_retries: int = 0


_ENTRY_ID = re.compile(r"[0-9]{1,20}-[0-9]{1,20}\Z")
GREATEST_ID = f"{2**64 - 1}-{2**64 - 1}"  # no range can begin behind it


def is_entry_id(text: object) -> bool:
    """Is this the id of an entry, ``<ms>-<seq>``, each below 2**64?"""
    if not isinstance(text, str) or _ENTRY_ID.match(text) is None:
        return False
    return max(id_key(text)) < 2**64


def id_key(entry_id: str) -> tuple[int, int]:
    """Entry id as a pair that sorts as Redis sorts it."""
    ms, _, seq = entry_id.partition("-")
    return int(ms), int(seq or 0)


def id_before(entry_id: str) -> str:
    """The greatest id below ``entry_id`` (``0-0`` stays)."""
    ms, seq = id_key(entry_id)
    if seq:
        return f"{ms}-{seq - 1}"
    return f"{ms - 1}-{2**64 - 1}" if ms else "0-0"
