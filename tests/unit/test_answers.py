"""Which message wants an answer, and under which id whoever pushed it waits for that."""

from __future__ import annotations

import pytest

from redis_stream_queue import StreamMessage
from redis_stream_queue.delivery.answers import MOST_TTL_MS, RESULT, answer_to

FIRST, SCHEDULED = "@1700000000000-000000000001", "@1800000000000-000000000002"


@pytest.mark.parametrize(
    ("headers", "job_id"),
    [
        ({}, "5-0"),
        ({"rsq:scheduled": SCHEDULED}, SCHEDULED),
        ({"rsq:scheduled": SCHEDULED, "rsq:first": FIRST}, FIRST),  # a retry that waited long
    ],
)
def test_an_answer_is_kept_under_the_id_that_the_push_returned(
    headers: dict[str, str], job_id: str
) -> None:
    message = StreamMessage("5-0", None, 1, {RESULT: "60000", **headers})
    assert answer_to(message, b"V1") == (job_id, 60_000, b"V1")


@pytest.mark.parametrize("ttl", ["", "0", "-1", "x", "1.5", str(MOST_TTL_MS + 1), "9" * 5000])
def test_what_is_no_time_asks_for_no_answer(ttl: str) -> None:
    assert answer_to(StreamMessage("5-0", None, 1, {RESULT: ttl}), b"V1") is None
    assert answer_to(StreamMessage("5-0", None, 1), b"V1") is None
