"""Calls of the shop's tasks, for type checkers only: each line that ends with a mark is wrong, and
no other is."""

from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal

from tasks import fetch_rates, invoice, queue, remind, send_mail, thumbnail, total

from redis_stream_queue import Job, Queue, StreamMessage, stream_handler


async def pushes() -> None:
    await thumbnail.push(1)
    await thumbnail.push(1, width=32)
    await thumbnail.push()  # wrong
    await thumbnail.push("1")  # wrong
    await thumbnail.push(1, wide=32)  # wrong
    await thumbnail.push(1, 32, 32)  # wrong
    await thumbnail.push(photo=None)  # wrong
    await fetch_rates.push("https://example.com")
    await fetch_rates.push(7)  # wrong
    await remind.options(delay_ms=1000).push(7, "ada@example.com")
    await remind.options(delay_ms=1000).push("ada@example.com", 7)  # wrong
    await remind.options(at=datetime(2090, 1, 1, tzinfo=UTC), headers={"shop": "a"}).push(7, "")
    await remind.options(delay=1000).push(7, "ada@example.com")  # wrong
    await remind.options(delay_ms="an hour").push(7, "ada@example.com")  # wrong
    await remind.options(headers={"shop": 1}).push(7, "ada@example.com")  # wrong
    await thumbnail.push_many([(1,), (2,)])
    await thumbnail.push_many([1, 2])  # wrong
    thumbnail.push(1)  # wrong


def without_a_loop() -> None:
    send_mail.push_sync("ada@example.com", "Order 7", body="Thank you!")
    send_mail.push_sync("ada@example.com")  # wrong
    send_mail.delay("ada@example.com", "Order 7")  # wrong
    remind.options(unique="remind:7").push_sync(7)  # wrong
    job: Job[Decimal] = total.push_sync(["tea"])
    other: Job[str] = total.push_sync(["tea"])  # wrong
    amount: Decimal = job.result_sync(timeout_s=5)
    invoice.push_sync(7, amount)
    invoice.push_sync(7, 21.0)  # wrong
    invoice.push_sync(7, other)  # wrong
    taken_back: bool = job.cancel_sync()
    if job.status_sync() == "finished":  # wrong
        print(taken_back)


async def results() -> None:
    job = await invoice.push(7, Decimal("4.50"))
    path: str = await job.result(timeout_s=5)
    amount: Decimal = await job.result(timeout_s=5)  # wrong
    invoice.push_sync(7, job.result())  # wrong
    if await job.status() == "finished":  # wrong
        print(path, amount)


async def plain_calls() -> None:
    amount: Decimal = total(["tea", "cup"])
    total("tea", "cup")  # wrong
    await fetch_rates("https://example.com")
    fetch_rates("https://example.com")  # wrong
    await invoice(7, amount)  # wrong


@queue.task(result_ttl_s=60, retry_on=(OSError, ValueError))
def right(number: int) -> None: ...


@queue.task(result_ttl="an hour")  # wrong
def unknown_option(number: int) -> None: ...


@queue.task(max_deliveries="five")  # wrong
def option_of_another_type(number: int) -> None: ...


@queue.task(retry_on="OSError")  # wrong
def error_by_name(number: int) -> None: ...


@queue.cron("0 3 * * *", catch_up="sometimes")  # wrong
def nightly() -> None: ...


queue.task(7)  # wrong


Queue("work", max_deliveries=5, middleware=[], workers=2)
Queue("work", max_delivery=5)  # wrong
Queue("work", batch_size="ten")  # wrong


@stream_handler("orders", group="workers", payload_field=None, max_claim_passes=1)
def batch(messages: list[StreamMessage]) -> None: ...


@stream_handler("orders", retry_delay=5)  # wrong
def misspelled(messages: list[StreamMessage]) -> None: ...
