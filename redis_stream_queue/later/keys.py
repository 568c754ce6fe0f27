"""Names of the keys beside a stream, all of them in the stream's slot of a cluster."""

from __future__ import annotations

from typing import NamedTuple

from .._names import BESIDE, beside, slot_of
from ..exceptions import ClusterSlotError


class Companions(NamedTuple):
    """Keys of one stream.

    later: scheduled messages. seq: the number of the last one. bell: a short stream that wakes the
    processes that wait for a change. control: pauses. unique: unfinished unique messages. cron:
    periodic messages. retried: where messages are whose retry was scheduled. cancelled: ids of
    messages that were cancelled lately while they ran.
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
        """The key that exists as long as another push with this dedup_id is a duplicate."""
        return _beside(self.stream, f"dedup:{dedup_id}")

    def result(self, job_id: str) -> str:
        """Key of the result of the message that was pushed under this id."""
        return f"{self.results}:{job_id}"

    @property
    def results(self) -> str:
        """The beginning of the keys of all results."""
        return _beside(self.stream, "result")


def companions(key: str) -> Companions:
    """The keys beside the stream with this key.

    Raises ClusterSlotError for a name with braces to which no other key in its slot can be made.
    """
    return Companions(key, *(_beside(key, name) for name in BESIDE))


def _beside(key: str, name: str) -> str:
    made = beside(key, name)
    if slot_of(made) == slot_of(key):
        return made
    raise ClusterSlotError(
        f"the stream {key!r} has braces in its name that leave no room for other keys in its slot "
        "of a cluster, so that delays, periodic and unique messages and pauses cannot be had "
        "there. Choose a name without braces, or with one hash tag, as in '{orders}_main'."
    )
