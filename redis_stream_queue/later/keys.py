"""The keys beside a stream, all in its slot of a cluster."""

from __future__ import annotations

from typing import NamedTuple

from redis.crc import key_slot

from .._names import has_hash_tag
from ..exceptions import ClusterSlotError


class Companions(NamedTuple):
    """Keys of one stream.

    later, seq: scheduled messages, and the number of the last one. bell: a short stream that wakes
    whoever waits for a change. control: what is paused. unique: unfinished unique messages.
    cron: periodic messages. retried: where messages went that wait long for their next try.
    cancelled: what was taken back lately while it ran.
    """

    stream: str
    later: str
    seq: str
    bell: str
    control: str
    unique: str
    cron: str
    retried: str
    cancelled: str

    def dedup(self, dedup_id: str) -> str:
        """Key of the window in which this id is pushed once."""
        return _beside(self.stream, f"dedup:{dedup_id}")

    def result(self, job_id: str) -> str:
        """Key of what came of the message that was pushed under this id."""
        return f"{self.results}:{job_id}"

    @property
    def results(self) -> str:
        """What the keys of results begin with."""
        return _beside(self.stream, "result")


def companions(key: str) -> Companions:
    """Keys beside the stream with this key.

    Raises ClusterSlotError for a name with braces that leave no room for a key in its slot.
    """
    names = ("later", "later-seq", "bell", "control", "unique", "cron", "retried", "cancelled")
    return Companions(key, *(_beside(key, name) for name in names))


def _beside(key: str, name: str) -> str:
    # ':' and '|' apart, or the keys of "orders" and of "{orders}" would be the same.
    made = f"{key}|{name}" if has_hash_tag(key) else f"{{{key}}}:{name}"
    if key_slot(made.encode()) == key_slot(key.encode()):
        return made
    raise ClusterSlotError(
        f"the stream {key!r} has braces in its name that leave no room for other keys in its slot "
        "of a cluster, so that delays, periodic and unique messages and pauses cannot be had "
        "there. Choose a name without braces, or with one hash tag, as in '{orders}_main'."
    )
