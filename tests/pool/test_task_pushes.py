"""What a push of a task asks for, and what a task raises on purpose, in a pool."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import redis

from redis_stream_queue import TaskFailed
from redis_stream_queue.later.keys import companions
from tests.pool.noted import did, letters, noted
from tests.support.pool import PoolProcess
from tests.support.waiting import wait_until

ASKED = """
import time
from pathlib import Path
from redis_stream_queue import Queue, Reject, Retry, current

queue = Queue("work", retry_delay_ms=20)

def note(*words):
    print("did", *words, flush=True)

@queue.task(result_ttl_s=60)
def takes(what: str, until: str = "") -> None:
    note("begins", what)
    while until and not Path(until).exists():
        time.sleep(0.005)
    note("takes", what, current().headers.get("rsq:scheduled"))

@queue.task(retry_on=(OSError,), max_deliveries=2)
def asks(counted: bool) -> None:
    note("asks", counted, current().delivery)
    if not hasattr(asks, f"asked_{counted}"):
        setattr(asks, f"asked_{counted}", True)
        raise Retry("busy", delay_ms=20, counted=counted)

@queue.task(result_ttl_s=60)
def refuses(order: int) -> None:
    note("refuses", order)
    raise Reject(f"no order {order}")

@queue.cron("* * * * *", tz="Europe/Berlin")
def tick() -> None:
    note("tick", current().headers["rsq:tick"], current().headers.get("rsq:missed"))
"""


def test_what_a_push_asks_for_holds_in_a_pool(
    pool_url: str, tmp_path: Path, imported: Callable[[str], Any]
) -> None:
    """Delays, once, expiry; what a task raises on purpose; and a schedule that was missed while no
    pool ran is caught up with once."""
    app = imported(ASKED)
    cron, go_on = companions("work").cron, tmp_path / "go_on"

    def start() -> PoolProcess:
        args = ("--workers", "1")
        return PoolProcess(None, *args, url=pool_url, cwd=tmp_path, target="tasks_app:queue")

    with redis.Redis.from_url(pool_url) as server:
        with start() as pool:
            wait_until(lambda: server.hget(cron, "last:tick"), 15, "the schedule is known")
            assert pool.drain() == 0
        for field in ("last:tick", "declared:tick"):
            server.hincrby(cron, field, -10 * 60_000)

        with start() as pool:
            pool.wait_ready()
            held = app.takes.options(unique="held").push_sync("held", str(go_on))
            wait_until(lambda: ["begins", "held"] in noted(pool), 10, "one runs")
            again = app.takes.options(unique="held").push_sync("again")
            assert (again.duplicate, again.id) == (True, held.id)
            assert held.status_sync() == "running"
            expired = app.takes.options(ttl_ms=1).push_sync("expired")
            delayed = app.takes.options(delay_ms=300).push_sync("delayed")
            assert delayed.status_sync() == "scheduled"
            once = [app.takes.options(dedup_id="once").push_sync("once") for _ in range(2)]
            assert [job.duplicate for job in once] == [False, True]
            for counted in (True, False):
                app.asks.push_sync(counted)
            refused = app.refuses.push_sync(7)
            go_on.touch()

            for job in (held, *once, delayed):
                assert job.result_sync(10) is None
            with pytest.raises(TaskFailed) as failed:
                expired.result_sync(10)
            assert failed.value.reason == "expired"
            with pytest.raises(TaskFailed, match="no order 7") as failed:
                refused.result_sync(10)
            assert failed.value.reason == "rejected"
            after = app.takes.options(unique="held").push_sync("after")
            assert (after.duplicate, after.result_sync(10)) == (False, None)
            late = app.takes.options(dedup_id="once").push_sync("late")
            assert (late.duplicate, late.id) == (True, once[0].id)
            wait_until(lambda: did(pool)["asks"] == 4, 10, "both are tried again")
            wait_until(lambda: did(pool)["tick"], 10, "the schedule")
            assert pool.drain() == 0
        assert {name: found[:2] for name, found in letters(pool_url).items()} == {
            "refuses": ("rejected", "1")
        }

    notes = noted(pool)
    assert next(words[1] for words in notes if words[0] == "takes") == "held"
    assert sorted(words[1:] for words in notes if words[0] == "takes") == [
        ["after", "None"],
        ["delayed", delayed.id],
        ["held", "None"],
        ["once", "None"],
    ]
    asked = [words[1:] for words in notes if words[0] == "asks"]
    assert sorted(asked) == [["False", "1"], ["False", "1"], ["True", "1"], ["True", "2"]]
    ticks = [words[1:] for words in notes if words[0] == "tick"]
    assert int(ticks[0][1]) >= 9
    assert len({tick for tick, _ in ticks}) == len(ticks)  # the clock may have struck meanwhile
