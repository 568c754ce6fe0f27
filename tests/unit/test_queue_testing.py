"""Tests of apps: queue.testing() runs or records pushes, and no server is asked."""

from __future__ import annotations

from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from redis_stream_queue import Queue, TaskFailed, current
from redis_stream_queue.exceptions import ConfigError

shop = Queue("shop")
sent: list[Any] = []


@shop.task(result_ttl_s=60)
async def double(price: Decimal) -> Decimal:
    sent.append((current().task, current().delivery, current().headers["who"]))
    return price * 2


@shop.task
def fails(number: int) -> None:
    raise ValueError(number)


@shop.cron("0 3 * * *", tz="Europe/Berlin")
def nightly() -> None:
    sent.append("nightly")


async def test_pushes_run_in_place(rsq_testing: Callable[..., Any]) -> None:
    """Through the serializer, with results, and what fails is raised; what is for later waits."""
    sent.clear()
    pushed = rsq_testing(shop)
    job = await double.options(headers={"who": "me"}).push(Decimal("1.10"))

    assert await job.result() == Decimal("2.20")
    with pytest.raises(ValueError, match="7"):
        fails.push_sync(7)
    await nightly.options(delay_ms=5).push()
    nightly.push_sync()

    assert [(call.task, call.args, call.ran) for call in pushed] == [
        ("double", ["1.10"], True),
        ("fails", [7], True),
        ("nightly", [], False),
        ("nightly", [], True),
    ]
    assert sent == [("double", 1, "me"), "nightly"]
    with pytest.raises(ConfigError, match="no task is running here"):
        current()


def test_pushes_may_only_be_recorded() -> None:
    sent.clear()
    with shop.testing(run=False) as pushed:
        nightly.push_many_sync([(), ()])

    assert [call.task for call in pushed] == ["nightly", "nightly"]
    assert sent == []


async def test_jobs_of_a_queue_under_test_ask_no_server() -> None:
    """Not their results, their status or their end, whether they ran or were only recorded."""
    away = Queue("shop", url="redis://127.0.0.1:1/0")
    price: Any = away.task(result_ttl_s=60, name="price")(lambda number: number * 2)
    with away.testing() as pushed:
        ran, later = price.push_sync(1), price.options(delay_ms=5).push_sync(2)
        known = away.job("price", later.id)

        assert [await job.status() for job in (ran, later, known)] == ["done"] + ["scheduled"] * 2
        with pytest.raises(TimeoutError, match="has only recorded it"):
            await later.result()
        assert [await job.cancel() for job in (ran, known, later)] == [False, True, False]
        assert [call.cancelled for call in pushed] == [False, True]
        assert await later.status() == await away.job("price", "0-9").status() == "gone"
        with pytest.raises(TaskFailed, match="cancelled"):
            await later.result()
        assert await ran.result() == 2
        with pytest.raises(RuntimeError, match=r"hold up the running event loop: await status\(\)"):
            ran.status_sync()


def test_jobs_are_asked_without_a_loop(tmp_path: Path) -> None:
    """Under test that starts no server, either."""
    away = Queue("shop", url=f"embedded://{tmp_path}/redis")
    price: Any = away.task(result_ttl_s=60, name="price")(lambda number: number * 2)
    with away.testing():
        assert price.push_sync(2).result_sync() == 4
    with away.testing(run=False):
        waits = price.push_sync(1)
        assert waits.status_sync() == "waiting"
        assert waits.cancel_sync()
        assert waits.status_sync() == "gone"
    assert not (tmp_path / "redis").exists()


waiting, elsewhere = Queue("waiting"), Queue("elsewhere")


@elsewhere.task(result_ttl_s=60)
def there() -> int:
    return 1


@waiting.task(result_ttl_s=60)
def here() -> int:
    return 2


@waiting.task
async def waits(how: str) -> None:
    sent.append(await (await there.push()).result())
    sent.append(await (await here.push()).result(None if how == "for ever" else 5))


async def test_a_task_does_not_wait_without_end_for_its_own_queue(rsq_testing: Any) -> None:
    """Others may be waited for, and outside of a task anybody may."""
    sent.clear()
    rsq_testing(waiting)
    rsq_testing(elsewhere)

    await waits.push("a while")
    with pytest.raises(ConfigError, match="task 'waits' waits without a limit for task 'here'"):
        await waits.push("for ever")
    assert sent == [1, 2, 1]
    assert await (await here.push()).result() == 2
