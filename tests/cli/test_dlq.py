"""rsq dlq: list, show, requeue and purge, as a user types them."""

from __future__ import annotations

import json
from typing import Any

import pytest
import redis

from tests.support.rsq import rsq as run_rsq


class Rsq:
    """Runs ``rsq dlq ...`` against a server."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.redis: Any = redis.Redis.from_url(url)

    def __call__(self, *args: str, code: int = 0) -> str:
        done = run_rsq("dlq", *args, url=self.url)
        assert done.returncode == code, done.stderr
        return done.stdout if code == 0 else done.stderr

    def letter(
        self,
        reason: str = "max_deliveries",
        error: str = "ValueError: no",
        n: int = 1,
        **headers: str,
    ) -> str:
        """A dead letter as the package writes it; ``n`` is its payload."""
        fields = {
            "data": json.dumps(n),
            "original_stream": "orders",
            "original_id": f"{n}-0",
            "group": "orders_workers",
            "reason": reason,
            "delivery_count": "3",
            "worker": "w",
            "dead_letter_ts": "1",
            "last_error": error,
            **headers,
        }
        entry_id: bytes = self.redis.xadd("orders_dlq", fields)
        return entry_id.decode()


@pytest.fixture
def rsq(pool_url: str) -> Rsq:
    return Rsq(pool_url)


def test_list_shows_one_line_a_letter_and_filters(rsq: Rsq) -> None:
    first = rsq.letter(error="ValueError: no\n  trace")
    second = rsq.letter(reason="rejected", error="not for us")

    assert rsq("list", "orders").splitlines() == [
        f"{first}  max_deliveries  deliveries 3  ValueError: no",
        f"{second}  rejected  deliveries 3  not for us",
    ]
    assert second not in rsq("list", "orders", "--reason", "max_deliveries")
    assert first not in rsq("list", "orders", "--error", "not for")
    assert rsq("list", "orders", "--older-than", "1h") == ""
    assert len(rsq("list", "orders", "--newer-than", "1h").splitlines()) == 2
    assert len(rsq("list", "orders", "--limit", "1").splitlines()) == 1
    assert json.loads(rsq("list", "orders", "--json").splitlines()[0])["data"] == "1"


def test_letters_of_a_task_are_listed_and_requeued_by_its_name(rsq: Rsq) -> None:
    """Pushed, or periodic; the rest stays."""
    resize, nightly, other = (
        rsq.letter(n=number, **headers)
        for number, headers in enumerate(
            ({"rsq:task": "resize"}, {"rsq:cron": "nightly"}, {"rsq:task": "resized"}), 1
        )
    )

    assert rsq("list", "orders", "--task", "resize").splitlines() == [
        f"{resize}  max_deliveries  deliveries 3  resize  ValueError: no"
    ]
    [periodic] = rsq("list", "orders", "--task", "nightly", "--json").splitlines()
    assert json.loads(periodic)["id"] == nightly
    assert rsq("list", "orders", "--task", "resi") == ""
    rsq("requeue", "orders", "--task", "resize")
    assert rsq.redis.xlen("orders") == 1
    assert [letter.decode() for letter, _ in rsq.redis.xrange("orders_dlq")] == [nightly, other]


def test_list_says_when_there_is_nothing(rsq: Rsq) -> None:
    done = run_rsq("dlq", "list", "orders", url=rsq.url)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "no such letters in orders_dlq\n")


def test_show_prints_all_there_is_to_know(rsq: Rsq) -> None:
    entry_id = rsq.letter(error="ValueError: no\n  File x")
    shown = rsq("show", "orders", entry_id)
    assert "original_stream   orders" in shown
    assert "File x" in shown
    assert json.loads(rsq("show", "orders", entry_id, "--json"))["reason"] == "max_deliveries"
    assert "no letter '9-9'" in rsq("show", "orders", "9-9", code=1)
    for wrong in ("9", "yesterday", "9-9-9"):
        assert "expected a letter's id" in rsq("show", "orders", wrong, code=2)
        assert "expected a letter's id" in rsq("purge", "orders", wrong, code=2)


def test_requeue_sends_the_payload_back_without_what_burial_added(rsq: Rsq) -> None:
    ids = [rsq.letter(n=n) for n in range(3)]

    assert "2 dead letters in" in rsq("requeue", "orders", *ids[:2])

    assert [f for _, f in rsq.redis.xrange("orders")] == [{b"data": b"0"}, {b"data": b"1"}]
    assert rsq.redis.xlen("orders_dlq") == 1


def test_requeue_by_filter_to_another_stream_and_dry_run(rsq: Rsq) -> None:
    rsq.letter(error="Timeout")
    rsq.letter(error="ValueError")

    said = rsq("requeue", "orders", "--error", "Timeout", "--to", "again", "--dry-run")
    assert "1 dead letter in" in said
    assert rsq.redis.xlen("orders_dlq") == 2
    rsq("requeue", "orders", "--error", "Timeout", "--to", "again")
    assert rsq.redis.xlen("again") == 1
    assert rsq.redis.xlen("orders_dlq") == 1


def test_purge_many(rsq: Rsq) -> None:
    for n in range(250):
        rsq.letter(n=n)
    assert "250 dead letters in" in rsq("purge", "orders", "--all")
    assert rsq.redis.xlen("orders_dlq") == 0


@pytest.mark.parametrize(
    "args",
    [
        ("requeue", "orders"),
        ("purge", "orders", "--all", "--reason", "rejected"),
        ("list", "orders", "--older-than", "soon"),
    ],
)
def test_what_is_not_clear_is_refused(rsq: Rsq, args: tuple[str, ...]) -> None:
    rsq.letter()
    assert rsq(*args, code=2)
    assert rsq.redis.xlen("orders_dlq") == 1
