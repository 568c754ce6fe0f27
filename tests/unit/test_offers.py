"""Who may take what: last deliveries and what may have killed a pool never run side by side."""

from __future__ import annotations

from typing import Any

import pytest

from redis_stream_queue.delivery.fate import Fate
from redis_stream_queue.delivery.pending import SeenEntry
from redis_stream_queue.pool.master import offers as module
from redis_stream_queue.pool.master.offers import (
    LATE_MS,
    MOST_ALONE_WAIT_MS,
    MOST_LASTS,
    OFFER_MS,
    Due,
    Offers,
)
from redis_stream_queue.pool.master.slots import WorkerRecord
from redis_stream_queue.pool.master.states import WorkerState
from redis_stream_queue.pool.protocol import NoWork, Take
from redis_stream_queue.pool.scoreboard import Field, Scoreboard


class Pipe:
    """Keeps what the master sends."""

    def __init__(self) -> None:
        self.sent: list[Any] = []

    def send(self, message: Any) -> None:
        self.sent.append(message)


class Scene:
    """Offers of a master with some idle workers, and a clock that stands still."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, workers: int) -> None:
        self.now_ms = 1_000_000
        monkeypatch.setattr(module, "mono_ms", lambda: self.now_ms)
        self.scoreboard = Scoreboard()
        self.workers = [self._worker(number) for number in range(workers)]
        self.offers = Offers(self.scoreboard, lambda: self.workers, lambda _: "")

    def _worker(self, number: int) -> WorkerRecord:
        row = self.scoreboard.row(number)
        row[Field.BATCH] = 10
        pipe: Any = Pipe()
        return WorkerRecord(number, 1, number, row, pipe, state=WorkerState.READY)

    def add(self, entry_id: str, *, last: bool = False, suspect: bool = False) -> None:
        offer = SeenEntry(entry_id, "gone", 2, 0, 3)
        decision = Fate.CLAIM_ALONE if last else Fate.CLAIM
        due = Due(offer, decision, "", last, suspect, self.now_ms)
        self.offers.add(due)

    def taken(self) -> list[list[str]]:
        """What each worker was offered."""
        return [
            [offer[0] for take in self._sent(w) if isinstance(take, Take) for offer in take.offers]
            for w in self.workers
        ]

    def _sent(self, worker: WorkerRecord) -> list[Any]:
        assert isinstance(worker.channel, Pipe)
        return worker.channel.sent


@pytest.fixture
def scene(monkeypatch: pytest.MonkeyPatch) -> Scene:
    return Scene(monkeypatch, 2)


def test_a_worker_whose_turn_it_is_to_read_new_ones_is_offered_nothing_until_it_asks(
    scene: Scene,
) -> None:
    for worker in scene.workers:
        worker.row[Field.ONLY_NEW] = 1
    scene.add("1-0")
    scene.offers.dispatch()
    assert scene.taken() == [[], []]
    assert scene.scoreboard.offers_waiting == 1
    scene.offers.answer(scene.workers[1], 0)
    assert scene.taken() == [[], ["1-0"]]


def test_ordinary_ones_go_in_batches_and_last_deliveries_alone(scene: Scene) -> None:
    scene.add("1-0")
    scene.add("2-0")
    scene.add("3-0", last=True)
    scene.offers.dispatch()
    assert scene.taken() == [["1-0", "2-0"], ["3-0"]]


def test_what_a_dead_worker_ran_goes_alone(scene: Scene) -> None:
    """It is no last delivery yet, so several may run side by side."""
    for number in (1, 2):
        offer = SeenEntry(f"{number}-0", "gone", 1, 0, 2)
        scene.offers.add(Due(offer, Fate.CLAIM_ALONE, since_ms=scene.now_ms))
    scene.offers.dispatch()
    assert scene.taken() == [["1-0"], ["2-0"]]


def test_last_deliveries_of_live_consumers_run_side_by_side(scene: Scene) -> None:
    scene.add("1-0", last=True)
    scene.add("2-0", last=True)
    scene.offers.dispatch()
    assert scene.taken() == [["1-0"], ["2-0"]]


@pytest.mark.parametrize(
    "other", [{"last": True}, {"suspect": True}, {"last": True, "suspect": True}]
)
def test_nothing_risky_beside_an_exclusive_one(scene: Scene, other: dict[str, bool]) -> None:
    scene.add("1-0", last=True, suspect=True)
    scene.add("2-0", **other)
    scene.offers.dispatch()
    assert scene.taken() == [["1-0"], []]


def test_an_exclusive_one_waits_for_a_suspect_that_runs(scene: Scene) -> None:
    scene.add("1-0", suspect=True)
    scene.offers.dispatch()
    scene.add("2-0", last=True, suspect=True)
    scene.offers.dispatch()
    assert scene.taken() == [["1-0"], []]


def test_an_exclusive_one_waits_for_a_worker_that_may_still_take_another(scene: Scene) -> None:
    """A worker that hangs for a moment may take its offer up to LATE_MS after it should have."""
    scene.add("1-0", last=True, suspect=True)
    scene.offers.dispatch()
    scene.add("2-0", last=True, suspect=True)
    scene.now_ms += OFFER_MS + LATE_MS - 1
    scene.offers.dispatch()
    assert scene.taken() == [["1-0"], []]
    scene.now_ms += 1
    scene.offers.dispatch()
    assert scene.taken() == [["1-0"], ["2-0"]]


def test_ordinary_ones_pass_those_that_wait(scene: Scene) -> None:
    scene.add("1-0", last=True, suspect=True)
    scene.add("2-0", last=True, suspect=True)
    scene.add("3-0")
    scene.offers.dispatch()
    assert scene.taken() == [["1-0"], ["3-0"]]


def test_the_next_one_goes_when_its_worker_asks_again(scene: Scene) -> None:
    scene.add("1-0", last=True, suspect=True)
    scene.add("2-0", last=True, suspect=True)
    scene.offers.dispatch()
    scene.offers.answer(scene.workers[0], taken=1)
    assert scene.taken() == [["1-0", "2-0"], []]


def test_an_offer_that_is_still_on_its_way_is_the_answer(scene: Scene) -> None:
    scene.add("1-0")
    scene.offers.dispatch()
    scene.add("2-0")
    scene.offers.answer(scene.workers[0], taken=0)
    assert scene.taken() == [["1-0"], []]
    scene.offers.answer(scene.workers[1], taken=0)
    assert scene.taken() == [["1-0"], ["2-0"]]


def test_a_worker_with_free_lanes_gets_as_many_as_there_is_room_for(scene: Scene) -> None:
    for number in range(5):
        scene.add(f"{number}-0")
    scene.offers.answer(scene.workers[0], taken=0, beside=3)
    assert scene.taken() == [["0-0", "1-0", "2-0"], []]
    assert not scene._sent(scene.workers[0])[0].alone


@pytest.mark.parametrize(("last", "suspect"), [(True, False), (False, True)])
def test_a_worker_with_free_lanes_gets_nothing_that_may_be_deadly(
    scene: Scene, last: bool, suspect: bool
) -> None:
    scene.add("1-0", last=last, suspect=suspect)
    scene.add("2-0")
    scene.offers.answer(scene.workers[0], taken=0, beside=3)
    assert scene.taken() == [[], []]
    scene.offers.answer(scene.workers[0], taken=0)
    assert scene.taken() == [["1-0"], []]
    assert scene._sent(scene.workers[0])[-1].alone


def test_it_waits_for_so_long_only(scene: Scene) -> None:
    """A job of hours on its last delivery holds up the others for a minute, not for hours."""
    scene.add("1-0", last=True, suspect=True)
    scene.add("2-0", last=True, suspect=True)
    scene.offers.dispatch()
    row = scene.workers[0].row
    row.set_id(Field.FIRST, "1-0")
    row.set_id(Field.LAST, "1-0")
    row[Field.BUSY_SINCE] = scene.now_ms
    scene.now_ms += MOST_ALONE_WAIT_MS - 1
    scene.offers.dispatch()
    assert scene.taken() == [["1-0"], []]
    scene.now_ms += 2
    scene.offers.dispatch()
    assert scene.taken() == [["1-0"], ["2-0"]]


def test_last_deliveries_that_wait_leave_room_for_others(scene: Scene) -> None:
    for number in range(1, 3 * MOST_LASTS):
        scene.add(f"{number}-0", last=True, suspect=True)
    assert len(scene.offers) == MOST_LASTS
    scene.offers.dispatch()
    scene.add("999-0", last=True, suspect=True)
    assert len(scene.offers) == MOST_LASTS


def test_a_worker_that_lets_an_offer_pass_comes_last(scene: Scene) -> None:
    scene.add("1-0")
    scene.offers.dispatch()
    scene.now_ms += 1000
    scene.add("2-0")
    scene.offers.dispatch()
    assert scene.taken() == [["1-0"], ["2-0"]]


def test_a_worker_that_has_done_something_since_is_offered_more_at_once(scene: Scene) -> None:
    del scene.workers[1]
    scene.add("1-0")
    scene.offers.dispatch()
    scene.add("2-0")
    scene.offers.dispatch()
    assert scene.taken() == [["1-0"]]
    scene.workers[0].row[Field.BATCHES] += 1
    scene.offers.dispatch()
    assert scene.taken() == [["1-0", "2-0"]]


def test_the_worker_that_was_heard_of_last_comes_first(scene: Scene) -> None:
    """The other one may be stopped."""
    for worker, read_at_ms in zip(scene.workers, [1, 2], strict=True):
        worker.row[Field.READ_AT] = read_at_ms
    scene.add("1-0")
    scene.offers.dispatch()
    assert scene.taken() == [[], ["1-0"]]


def test_nothing_is_the_answer_when_nothing_may_go(scene: Scene) -> None:
    scene.offers.answer(scene.workers[0], taken=0)
    assert scene._sent(scene.workers[0]) == [NoWork()]
