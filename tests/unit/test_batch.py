"""One batch between the handler's side and the loop's side: nothing twice, nothing forgotten."""

from __future__ import annotations

import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from redis_stream_queue import Reject, Retry, StreamMessage
from redis_stream_queue.delivery.batch import (
    DONE,
    ERROR_TEXT,
    Batch,
    Outcome,
    Verdict,
    describe,
    verdict_of,
)


def messages(count: int) -> list[StreamMessage]:
    return [StreamMessage(f"{n}-0", n) for n in range(count)]


def test_messages_come_in_order_then_none() -> None:
    batch = Batch(messages(3))
    assert [batch.next() for _ in range(4)] == [*batch.messages, None]


def test_each_start_is_told() -> None:
    started: list[int] = []
    batch = Batch(messages(2), on_start=lambda message, _: started.append(message.data))
    batch.next()
    assert started == [0]
    batch.next()
    assert started == [0, 1]


def test_a_batch_handler_gets_all_at_once_and_tells_the_first() -> None:
    started: list[int] = []
    batch = Batch(messages(3), on_start=lambda message, _: started.append(message.data))
    assert batch.start_all() == batch.messages
    assert batch.start_all() == []
    assert started == [0]


def test_what_was_lost_is_not_started() -> None:
    batch = Batch(messages(3))
    batch.lost = {"0-0", "2-0"}
    assert batch.next() == batch.messages[1]
    assert batch.next() is None
    assert [m.id for m in batch.unfinished()] == ["1-0"]


def test_what_was_withdrawn_is_not_started() -> None:
    batch = Batch(messages(3))
    batch.next()
    assert [m.id for m in batch.withdraw()] == ["1-0", "2-0"]
    assert batch.next() is None
    assert batch.withdraw() == []


def test_more_to_handle() -> None:
    batch = Batch(messages(2))
    first = batch.next()
    assert first is not None
    batch.done(first)
    batch.collect()
    more = messages(5)[3:]
    assert batch.extend(more)
    assert [m.id for m in batch.messages] == ["1-0", "3-0", "4-0"]
    assert [m.id for m in batch.unfinished()] == ["1-0", "3-0", "4-0"]
    assert [m.id for m in iter(batch.next, None)] == ["1-0", "3-0", "4-0"]


def test_nothing_more_once_it_is_closed() -> None:
    batch = Batch(messages(3))
    batch.next()
    assert [m.id for m in batch.close()] == ["1-0", "2-0"]
    assert not batch.extend(messages(5)[3:])
    assert batch.next() is None


def test_what_a_group_made_anew_delivers_again_runs_once() -> None:
    """What runs here, what waits here, and what was lost while it waited."""
    batch = Batch(messages(3))
    running = batch.next()
    assert running is not None
    batch.lost = {"2-0"}
    again = messages(3)
    assert batch.extend(again)
    assert list(iter(batch.next, None)) == [batch.messages[1], again[2]]
    assert batch.lost == set()


def test_finished_is_collected_once() -> None:
    batch = Batch(messages(2))
    batch.done(batch.messages[0])
    assert batch.collect() == [([batch.messages[0]], DONE)]
    assert batch.collect() == []
    assert batch.unfinished() == [batch.messages[1]]


def test_failure_is_a_verdict_for_each_and_one_error() -> None:
    batch = Batch(messages(2))
    error = ValueError("no")
    batch.fail_batch(batch.messages, error)
    assert batch.errors == [(error, batch.messages)]
    [(failed, verdict)] = batch.collect()
    assert failed == batch.messages
    assert verdict.outcome is Outcome.RETRY
    assert batch.unfinished() == []


def test_a_batch_may_be_done_in_part() -> None:
    batch = Batch(messages(3))
    started = batch.start_all()
    batch.finish_batch(started, started[1:2], Verdict(Outcome.RETRY))
    assert [([m.data for m in messages], v.outcome) for messages, v in batch.collect()] == [
        ([1], Outcome.ACK),
        ([0, 2], Outcome.RETRY),
    ]


@pytest.mark.parametrize(
    ("error", "outcome", "delay_ms"),
    [
        (Retry(delay_ms=5), Outcome.RETRY, 5),
        (Retry(), Outcome.RETRY, None),
        (Reject("why"), Outcome.REJECT, None),
    ],
)
def test_wishes_of_the_handler_are_no_errors(
    error: Exception, outcome: Outcome, delay_ms: int | None
) -> None:
    batch = Batch(messages(1))
    batch.fail(batch.messages[0], error)
    [(_, verdict)] = batch.collect()
    assert (verdict.outcome, verdict.delay_ms) == (outcome, delay_ms)
    assert batch.errors == []


class Stripped(Retry):
    def __init__(self) -> None:  # no call of ours: none of our attributes
        pass


class Exploding(Retry):
    @property
    def delay_ms(self) -> int:  # type: ignore[override]
        raise OSError("no delay today")

    @delay_ms.setter
    def delay_ms(self, value: object) -> None: ...


def changed_later(**attributes: object) -> Retry:
    retry = Retry("why")
    vars(retry).update(attributes)
    return retry


@pytest.mark.parametrize(
    "retry",
    [
        Stripped(),
        Exploding(),
        changed_later(delay_ms="soon"),
        changed_later(delay_ms=float("nan")),
        changed_later(delay_ms=10**5000),
    ],
)
def test_a_retry_that_lost_its_delay_is_one_with_the_configured_delay(retry: Retry) -> None:
    batch = Batch(messages(1))
    batch.fail(batch.messages[0], retry)
    [(_, verdict)] = batch.collect()
    assert (verdict.outcome, verdict.delay_ms) == (Outcome.RETRY, None)
    assert "as configured: " in verdict.error


def test_error_text_keeps_the_type_the_words_and_the_end_of_the_traceback() -> None:
    def deep(depth: int) -> None:
        if depth:
            deep(depth - 1)
        raise KeyError("x" * 5000)

    try:
        deep(50)
    except KeyError as error:
        text = describe(error)
    assert text.startswith("KeyError: 'xxx")
    assert "in deep" in text
    assert len(text) <= ERROR_TEXT
    assert describe(ValueError("never raised")) == "ValueError: never raised"
    assert verdict_of(ValueError("v")).error == "ValueError: v"


def test_an_error_that_cannot_be_shown_is_still_a_verdict() -> None:
    """An app's exception may raise in its own __str__."""

    class Broken(Exception):
        def __str__(self) -> str:
            raise RuntimeError("broken __str__")

    assert verdict_of(Broken()).outcome is Outcome.RETRY


@given(st.text(alphabet=st.characters(exclude_categories=()), max_size=50))
def test_any_error_text_can_be_sent(text: str) -> None:
    """A lone surrogate, half of an emoji, is no UTF-8."""
    describe(ValueError(text)).encode()
    verdict_of(Reject(text)).error.encode()


@given(count=st.integers(0, 30), take=st.integers(0, 40))
def test_started_and_withdrawn_are_the_whole_batch(count: int, take: int) -> None:
    batch = Batch(messages(count))
    whole = batch.messages
    started = [m for _ in range(take) if (m := batch.next()) is not None]
    assert started + batch.withdraw() == whole
    assert batch.unfinished() == started


def test_two_threads_share_a_batch_without_doubling() -> None:
    """A handler's thread starts messages while the loop withdraws."""
    for _ in range(20):
        batch = Batch(messages(500))
        started: list[StreamMessage] = []

        def start(batch: Batch = batch, started: list[StreamMessage] = started) -> None:
            while (message := batch.next()) is not None:
                started.append(message)

        thread = threading.Thread(target=start)
        thread.start()
        withdrawn = batch.withdraw()
        thread.join()
        assert sorted(m.data for m in started + withdrawn) == list(range(500))
