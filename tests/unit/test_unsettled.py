"""What becomes of messages by the rules of their tasks; no server."""

from __future__ import annotations

import pytest

from redis_stream_queue import ConsumerConfig, StreamMessage
from redis_stream_queue.delivery.hooks import Hooks
from redis_stream_queue.delivery.rules import Rules
from redis_stream_queue.delivery.unsettled import Unsettled
from redis_stream_queue.metrics import ConsumerMeter

OWN = Rules("own", 1, max_deliveries=3)  # a task with a limit of its own; the group permits 5


def unsettled() -> Unsettled:
    return Unsettled(
        "orders",
        ConsumerConfig(group="workers", max_deliveries=5),
        Hooks(),
        ConsumerMeter(),
        on_error=lambda _, __: None,
        on_drop=lambda _: None,
        rules_of=lambda message: OWN if message.data == "own" else Rules(),
    )


def message(number: int, delivery_count: int, task: str = "own") -> StreamMessage:
    return StreamMessage(f"{number}-0", task, delivery_count)


@pytest.mark.parametrize(
    ("counts", "beside", "run", "given_back", "dead"),
    [
        ([1, 2], False, ["1-0", "2-0"], [], []),
        ([3], False, ["1-0"], [], []),  # the last permitted one, alone
        ([3], True, [], ["1-0"], []),  # the same, but others run
        ([3, 3], False, ["1-0"], ["2-0"], []),
        ([2, 3], False, ["1-0"], ["2-0"], []),
        ([4], False, [], [], ["1-0"]),
        ([4, 1], True, ["2-0"], [], ["1-0"]),
    ],
)
def test_a_task_keeps_to_its_own_deliveries_and_its_last_one_is_alone(
    counts: list[int], beside: bool, run: list[str], given_back: list[str], dead: list[str]
) -> None:
    """What is given back comes alone the next time, and this delivery does not count."""
    undecided = unsettled()
    messages = [message(number, count) for number, count in enumerate(counts, 1)]

    admitted = undecided.admitted(messages, beside=beside)

    assert [m.id for m in admitted] == run
    assert list(undecided.to_park) == given_back
    assert all(p.suspect and p.deliveries == 2 for p in undecided.to_park.values())
    assert list(undecided.to_bury) == dead


def test_messages_without_rules_are_left_to_their_group() -> None:
    undecided = unsettled()
    messages = [message(1, 5, "plain"), message(2, 3, "plain")]
    assert undecided.admitted(messages, beside=True) == messages
    assert not undecided.settled()


def test_what_is_acknowledged_is_not_given_back() -> None:
    undecided = unsettled()
    undecided.note_kept_done(["1-0"])
    undecided.release([message(1, 1), message(2, 1)])
    assert list(undecided.to_ack) == ["1-0"]
    assert list(undecided.to_park) == ["2-0"]


def test_what_is_handed_out_again_is_undecided() -> None:
    """It is held anew: the retry that was planned, and the answer that left it out, are past."""
    undecided = unsettled()
    [again] = messages = [message(1, 1, "plain")]
    undecided.release(messages)
    undecided.kept[again.id] = None
    undecided.handed_again(messages)
    assert not undecided.to_park
    assert not undecided.kept


@pytest.mark.parametrize(
    ("said", "runs", "deliveries"),
    [("3", False, 3), ("0", True, None), ("-3", True, None), ("9" * 5000, True, None)],
    ids=["a retry that was scheduled", "none", "odd", "endless"],
)
def test_a_scheduled_retry_gets_its_deliveries_back(
    said: str, runs: bool, deliveries: int | None
) -> None:
    """The server has counted one; others may have written anything there."""
    undecided = unsettled()
    back = StreamMessage("1-0", "plain", 1, {"rsq:deliveries": said})
    assert undecided.resumed([back]) == ([back] if runs else [])
    assert [p.deliveries for p in undecided.to_park.values()] == ([] if runs else [deliveries])
