"""Snapshots of one life and its shared row go together without counting anything twice."""

from __future__ import annotations

from itertools import accumulate, pairwise

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from redis_stream_queue.metrics import ConsumerMeter
from redis_stream_queue.pool import task_times
from redis_stream_queue.pool.scoreboard import COUNTERS, Scoreboard
from redis_stream_queue.pool.standard_streams import StandardStreams
from redis_stream_queue.pool.totals import (
    KNOWN,
    MAX_COUNT,
    MAX_SNAPSHOT,
    NAMES,
    Totals,
    added,
    decode,
    encode,
    latest,
    of_row,
    portions,
    unconfirmed,
)
from redis_stream_queue.pool.worker.reporting import ReportingHooks

COUNTS = st.integers(0, MAX_COUNT - 1)
TOTALS = st.fixed_dictionaries(dict.fromkeys(NAMES, COUNTS))
STEPS = st.lists(st.fixed_dictionaries(dict.fromkeys(NAMES, st.integers(0, 1000))), max_size=20)


def history(steps: list[Totals]) -> list[Totals]:
    """What a life has counted after each step."""
    return list(accumulate(steps, added, initial=dict.fromkeys(NAMES, 0)))


@given(STEPS, st.data())
def test_whatever_gets_lost_the_newest_report_is_the_truth(
    steps: list[Totals], data: st.DataObject
) -> None:
    """Snapshots lost, late, twice and in any order; the row as of the death: exact."""
    moments = history(steps)
    arrived = data.draw(st.lists(st.sampled_from(moments)))
    assert latest(*arrived, moments[-1]) == moments[-1]


@given(STEPS, st.data())
def test_the_masters_totals_never_go_back(steps: list[Totals], data: st.DataObject) -> None:
    """Row and snapshot are looked at at any time, in any order, and the life ends at any time."""
    moments = history(steps)
    known: Totals = {}
    seen: list[Totals] = []
    for row in moments:
        sent = moments[data.draw(st.integers(0, moments.index(row)))]
        known = latest(known, sent)
        seen.append(latest(known, row))
    for before, after in pairwise(seen):
        assert all(before[name] <= after[name] for name in NAMES)


@given(TOTALS)
def test_a_snapshot_travels_whole(totals: Totals) -> None:
    raw = encode(totals)
    assert len(raw) <= MAX_SNAPSHOT <= 4096 - 4
    assert decode(raw) == totals


def test_all_that_a_life_counts_travels() -> None:
    """Also of many tasks with large numbers, in several snapshots."""
    totals = dict.fromkeys([*KNOWN, *task_times.all_names()], MAX_COUNT - 1)
    raws = [encode(portion) for portion in portions(totals)]
    assert max(map(len, raws)) <= MAX_SNAPSHOT
    assert latest(*map(decode, raws)) == totals


def test_tasks_are_added_up_by_name() -> None:
    """Whatever their numbers were; those that are not known are the others'."""
    before = task_times.named({"acked": 3, "1:0": 2, "2:errors": 1, "0:0": 1}, ["a", "b"])
    after = task_times.named({"acked": 4, "1:0": 5, "2:0": 1, "9:0": 1}, ["b", "other"])
    after["a:waiting_3"] = 4
    tasks = task_times.of_totals(added(before, after))
    assert {name: (task.handling.total, task.errors) for name, task in tasks.items()} == {
        "a": (2, 0),
        "b": (5, 1),
        "other": (3, 0),
    }
    assert (tasks["a"].waiting.total, tasks["b"].waiting.total) == (4, 0)
    labels = task_times.Labels()
    assert len({labels.of(f"task{number}") for number in range(1000)}) == task_times.MOST_NAMES + 1


@given(TOTALS, st.data())
def test_half_a_snapshot_is_nothing(totals: Totals, data: st.DataObject) -> None:
    raw = encode(totals)
    assert decode(raw[: data.draw(st.integers(0, len(raw) - 1))]) == {}


@given(st.binary(max_size=MAX_SNAPSHOT))
def test_garbage_is_no_more_than_totals(raw: bytes) -> None:
    assert decode(raw).keys() <= NAMES.keys()


@pytest.mark.parametrize(
    "sent",
    [
        {"acked": -1},
        {"acked": 2**63},
        {"acked": 1.5},
        {"acked": True},
        {"acked": "5"},
        {"acked": None},
        {b"acked": 5},
        {"unheard_of": 5},
        {5: 5},
        ["acked", 5],
        5,
    ],
    ids=str,
)
def test_what_only_looks_like_a_snapshot_counts_nothing(sent: object) -> None:
    assert decode(msgpack.packb(sent)) == {}


def test_what_is_not_known_does_not_hide_the_rest() -> None:
    """A worker with fresh code may report more than its master knows."""
    assert decode(msgpack.packb({"acked": 3, "handle_seconds": [1, 2], "new": 1})) == {"acked": 3}


def test_the_row_has_every_counter() -> None:
    row = Scoreboard().row(3)
    for number, counter in enumerate(COUNTERS, 1):
        row[counter] = number
    assert of_row(row) == dict(zip(NAMES, range(1, len(NAMES) + 1), strict=True))


@given(st.lists(st.integers(1, 50), min_size=1, max_size=5), st.data())
def test_what_was_asked_and_not_counted_is_counted_once(
    batches: list[int], data: st.DataObject
) -> None:
    """A worker is killed between any two of its writes; Redis has done the last command or not."""
    row = Scoreboard().row(0)
    streams = StandardStreams()
    hooks = ReportingHooks(row, lambda _: None, streams)
    meter = ConsumerMeter()
    last = data.draw(st.integers(0, len(batches) - 1))
    for number, count in enumerate(batches[: last + 1]):
        hooks.acknowledging(f"{number}-0", meter.acked.total + count)
        if number < last or data.draw(st.booleans()):
            executed = True
            meter.acked.record(count)
            hooks.counted(meter)
        else:
            executed = data.draw(st.booleans())
    pending = set() if executed else {f"{last}-0"}

    known = of_row(row)["acked"]
    missing = [u.missing for u in unconfirmed(row) if u.entry_id not in pending]

    assert known + sum(missing) == sum(batches[: last + executed])


def test_a_burial_that_came_to_nothing_is_not_in_doubt() -> None:
    row = Scoreboard().row(0)
    streams = StandardStreams()
    hooks = ReportingHooks(row, lambda _: None, streams)
    hooks.burying("5-0", 1)
    assert [u.name for u in unconfirmed(row)] == ["dead"]
    hooks.counted(ConsumerMeter())  # somebody else had taken it
    assert unconfirmed(row) == []
