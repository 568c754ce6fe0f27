"""What the shared row of a worker says about it."""

from __future__ import annotations

import pytest

from redis_stream_queue.pool.master.slots import MOST_LIVES, Crew, Slot, WorkerRecord
from redis_stream_queue.pool.protocol import WorkerSpec
from redis_stream_queue.pool.scoreboard import Field, Scoreboard


@pytest.mark.parametrize(
    ("busy_since", "busy_until", "read_at", "holds", "may_hold"),
    [
        (0, 0, 0, False, False),  # it starts
        (10, 0, 5, True, True),
        (0, 20, 5, False, True),  # done, and no read has carried the acknowledgement yet
        (0, 20, 30, False, False),
    ],
)
def test_what_a_worker_holds(
    busy_since: int, busy_until: int, read_at: int, holds: bool, may_hold: bool
) -> None:
    """What is done but not acknowledged is nobody else's: it would be run or buried once more."""
    worker = WorkerRecord(0, 1, 0, Scoreboard().row(0))
    worker.row.set_id(Field.FIRST, "5-0")
    worker.row.set_id(Field.LAST, "7-0")
    worker.row[Field.BUSY_SINCE], worker.row[Field.BUSY_UNTIL] = busy_since, busy_until
    worker.row[Field.READ_AT] = read_at
    for entry_id in ("5-0", "6-3", "7-0"):
        assert worker.holds(entry_id) is holds
        assert worker.may_hold(entry_id) is may_hold
    for entry_id in ("4-9", "7-1"):
        assert not worker.holds(entry_id)
        assert not worker.may_hold(entry_id)


@pytest.mark.parametrize("alone", [False, True])
def test_what_runs_alone_is_to_blame_alone(alone: bool) -> None:
    """Others of its batch have deliveries of their own, and some with lower ids may not have
    begun."""
    worker = WorkerRecord(0, 1, 0, Scoreboard().row(0))
    row = worker.row
    row.begin("5-0", "9-0", 3, 1)
    row.rule(0, 1, 1, alone=alone)
    row.start("7-0", 1)
    suspects = worker.suspects(one_at_a_time=True)

    assert [i for i in ("5-0", "7-0", "9-0") if suspects(i)] == (
        ["7-0"] if alone else ["5-0", "7-0"]
    )


WHOLE_BATCH = ["5-0", "7-0", "9-0"]


@pytest.mark.parametrize(
    ("one_at_a_time", "busy", "started", "overran", "blamed"),
    [
        (True, True, "", None, WHOLE_BATCH),  # it was decoding the batch
        (True, True, "", "", WHOLE_BATCH),  # the same, killed by the time limit
        (True, True, "7-0", "7-0", ["7-0"]),
        (True, True, "9-0", "7-0", ["7-0"]),  # it has just ended, and the next one has begun
        (False, True, "7-0", None, WHOLE_BATCH),
        (True, False, "7-0", None, WHOLE_BATCH),  # Redis may not know the end of this batch
    ],
)
def test_who_is_to_blame_for_a_death(
    one_at_a_time: bool, busy: bool, started: str, overran: str | None, blamed: list[str]
) -> None:
    """The answer stays the same when the row is cleared for another life."""
    worker = WorkerRecord(0, 1, 0, Scoreboard().row(0), overran=overran)
    worker.row.begin("5-0", "9-0", 3, 1)
    if started:
        worker.row.start(started, 1)
    if not busy:
        worker.row[Field.BUSY_SINCE] = 0
    suspects = worker.suspects(one_at_a_time=one_at_a_time)
    worker.row.clear()

    assert [i for i in ("4-9", *WHOLE_BATCH, "9-1") if suspects(i)] == blamed


def test_a_slot_has_room_for_old_lives_while_there_are_rows() -> None:
    """When rows are scarce, for one old life beside a new one: every slot can be replaced."""
    board = Scoreboard()
    crew = Crew(WorkerSpec("app:handler", None, "info", "text", 1.0), board, 1)
    slot = Slot(0, crew)
    crew.slots.append(slot)
    for life in range(MOST_LIVES):
        assert not slot.is_full
        slot.lives.append(WorkerRecord(0, life, life, board.row(life)))
    assert slot.is_full

    crew.free_rows.clear()
    slot.lives = slot.lives[:2]
    assert slot.is_full
    slot.lives.pop()
    assert not slot.is_full
