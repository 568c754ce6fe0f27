"""The interface of ``popoto.streams.StreamConsumer`` over a consumer of ours.

For programs that were written for it: replace the import, and they run. What stays as it was and
what is better stands in docs/coming-from-popoto.md. New code is better off with
``redis_stream_queue.StreamConsumer``.
"""

from __future__ import annotations

import asyncio
import inspect
import os
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

from redis.exceptions import ResponseError

from ._options import DEFAULT_URL
from ._validate import Whole, check
from .client import StreamClient
from .config import ConsumerConfig
from .consumer import StreamConsumer as _StreamConsumer
from .exceptions import ConfigError
from .group import group_is_lost
from .message import StreamMessage

__all__ = ["StreamConsumer"]

FOR_EVER_MS = 24 * 3600 * 1000
THEIR_NAMES = {
    "group": "group_name",
    "worker_name": "consumer_name",
    "min_idle_claim_ms": "claim_timeout_ms",
    "dlq_max_len": "dead_letter_max_length",
    "stream": "stream_key",
}

Entry = tuple[str, dict[str, str]]


class StreamConsumer:
    """A member of a consumer group that hands whole batches of entries to an async handler.

    >>> async def handle(entries):
    ...     for entry_id, fields in entries:
    ...         print(entry_id, fields["kind"])
    >>> StreamConsumer("stream:orders", "billing", "worker-1", handle).run_sync()

    stream_key, group_name, consumer_name: names in Redis; each living consumer of a group needs a
        name of its own.
    handler: ``async def f(entries)`` with a list of ``(entry_id, {field: text})``. When it returns,
        all of them are acknowledged; when it raises, none is, and they come again.
    batch_size: most entries per call of the handler.
    block_ms: how long a read waits for new entries; 0 = until one comes.
    max_retries: how often an entry is delivered again after a failure. Then it moves to
        ``dead:<stream_key>``.
    claim_timeout_ms: wait before a failed entry comes again, and the silence after which another
        consumer counts as crashed.
    dead_letter_max_length: approximate length the dead-letter stream is cut to; None = keep all.
    client: where Redis is; by default what REDIS_URL says, else redis://localhost:6379/0.

    Raises ConfigError naming a wrong setting.
    """

    def __init__(
        self,
        stream_key: str,
        group_name: str,
        consumer_name: str,
        handler: Callable[[list[Entry]], Awaitable[Any]],
        batch_size: int = 50,
        block_ms: int = 5000,
        max_retries: int = 3,
        claim_timeout_ms: int = 180_000,
        dead_letter_max_length: int | None = None,
        *,
        client: StreamClient | None = None,
    ) -> None:
        check("max_retries", max_retries, Whole(0))
        self.stream_key = stream_key
        self.group_name = group_name
        self.consumer_name = consumer_name
        self.handler = handler
        self.batch_size = batch_size
        self.block_ms = block_ms
        self.max_retries = max_retries
        self.claim_timeout_ms = claim_timeout_ms
        self.dead_letter_max_length = dead_letter_max_length
        self._client = client or StreamClient.from_url(os.environ.get("REDIS_URL") or DEFAULT_URL)
        try:
            config = ConsumerConfig(
                group=group_name,
                worker_name=consumer_name,
                dlq_stream=f"dead:{stream_key}",
                dlq_max_len=dead_letter_max_length,
                batch_size=batch_size,
                block_ms=FOR_EVER_MS if block_ms == 0 else block_ms,
                min_idle_claim_ms=claim_timeout_ms,
                max_deliveries=max_retries + 1,
                payload_field=None,
            )
            self._member = _Member(self._client, stream_key, config, self._handle)
        except ConfigError as error:
            ours, _, rest = str(error).partition(" ")
            raise ConfigError(f"{THEIR_NAMES.get(ours, ours)} {rest}") from None

    async def _handle(self, messages: list[StreamMessage]) -> list[str]:
        result = self.handler([(message.id, message.data) for message in messages])
        if inspect.isawaitable(result):
            await result
        return [message.id for message in messages]

    async def process_batch(self) -> int:
        """Take over what is due, handle it; read new entries, handle them.

        Returns how many entries were handled and acknowledged. Raises what the handler raised,
        and starts nothing more then; its batch stays pending. Raises what Redis raises.
        """
        return await self._member.process_batch()

    def process_batch_sync(self) -> int:
        """``process_batch`` for code without an event loop."""
        return asyncio.run(self._closing(self._member.process_batch()))

    async def run(self) -> None:
        """Process batches until ``stop()`` or cancellation; failures are logged and waited out.

        A ``process_batch`` of a subclass is what is called again and again.
        """
        self._obey_subclass()
        await self._member.run()

    def run_sync(self) -> None:
        """``run`` for code without an event loop; ends on Ctrl-C, too."""
        self._obey_subclass()
        self._member.run_sync()

    def _obey_subclass(self) -> None:
        if getattr(self.process_batch, "__func__", None) is not StreamConsumer.process_batch:
            self._member.turn = self.process_batch

    def stop(self) -> None:
        """End ``run()`` after the batch that runs now. Safe from threads and signal handlers."""
        self._member.stop()

    async def _closing(self, call: Coroutine[Any, Any, int]) -> int:
        try:
            return await call
        finally:
            await self._member.disconnect()
            await self._client.close()


class _Member(_StreamConsumer):
    """A consumer whose single iteration is theirs: what is due first, up to the first failure."""

    def __init__(
        self,
        client: StreamClient,
        stream: str,
        config: ConsumerConfig,
        handler: Callable[[list[StreamMessage]], Awaitable[list[str]]],
    ) -> None:
        super().__init__(client, stream, config, self._noting_failures)
        self._handler = handler
        self._failures: list[BaseException] | None = None  # of this iteration; None = in run()
        self.turn: Callable[[], Awaitable[int]] | None = None  # of run(), if a subclass has its own
        self._in_flight.letters.letter = _letter

    async def _noting_failures(self, messages: list[StreamMessage]) -> list[str]:
        try:
            return await self._handler(messages)
        except BaseException as error:  # noted as it is, and raised
            if self._failures is not None:
                self._failures.append(error)
            raise

    async def process_batch(self) -> int:
        before = self._in_flight.meter.acked.total
        self._failures = []
        if self._loop is None:  # a stop() of before is over
            self._stopping = False
        try:
            try:
                await self.run_once()
            except ResponseError as error:
                if not group_is_lost(error):
                    raise
                await self.run_once()  # it is there again
            if self._failures:
                raise self._failures[0]
        finally:
            self._failures = None
        return self._in_flight.meter.acked.total - before

    def _way_to_turn(self) -> Callable[[], Awaitable[Any]]:
        return self.turn or super()._way_to_turn()

    async def _iterate(self) -> None:
        await self._ensure()
        await self._reclaiming.reclaim()
        if not self._failures:
            config = self.config
            await self._handle(await self._session.read(config.batch_size, config.block_ms))

    def _may_go_on(self) -> bool:
        return not self._failures and super()._may_go_on()

    async def disconnect(self) -> None:
        await self._session.close()


def _letter(ours: dict[str, str]) -> dict[str, str]:
    """What a dead letter says besides the fields of its entry."""
    return {
        "original_stream": ours["original_stream"],
        "original_id": ours["original_id"],
        "failure_count": ours["delivery_count"],
        "last_error": ours["last_error"],
        "dead_letter_ts": str(int(ours["dead_letter_ts"]) / 1000),
    }
