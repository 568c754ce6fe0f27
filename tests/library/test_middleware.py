"""Middleware: around every call, whatever the handler is; and nothing counts as done unrun."""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from redis_stream_queue import ConfigError, Reject, StreamMessage, per_message, stream_handler
from redis_stream_queue.middleware import CallNext, Source, around
from tests.library.kit import GROUP, Bench
from tests.library.test_handler_forms import FORMS, coro, plain, ran

of_scope: contextvars.ContextVar[str] = contextvars.ContextVar("of_scope", default="")


@pytest.fixture(autouse=True)
def _nothing_has_run() -> None:
    ran.clear()


@around
@contextmanager
def noted(message: StreamMessage, source: Source) -> Iterator[None]:
    ran.append(f"in {message.data}")
    token = of_scope.set(message.id)
    try:
        yield
    finally:
        of_scope.reset(token)  # raises in another context
        ran.append(f"out {message.data}")


@pytest.mark.parametrize("form", FORMS)
async def test_a_scope_is_around_every_form_of_a_handler(server_bench: Bench, form: str) -> None:
    """Entered before the handler runs and left when it has ended, awaited or not."""
    await server_bench.push(0, 1)
    await server_bench.consumer(per_message(FORMS[form]), middleware=[noted, noted]).run_once()
    if form == "lru_cache":  # its cache knows them, perhaps
        assert [x for x in ran if x not in (0, 1)] == [
            word for n in (0, 1) for word in (f"in {n}", f"in {n}", f"out {n}", f"out {n}")
        ]
    else:
        assert ran == [
            word for n in (0, 1) for word in (f"in {n}", f"in {n}", n, f"out {n}", f"out {n}")
        ]
    assert await server_bench.settled()


async def test_messages_side_by_side_have_scopes_of_their_own(server_bench: Bench) -> None:
    async def handle(message: StreamMessage) -> None:
        await asyncio.sleep(0)
        ran.append((message.id, of_scope.get()))

    ids = await server_bench.push(*range(6))
    await server_bench.consumer(per_message(concurrency=3)(handle), middleware=[noted]).run_once()
    assert sorted(x for x in ran if isinstance(x, tuple)) == [(i, i) for i in ids]


async def test_what_middleware_may_do(server_bench: Bench) -> None:
    """It sees result and error, the first one outermost; it may change, refuse and skip."""
    seen: list[Any] = []

    def outer(message: StreamMessage, call_next: CallNext) -> Any:
        try:
            return call_next(message)
        except KeyError as error:
            raise Reject(f"outer saw {error}") from error
        finally:
            seen.append(("outer", message.data, call_next.source))

    def inner(message: StreamMessage, call_next: CallNext) -> Any:
        if message.data == "skip":
            return None
        return call_next(StreamMessage(message.id, message.data.upper()))

    def handle(message: StreamMessage) -> None:
        seen.append(message.data)
        if message.data == "BAD":
            raise KeyError("on purpose")

    await server_bench.push("skip", "good", "bad")
    consumer = server_bench.consumer(
        per_message(handle),
        middleware=[outer, inner],
        dlq_stream=server_bench.dlq,
        max_deliveries=7,
    )
    await server_bench.drain(consumer)
    source = Source(server_bench.stream, GROUP, 7)
    names = ["skip", "GOOD", "good", "BAD", "bad"]
    assert seen == [n if n.isupper() else ("outer", n, source) for n in names]
    [letter] = await server_bench.letters()
    assert letter["last_error"] == "outer saw 'on purpose'"


async def test_around_a_batch_handler_it_gets_the_list(server_bench: Bench) -> None:
    def first_only(messages: list[StreamMessage], call_next: CallNext) -> Any:
        return call_next(messages)[:1]

    await server_bench.push(1, 2)
    consumer = server_bench.consumer(
        lambda messages: [m.id for m in messages], middleware=[first_only]
    )
    await consumer.run_once()
    assert consumer.metrics().total_acked == 1


def drops_it(message: StreamMessage, call_next: CallNext) -> None:
    call_next(message)


async def never_awaits(message: StreamMessage, call_next: CallNext) -> None:
    call_next(message)


async def goes_first(message: StreamMessage, call_next: CallNext) -> None:
    asyncio.create_task(call_next(message))  # noqa: RUF006
    await asyncio.sleep(0)


@pytest.mark.parametrize("middleware", [drops_it, never_awaits, goes_first])
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
async def test_middleware_that_does_not_wait_for_the_handler_fails_the_message(
    server_bench: Bench, middleware: Any
) -> None:
    """It would be acknowledged before it has run, or as it runs."""

    async def slow(message: StreamMessage) -> None:
        await asyncio.sleep(30)

    await server_bench.push(1)
    consumer = server_bench.consumer(
        per_message(slow), middleware=[middleware], max_deliveries=1, dlq_stream=server_bench.dlq
    )
    await server_bench.drain(consumer)
    [letter] = await server_bench.letters()
    assert "has not run to its end" in letter["last_error"]


def yields(message: Any, call_next: CallNext) -> Any:
    yield


@pytest.mark.parametrize(
    ("middleware", "handler", "why"),
    [
        ([never_awaits], per_message(plain), "'never_awaits' is async, but handler 'plain'"),
        ([never_awaits], lambda messages: [], "is async, but handler '<lambda>' is a plain"),
        ([yields], per_message(coro), "'yields' has a 'yield'"),
        ([CallNext], per_message(plain), "must be a list of functions"),
        (7, per_message(plain), "must be a list of functions"),
    ],
)
def test_what_cannot_work_is_refused_where_it_is_declared(
    server_bench: Bench, middleware: Any, handler: Any, why: str
) -> None:
    with pytest.raises(ConfigError, match=why):
        stream_handler("orders", middleware=middleware)(handler)
    with pytest.raises(ConfigError, match=why):
        server_bench.consumer(handler, middleware=middleware)


def test_hooks_of_a_worker_are_functions() -> None:
    with pytest.raises(ConfigError, match="on_worker_start must be a function"):
        stream_handler("orders", on_worker_start=7)  # type: ignore[arg-type]
