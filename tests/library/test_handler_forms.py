"""A handler is what calling it gives, whatever its decorators wrap; unrun is not done."""

from __future__ import annotations

import asyncio
import functools
import logging
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from redis_stream_queue import (
    ConfigError,
    StreamConsumer,
    StreamMessage,
    per_message,
    stream_handler,
)
from redis_stream_queue.delivery.per_message import PerMessage
from redis_stream_queue.handlers import declaration_of
from tests.library.kit import Bench

ran: list[Any] = []


@pytest.fixture(autouse=True)
def _nothing_has_run() -> None:
    ran.clear()


def plain(message: StreamMessage) -> None:
    ran.append(message.data)


async def coro(message: StreamMessage) -> None:
    await asyncio.sleep(0)
    ran.append(message.data)


def runs_it(func: Callable[..., Any]) -> Callable[..., Any]:
    """A plain wrapper with a loop of its own around an async function."""

    @functools.wraps(func)
    def wrapper(*args: Any) -> Any:
        return asyncio.run(func(*args))

    return wrapper


def in_thread(func: Callable[..., Any]) -> Callable[..., Any]:
    """An async wrapper around a plain function."""

    @functools.wraps(func)
    async def wrapper(*args: Any) -> Any:
        return await asyncio.to_thread(func, *args)

    return wrapper


def passes_on(func: Callable[..., Any]) -> Callable[..., Any]:
    """A plain wrapper that returns the coroutine."""

    @functools.wraps(func)
    def wrapper(*args: Any) -> Any:
        return func(*args)

    return wrapper


async def forgets_to_await(message: StreamMessage) -> Any:
    return coro(message)


def submits(message: StreamMessage) -> Any:
    return ThreadPoolExecutor(1).submit(plain, message)


def sometimes_async(message: StreamMessage) -> Any:
    return coro(message) if message.data % 2 else plain(message)


class Shop:
    def plain(self, message: StreamMessage) -> None:
        plain(message)

    async def coro(self, message: StreamMessage) -> None:
        await coro(message)

    async def __call__(self, message: StreamMessage) -> None:
        await coro(message)

    @stream_handler("of_the_shop")
    @per_message
    def decorated(self, message: StreamMessage) -> None:
        plain(message)


def with_extra(extra: int, message: StreamMessage) -> None:
    plain(message)


FORMS: dict[str, Callable[[StreamMessage], Any]] = {
    "asyncio.run in a plain wrapper": runs_it(coro),
    "async wrapper over plain": in_thread(plain),
    "wrapper that passes the coroutine on": passes_on(coro),
    "two wrappers": in_thread(runs_it(coro)),
    "coroutine that returns a coroutine": forgets_to_await,
    "future of a thread pool": submits,
    "now plain, now async": sometimes_async,
    "bound method": Shop().plain,
    "bound async method": Shop().coro,
    "object with async __call__": Shop(),
    "partial": functools.partial(with_extra, 1),
    "partial of a wrapper": functools.partial(passes_on(coro)),
    "lambda that gives a coroutine": lambda message: coro(message),
    "lru_cache": functools.lru_cache(plain),
}


@pytest.mark.parametrize("form", FORMS)
async def test_every_form_of_a_handler_runs(server_bench: Bench, form: str) -> None:
    bench, func = server_bench, FORMS[form]
    await bench.push(*range(4))
    await bench.consumer(per_message(func)).run_once()
    assert len(ran) == 4
    assert await bench.settled()


async def test_a_method_that_is_declared_in_its_class_is_the_instance_s(bench: Bench) -> None:
    handler = Shop().decorated
    assert isinstance(handler, PerMessage)
    assert (declared := declaration_of(handler)) is not None
    assert declared.stream == "of_the_shop"
    await bench.push(1)
    await bench.consumer(handler).run_once()
    assert ran == [1]


def test_stream_handler_takes_what_takes_no_attributes() -> None:
    """A bound method, say: the declaration is found, and it is called as before."""
    shop = Shop()
    handler = stream_handler("orders")(shop.plain)
    assert (declared := declaration_of(handler)) is not None
    assert declared.stream == "orders"
    assert declaration_of(per_message(handler)) == declared
    handler(StreamMessage("1-0", 7))
    assert ran == [7]


def yields(message: Any) -> Any:
    ran.append(message)
    yield message


async def yields_async(message: Any) -> Any:
    ran.append(message)
    yield message


class Yields:
    def __call__(self, message: Any) -> Any:
        yield message


@pytest.mark.parametrize(
    "func", [yields, yields_async, Yields(), functools.partial(yields_async), Yields().__call__]
)
def test_a_handler_that_yields_is_refused_where_it_is_declared(bench: Bench, func: Any) -> None:
    for declare in (per_message, stream_handler("orders"), bench.consumer):
        with pytest.raises(ConfigError, match="has a 'yield', so calling it runs nothing"):
            declare(func)


async def batch_of_nothing(messages: Any) -> Any:
    return yields_async(messages)


@pytest.mark.parametrize(
    "func",
    [
        per_message(passes_on(yields)),
        per_message(passes_on(yields_async)),
        per_message(in_thread(yields)),
        passes_on(yields),
        passes_on(yields_async),
        batch_of_nothing,
        lambda messages: (message.id for message in messages),
    ],
)
async def test_what_has_not_run_is_a_failure(server_bench: Bench, func: Any) -> None:
    """Where only the call shows it: nothing is acknowledged, and the letter says why."""
    bench = server_bench
    [entry_id] = await bench.push(1)
    consumer = bench.consumer(func, retry_delay_ms=0, max_deliveries=2, dlq_stream=bench.dlq)
    await bench.drain(consumer)
    assert ran == []
    [letter] = await bench.letters()
    assert letter["original_id"] == entry_id
    assert "which has run nothing yet" in letter["last_error"]


async def test_a_batch_handler_may_be_wrapped_both_ways(bench: Bench) -> None:
    async def coro_batch(messages: list[StreamMessage]) -> list[str]:
        ran.extend(messages)
        return [m.id for m in messages]

    for form in (runs_it(coro_batch), passes_on(coro_batch), in_thread(runs_it(coro_batch))):
        await bench.push(1, 2)
        await bench.consumer(form).run_once()
    assert len(ran) == 6
    assert await bench.settled()


def fails(message: StreamMessage) -> None:
    raise LookupError("no such order")


async def test_a_per_message_handler_takes_one_message_and_raises() -> None:
    """handle(message) in a unit test is the plain call; what has run nothing is told there, too."""
    message = StreamMessage("1-0", 7)
    per_message(plain)(message)
    await per_message(coro)(message)
    assert ran == [7, 7]
    with pytest.raises(LookupError, match="no such order"):
        per_message(fails)(message)
    with pytest.raises(TypeError, match="has run nothing"):
        per_message(passes_on(yields))(message)


async def test_cancelling_the_consumer_reaches_what_a_plain_looking_handler_gave(
    bench: Bench,
) -> None:
    """And that is no failure of its message: it is given back uncounted."""
    begun = asyncio.Event()

    async def waits(message: StreamMessage) -> None:
        begun.set()
        await asyncio.sleep(60)

    [entry_id] = await bench.push(1)
    consumer: StreamConsumer = bench.consumer(per_message(passes_on(waits)))
    running = asyncio.ensure_future(consumer.run())
    await asyncio.wait_for(begun.wait(), 10)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert consumer.metrics().total_errors == 0
    assert (await bench.pending())[entry_id][1] == 0


async def test_each_message_is_one_line_at_debug(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, logger="redis_stream_queue")
    good, bad = await bench.push(0, 1)

    @per_message
    def handle(message: StreamMessage) -> None:
        if message.data:
            raise LookupError

    await bench.consumer(handle).run_once()
    for entry_id, how in ((good, "done"), (bad, "LookupError")):
        assert f"{entry_id} of {bench.stream}: {how} after " in caplog.text
    caplog.clear()
    caplog.set_level(logging.INFO, logger="redis_stream_queue")
    await bench.push(0)
    await bench.consumer(handle).run_once()
    assert " after " not in caplog.text


async def test_a_dlq_handler_is_told_what_the_message_died_of(bench: Bench) -> None:
    """Plain or async; with the entry's own headers."""
    told: list[dict[str, str]] = []

    @per_message
    def handle(message: StreamMessage) -> None:
        raise LookupError("no such order")

    def plain_dlq(message: StreamMessage, reason: str) -> None:
        told.append(message.headers)

    async def async_dlq(message: StreamMessage, reason: str) -> None:
        told.append(message.headers)
        raise SystemExit  # of its own

    for dlq_handler in (plain_dlq, async_dlq):
        await bench.add_raw({"data": "1", "tenant": "a"})
        consumer = bench.consumer(
            handle, dlq_handler=dlq_handler, max_deliveries=1, dlq_stream=bench.dlq
        )
        await consumer.run_once()
    assert [headers["tenant"] for headers in told] == ["a", "a"]
    assert all(h["rsq:last_error"].startswith("LookupError: no such order") for h in told)
    assert len(await bench.letters()) == 2
