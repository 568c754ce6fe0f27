"""RetryHandler buries, for programs without a consumer, what has used up its deliveries."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from redis_stream_queue import (
    ConfigError,
    MsgpackSerializer,
    RetryHandler,
    StreamClient,
    StreamMessage,
)
from tests.library.kit import GROUP, Bench, RecordingHandler

OLD_MS = 60_000


class RecordingDLQHandler:
    """A dlq_handler that notes what it is told, and can fail."""

    def __init__(self) -> None:
        self.told: list[tuple[str, Any, str]] = []
        self.fails = False

    async def __call__(self, message: StreamMessage, reason: str) -> None:
        if self.fails:
            raise OSError("the disk is full")
        self.told.append((message.id, message.data, reason))


def handler_of(bench: Bench, dlq_handler: Any = None, **options: Any) -> RetryHandler:
    return RetryHandler(bench.client, bench.stream, GROUP, dlq_handler=dlq_handler, **options)


async def used_up(bench: Bench, *payloads: Any, count: int = 3) -> list[str]:
    """Messages that a dead consumer was given so often."""
    ids = await bench.push(*payloads)
    await bench.deliver("gone", len(ids))
    for entry_id in ids:
        await bench.set_pending(entry_id, "gone", OLD_MS, count)
    return ids


class TestPoisonPills:
    async def test_are_told_and_acknowledged(self, bench: Bench) -> None:
        dlq_handler = RecordingDLQHandler()
        ids = await used_up(bench, {"n": 1}, {"n": 2})
        assert await handler_of(bench, dlq_handler).handle_poison_pills() == 2
        assert dlq_handler.told == [
            (entry_id, {"n": n}, "max_deliveries") for n, entry_id in enumerate(ids, 1)
        ]
        assert await bench.pending() == {}
        assert await handler_of(bench, dlq_handler).handle_poison_pills() == 0

    async def test_others_are_left_alone(self, bench: Bench) -> None:
        """Deliveries left, in somebody's hands, or waiting for a retry."""
        dlq_handler = RecordingDLQHandler()
        young, busy, parked = await used_up(bench, "young", "busy", "parked")
        await bench.set_pending(young, "gone", OLD_MS, 2)
        await bench.set_pending(busy, "busy", 0, 3)
        await bench.set_pending(parked, f"{GROUP}:retry:65536", 100, 3)
        before = await bench.pending()
        assert await handler_of(bench, dlq_handler).handle_poison_pills() == 0
        assert (dlq_handler.told, await bench.pending()) == ([], before)

    async def test_more_than_a_batch(self, bench: Bench) -> None:
        """Also behind pages on which nothing is due."""
        dlq_handler = RecordingDLQHandler()
        ids = await used_up(bench, *range(25))
        for entry_id in ids[:7]:
            await bench.set_pending(entry_id, "busy", 0, 3)
        assert await handler_of(bench, dlq_handler, batch_size=3).handle_poison_pills() == 18
        assert [told[0] for told in dlq_handler.told] == ids[7:]

    async def test_max_deliveries(self, bench: Bench) -> None:
        await used_up(bench, 1, count=5)
        assert (
            await handler_of(bench, RecordingDLQHandler(), max_deliveries=6).handle_poison_pills()
            == 0
        )
        assert (
            await handler_of(bench, RecordingDLQHandler(), max_deliveries=5).handle_poison_pills()
            == 1
        )

    async def test_handler_that_fails_is_asked_again(
        self, bench: Bench, warnings_logged: pytest.LogCaptureFixture
    ) -> None:
        """The message stays pending and is offered again at the next sweep, with its reason."""
        dlq_handler = RecordingDLQHandler()
        [entry_id] = await used_up(bench, {"n": 1})
        handler = handler_of(bench, dlq_handler)
        dlq_handler.fails = True
        assert await handler.handle_poison_pills() == 0
        assert "the disk is full" in warnings_logged.text
        assert set(await bench.pending()) == {entry_id}
        dlq_handler.fails = False

        async def buried() -> bool:
            return await handler.handle_poison_pills() == 1

        await bench.until(buried, "it is offered again")
        assert dlq_handler.told == [(entry_id, {"n": 1}, "max_deliveries")]
        assert await bench.pending() == {}

    async def test_without_a_handler(
        self, bench: Bench, warnings_logged: pytest.LogCaptureFixture
    ) -> None:
        """A warning that names the ids, and they are acknowledged."""
        ids = await used_up(bench, 1, 2)
        assert await handler_of(bench).handle_poison_pills() == 2
        assert all(entry_id in warnings_logged.text for entry_id in ids)
        assert await bench.pending() == {}

    async def test_deleted_entry(
        self, bench: Bench, warnings_logged: pytest.LogCaptureFixture
    ) -> None:
        """A warning that names it, acknowledged, and nobody is told."""
        dlq_handler = RecordingDLQHandler()
        gone, there = await used_up(bench, 1, 2)
        await bench.client.command("XDEL", bench.stream, gone)
        await handler_of(bench, dlq_handler).handle_poison_pills()
        assert [told[0] for told in dlq_handler.told] == [there]
        assert gone in warnings_logged.text
        assert await bench.pending() == {}

    async def test_payload_that_does_not_decode(self, bench: Bench) -> None:
        """The handler gets the raw bytes."""
        dlq_handler = RecordingDLQHandler()
        await bench.add_raw({"data": b"{no json"})
        [entry_id] = await bench.deliver("gone")
        await bench.set_pending(entry_id, "gone", OLD_MS, 3)
        assert await handler_of(bench, dlq_handler).handle_poison_pills() == 1
        assert dlq_handler.told == [(entry_id, b"{no json", "max_deliveries")]

    async def test_serializer(self, bench: Bench) -> None:
        dlq_handler = RecordingDLQHandler()
        await bench.add_raw({"data": MsgpackSerializer().encode({"n": 1})})
        [entry_id] = await bench.deliver("gone")
        await bench.set_pending(entry_id, "gone", OLD_MS, 3)
        handler = handler_of(bench, dlq_handler, serializer=MsgpackSerializer())
        await handler.handle_poison_pills()
        assert dlq_handler.told == [(entry_id, {"n": 1}, "max_deliveries")]

    async def test_two_at_once(self, bench: Bench) -> None:
        """Each message is told once."""
        dlq_handler = RecordingDLQHandler()
        ids = await used_up(bench, *range(30))
        handlers = [handler_of(bench, dlq_handler, batch_size=4) for _ in range(3)]
        counts = await asyncio.gather(*(h.handle_poison_pills() for h in handlers))
        assert sum(counts) == 30
        assert sorted(told[0] for told in dlq_handler.told) == sorted(ids)

    async def test_what_it_has_begun_no_handler_gets_any_more(self, bench: Bench) -> None:
        """Also where it ends in the middle, and consumers permit more deliveries."""
        began, handler = asyncio.Event(), RecordingHandler()

        async def hangs(message: StreamMessage, reason: str) -> None:
            began.set()
            await asyncio.sleep(60)

        [entry_id] = await used_up(bench, {"n": 1})
        await bench.set_pending(entry_id, f"{GROUP}:retry:1", OLD_MS, 3)
        burying = asyncio.create_task(handler_of(bench, hangs).handle_poison_pills())
        async with asyncio.timeout(5):
            await began.wait()
        burying.cancel()
        await asyncio.wait([burying])
        assert burying.cancelled()
        [(_, count)] = (await bench.pending()).values()
        await bench.set_pending(entry_id, f"{GROUP}:retry:1", OLD_MS, count)
        await bench.consumer(handler, max_deliveries=9, dlq_stream=bench.dlq).run_once()
        assert handler.batches == []
        [letter] = await bench.letters()
        assert (letter["reason"], letter["delivery_count"]) == ("max_deliveries", "3")

    async def test_slow_handler_is_not_asked_by_a_second_one(self, bench: Bench) -> None:
        told: list[str] = []

        async def slow(message: StreamMessage, reason: str) -> None:
            told.append(message.id)
            await asyncio.sleep(0.8)

        [entry_id] = await used_up(bench, {"n": 1})
        await bench.set_pending(entry_id, f"{GROUP}:retry:1", OLD_MS, 3)
        first, second = (handler_of(bench, slow, min_idle_ms=200) for _ in "12")
        burying = asyncio.create_task(first.handle_poison_pills())
        await bench.until(lambda: told, "it is told")
        while not burying.done():
            await second.handle_poison_pills()
        assert (await burying, told) == (1, [entry_id])

    async def test_leaves_no_consumer_behind(self, bench: Bench) -> None:
        await used_up(bench, 1)
        before = set(await bench.consumers())
        for _ in range(3):
            await handler_of(bench, RecordingDLQHandler()).handle_poison_pills()
        assert set(await bench.consumers()) == before


class TestSendToDlq:
    async def test_calls_the_handler(self, bench: Bench) -> None:
        dlq_handler = RecordingDLQHandler()
        message = StreamMessage("1-1", {"n": 1})
        await handler_of(bench, dlq_handler).send_to_dlq(message, "rejected")
        assert dlq_handler.told == [("1-1", {"n": 1}, "rejected")]

    async def test_never_raises(
        self, bench: Bench, warnings_logged: pytest.LogCaptureFixture
    ) -> None:
        dlq_handler = RecordingDLQHandler()
        dlq_handler.fails = True
        await handler_of(bench, dlq_handler).send_to_dlq(StreamMessage("1-1", b"x"), "rejected")
        await handler_of(bench).send_to_dlq(StreamMessage("1-2", b"x"), "rejected")
        assert "1-1" in warnings_logged.text
        assert "the disk is full" in warnings_logged.text


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("max_deliveries", 0),
        ("batch_size", 0),
        ("group", ""),
        ("stream", ""),
        ("max_deliveries", "3"),
        ("dlq_handler", 5),
    ],
)
def test_wrong_arguments(name: str, value: Any) -> None:
    """ConfigError naming the argument."""
    arguments: dict[str, Any] = {"stream": "s", "group": GROUP, name: value}
    with pytest.raises(ConfigError, match=name):
        RetryHandler(StreamClient(), **arguments)
