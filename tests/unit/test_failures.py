"""The table of errors: bounded, whatever is raised, and it shows what happens now."""

from __future__ import annotations

from redis_stream_queue.pool.failures import MOST_KINDS, OTHERS, Failures


def counts(failures: Failures) -> dict[str, int]:
    return {failure.kind: failure.count for failure in failures.all()}


def test_a_new_kind_is_shown_however_many_there_were_before() -> None:
    """What has not happened for the longest time goes to the others; no error is lost."""
    failures = Failures()
    for number in range(2 * MOST_KINDS):
        failures.note(f"Old{number}", "it was", "1-1")
    for _ in range(3):
        failures.note("New", "it is", "2-1")
    seen = counts(failures)
    assert seen["New"] == 3
    assert len(seen) == MOST_KINDS + 1
    assert seen[OTHERS] == MOST_KINDS + 1
    assert sum(seen.values()) == 2 * MOST_KINDS + 3


def test_a_frequent_kind_stays_among_kinds_that_come_once() -> None:
    """An app that makes a type of error for each message hides no other error."""
    failures = Failures()
    for number in range(500):
        failures.note(f"Once{number}", "made up", "1-1")
        if number % 10 == 0:
            failures.note("Frequent", "the one to mend", "2-1")
    assert counts(failures)["Frequent"] == 50


def test_others_are_one_kind_wherever_they_were_added_up() -> None:
    """A worker that had too many kinds in one batch tells them as the others."""
    failures = Failures()
    failures.note(OTHERS, "several", "1-1", 7)
    for number in range(MOST_KINDS + 2):
        failures.note(f"Kind{number}", "one", "2-1")
    assert counts(failures)[OTHERS] == 9
