"""The judge of what is later, once, unique, paused or cancelled: what it must not let pass, and
what it must excuse. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from .executions import Execution
from .faults import Fault, Faults
from .later import JUMP, PAUSE, Cancelled, Refused, judge_later, resolved, withdrawn
from .verdict import Pushed, judge


def _run(n: int, entry_id: str, begin_s: float, end_s: float | None = None) -> Execution:
    return Execution(n, entry_id, "A1", 7, 1, "nothing", begin_s, end_s, "ended" if end_s else "")


def _findings(
    pushed: Sequence[Pushed],
    runs: Sequence[Execution],
    *,
    refused: Sequence[Refused] = (),
    cancelled: Sequence[Cancelled] = (),
    faults: Sequence[Fault] = (),
) -> list[str]:
    """All that a run says, as its driver puts it together."""
    known, became, twice = resolved(pushed, runs, [])
    gone, all_faults = withdrawn(known, cancelled, became), Faults(list(faults))
    said = judge(known, set(), list(runs), [], all_faults, gone).findings + twice
    said += judge_later(known, refused, cancelled, became, runs, [], all_faults)
    return [finding.what for finding in said]


def test_a_scheduled_message_comes_once() -> None:
    pushed = [Pushed(1, "@9-1", "nothing", 0.5)]
    assert _findings(pushed, [_run(1, "9-0", 1, 2)]) == []
    assert "in the stream twice" in _findings(pushed, [_run(1, "9-0", 1, 2), _run(1, "9-1", 3, 4)])
    assert _findings(pushed, []) == ["LOST"]


def test_no_tick_is_missing_in_between() -> None:
    assert _findings([], [_run(-3, "3-0", 3, 4), _run(-4, "4-0", 4, 5)]) == []
    assert _findings([], [_run(-3, "3-0", 3, 4), _run(-5, "5-0", 5, 6)]) == ["LOST"]
    dropped = Fault("delete consumer", 4.5, 4.5, ids=frozenset({"tick 4"}))
    runs = [_run(-3, "3-0", 3, 4), _run(-5, "5-0", 5, 6)]
    assert _findings([], runs, faults=[dropped]) == []


def test_what_was_cancelled_does_not_start_and_what_was_gone_had_ended() -> None:
    pushed = [Pushed(1, "1-0", "nothing", 0.5)]
    waiting, gone = Cancelled("1-0", "waiting", 1, 1.1), Cancelled("1-0", "", 1, 1.1)
    assert _findings(pushed, [], cancelled=[waiting]) == []
    assert _findings(pushed, [], cancelled=[gone]) == ["LOST"]
    for cancelled in (waiting, gone):
        [said] = _findings(pushed, [_run(1, "1-0", 2, 3)], cancelled=[cancelled])
        assert said.startswith("started after its cancellation")
    away = Fault("isolate", 0.8, 2.5, "A", severs=True)
    assert _findings(pushed, [_run(1, "1-0", 2, 3)], cancelled=[waiting], faults=[away]) == []
    assert _findings(pushed, [_run(1, "1-0", 0.9)], cancelled=[waiting]) == []  # it was running


def test_nothing_starts_while_paused() -> None:
    pushed, paused = [Pushed(1, "1-0", "nothing", 0.5)], Fault(PAUSE, 1, 4)
    assert _findings(pushed, [_run(1, "1-0", 2, 3)], faults=[paused]) == ["started while paused"]
    assert _findings(pushed, [_run(1, "1-0", 4.1, 5)], faults=[paused]) == []
    assert _findings(pushed, [_run(1, "1-0", 1.1, 5)], faults=[paused]) == []
    for at_s, found in ((1.5, []), (2.5, ["started while paused"])):  # its end may have come
        jump = Fault(JUMP, at_s, at_s)
        assert _findings(pushed, [_run(1, "1-0", 2, 3)], faults=[paused, jump]) == found


def test_what_came_too_late_does_not_start() -> None:
    pushed = [Pushed(1, "1-0", "nothing", 0.5, ttl_s=2)]
    assert _findings(pushed, []) == []
    assert _findings(pushed, [_run(1, "1-0", 5, 6)]) == ["started after its time"]
    assert _findings([Pushed(1, "1-0", "nothing", 0.5, ttl_s=600)], []) == ["LOST"]


def test_of_a_key_one_is_unfinished_and_no_longer_than_it_lasts() -> None:
    pushed = [
        Pushed(1, "1-0", "nothing", 1, 0.9, "key"),
        Pushed(2, "3-0", "nothing", 3, 2.9, "key"),
    ]
    after = _run(2, "3-0", 6, 7)
    assert _findings(pushed, [_run(1, "1-0", 1, 2), after]) == []
    assert _findings(pushed, [_run(1, "1-0", 1, 4), after]) == ["two unfinished of a key"]
    refused = [Refused(3, "1-0", "key", 2.0)]
    assert _findings(pushed[:1], [_run(1, "1-0", 1, 2)], refused=refused) == []
    refused = [Refused(3, "1-0", "key", 60.0)]
    said = _findings(pushed[:1], [_run(1, "1-0", 1, 2)], refused=refused)
    assert said == ["a key was blocked for longer than its message"]
