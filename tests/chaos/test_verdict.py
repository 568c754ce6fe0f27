"""The judge: what it must not let pass, and what it must excuse. Pure."""

from __future__ import annotations

from dataclasses import replace

from .executions import Execution
from .faults import Fault, Faults
from .verdict import Letter, Pushed, Verdict, judge

ID = "1-0"


def _run(begin_s: float, end_s: float | None = None, **changes: object) -> Execution:
    execution = Execution(1, ID, "A1", 7, 1, "ok", begin_s, end_s, "ended" if end_s else "")
    return replace(execution, **changes)  # type: ignore[arg-type]


def _letter(do: str) -> Letter:
    return Letter("9-0", ID, 1, do, "max_deliveries", "", 4)


def _judge(
    *runs: Execution, faults: list[Fault] | None = None, do: str = "ok", letters: int = 0
) -> Verdict:
    dead = [_letter(do)] * letters
    return judge([Pushed(1, ID, do, 0.5)], set(), list(runs), dead, Faults(faults or []))


def _findings(verdict: Verdict) -> list[str]:
    return [finding.what for finding in verdict.findings]


def test_a_message_that_was_handled_once_is_fine() -> None:
    assert _findings(_judge(_run(1, 2))) == []


def test_a_message_that_came_nowhere_is_lost() -> None:
    assert _findings(_judge()) == ["LOST"]
    killed = Fault("kill", 1.5, 1.5, "A", "A1", 7)
    assert _findings(_judge(_run(1), faults=[killed])) == ["LOST"]


def test_the_dead_are_the_doomed_each_once() -> None:
    assert _findings(_judge(letters=1, do="reject")) == []
    assert _findings(_judge(letters=2, do="reject")) == ["buried 2 times"]
    assert _findings(_judge(_run(1), letters=1))[0] == "innocent buried"
    assert "doomed, not buried" in _findings(_judge(_run(1, 2, do="raise"), do="raise"))


def test_a_second_execution_needs_a_reason() -> None:
    again = _run(3, 4, pid=8)
    unexplained = ["unexplained double execution"]
    assert _findings(_judge(_run(1, 2), again)) == unexplained
    assert _findings(_judge(_run(1, 2, how="raised"), again)) == []

    killed = Fault("kill", 2.1, 2.1, "A", "A1", 7)
    late = replace(killed, begin_s=2.5, end_s=2.5)
    other = replace(killed, pid=9)
    assert _findings(_judge(_run(1, 2), again, faults=[killed])) == []
    assert _findings(_judge(_run(1, 2), again, faults=[late])) == unexplained
    assert _findings(_judge(_run(1, 2), again, faults=[other])) == unexplained

    stopped = Fault("stop", 2.05, 2.45, "A", "A1", 7)
    assert _findings(_judge(_run(1, 2), again, faults=[late, stopped])) == []
    early = replace(stopped, end_s=2.3)
    assert _findings(_judge(_run(1, 2), again, faults=[late, early])) == unexplained

    cut = Fault("cut", 1.5, 1.6, "A", severs=True)
    assert _findings(_judge(_run(1, 2), again, faults=[cut])) == []
    assert _findings(_judge(_run(1, 2), again, faults=[replace(cut, host="B")])) == unexplained
    assert _findings(_judge(_run(1, 2), again, faults=[replace(cut, host="")])) == []


def test_a_stopped_worker_explains_nothing_unless_its_master_stands_still_too() -> None:
    again = _run(3, 4, pid=8)
    stopped = Fault("stop", 1.2, 1.8, "A", "A1", 7)
    master = Fault("stop master", 1.0, 1.9, "A", "A1", 6)
    assert _findings(_judge(_run(1, 2), again, faults=[stopped])) != []
    assert _findings(_judge(_run(1, 2), again, faults=[stopped, master])) == []


def test_executions_overlap_only_if_the_first_host_was_severed_for_long() -> None:
    both = [_run(1, 5), _run(3, 4, pool="B1")]
    short = Fault("stall", 1.5, 1.8, "A", severs=True)
    long = replace(short, end_s=2.6)
    assert _findings(_judge(*both, faults=[short])) == ["unexplained overlap"]
    assert _findings(_judge(*both, faults=[long])) == []


def test_an_execution_without_an_end_needs_a_kill() -> None:
    findings = _findings(_judge(_run(1), _run(3, 4, pid=8)))
    assert findings == ["begun, not ended, not killed", "unexplained double execution"]


def test_what_was_dropped_with_a_deleted_consumer_is_excused_only_where_nobody_lived_to_know() -> (
    None
):
    deleted = Fault("delete consumer", 1.5, 1.5, ids=frozenset({ID}))
    killed = Fault("kill", 1.8, 1.8, "A", "A1", 7)
    late = replace(killed, begin_s=6, end_s=6)
    assert _findings(_judge(faults=[deleted])) == []
    assert _findings(_judge(_run(1), faults=[deleted, killed])) == []
    assert "LOST" in _findings(_judge(_run(1), faults=[deleted, late]))
    assert "LOST" in _findings(_judge(faults=[replace(deleted, ids=frozenset({"2-0"}))]))


def test_what_ran_to_its_end_is_not_buried() -> None:
    assert "buried although it ran" in _findings(_judge(_run(1, 2), letters=1))
