"""The counters of one worker life, as they travel to the master.

A snapshot holds totals, never differences, and a total never falls. So of two reports of one life
the larger number of each counter is the newer one. Reports may get lost, come late or come twice:
``latest`` of those that have come is as right as the newest of them. So the snapshots of the pipe
and the words of the shared row are put together, and nothing is counted twice.
"""

from __future__ import annotations

import select
from collections.abc import Iterator
from itertools import islice
from typing import NamedTuple

import msgpack

from . import histogram, task_times
from .scoreboard import COUNTERS, Field, Row

MAX_SNAPSHOT = select.PIPE_BUF - 4  # bytes; with multiprocessing's header one write, whole or not
MOST_COUNTERS = 150  # of one snapshot: then it fits, however large they are
MAX_COUNT = 2**63

Totals = dict[str, int]

NAMES = {counter.name.lower(): counter for counter in COUNTERS}
KNOWN = frozenset([*NAMES, *histogram.NAMES])


def of_row(row: Row) -> Totals:
    """The totals in the shared row; those of histograms only where they are not 0.

    Numbers of MAX_COUNT or more are left out: a worker whose memory is damaged wrote them.
    """
    counted = {name: row[counter] for name, counter in NAMES.items()}
    counted.update([pair for pair in zip(histogram.NAMES, row.times(), strict=True) if pair[1]])
    for number, words in enumerate(row.tasks()):
        names = task_times.names(number)
        counted.update([pair for pair in zip(names, words, strict=True) if pair[1]])
    return {name: count for name, count in counted.items() if count < MAX_COUNT}


class Unconfirmed(NamedTuple):
    """``missing`` has to be added to counter ``name`` if the entry is not pending any more."""

    name: str
    missing: int
    entry_id: str


def unconfirmed(row: Row) -> list[Unconfirmed]:
    """What a killed process asked of Redis and did not count: Redis may have done it.

    One command does all of it or nothing, so it is enough to look at one id. The process wrote the
    new total before it sent the command, and the same total when it counted. So nothing is counted
    twice, whenever the process ended.
    """
    asked = (
        ("acked", row[Field.ACKING_TOTAL] - row[Field.ACKED], row.id(Field.ACKING)),
        ("dead", row[Field.BURYING_TOTAL] - row[Field.DEAD], row.id(Field.BURYING)),
    )
    return [Unconfirmed(name, n, entry_id) for name, n, entry_id in asked if n > 0]


def portions(totals: Totals) -> Iterator[Totals]:
    """The totals in parts that fit into one snapshot each."""
    counters = iter(totals.items())
    while portion := dict(islice(counters, MOST_COUNTERS)):
        yield portion


def encode(totals: Totals) -> bytes:
    """A snapshot as bytes, MAX_SNAPSHOT at most. totals: one part that portions() made."""
    packed: bytes = msgpack.packb(totals)
    assert len(packed) <= MAX_SNAPSHOT, f"a snapshot of {len(packed)} bytes"
    return packed


def decode(raw: bytes) -> Totals:
    """The totals of a snapshot, without counters that are unknown; {} for bytes that are none."""
    try:
        sent = msgpack.unpackb(raw)
    except Exception:  # msgpack raises errors of many types for bytes that are no snapshot
        return {}
    if not isinstance(sent, dict):
        return {}
    return {
        name: count
        for name, count in sent.items()
        if _is_known(name) and type(count) is int and 0 <= count < MAX_COUNT
    }


def _is_known(name: object) -> bool:
    return name in KNOWN or name in task_times.all_names()


def latest(*reports: Totals) -> Totals:
    """The newest value of each counter. reports: of one life, in any order."""
    newest = dict.fromkeys(NAMES, 0)
    for report in reports:
        for name, count in report.items():
            if count > newest.get(name, 0):
                newest[name] = count
    return newest


def added(*lives: Totals) -> Totals:
    """The sum of each counter over several lives."""
    total = dict.fromkeys(NAMES, 0)
    for life in lives:
        for name, count in life.items():
            total[name] = total.get(name, 0) + count
    return total
