"""RetryHandler: finds what has used up its deliveries and carries it to a handler."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Sequence
from functools import partial

from redis.exceptions import ResponseError

from ._log import logger
from ._names import worker_name
from ._validate import Text, check
from .client import StreamClient
from .config import ConsumerConfig
from .connection.carrying import NotCarriedError, carry
from .connection.link import OUTAGES
from .delivery.burial_mark import MAX_DELIVERIES
from .delivery.dead_letter import Burial
from .delivery.fate import Fate, Owner
from .delivery.pending import PendingList, SeenEntry
from .delivery.sightings import LOOK_MS, LOOKS
from .delivery.sweep import Sweep, offer
from .handlers import DLQHandler
from .message import PendingEntry, StreamMessage
from .serializers import JsonSerializer, Serializer, for_stream

log = logger(__name__)


class RetryHandler:
    """Sweeps poison pills for code that has no StreamConsumer (a consumer does it by itself).

    client, stream, group: where the pending messages are.
    max_deliveries: deliveries before a message is dead. batch_size: entries looked at in one step.
    serializer: how the payload is decoded for the dlq_handler; JSON by default.
    dlq_handler: called with each dead message and the reason; then the message is acknowledged.
    min_idle_ms: a message that somebody has held for a shorter time is in that consumer's hands.
    """

    def __init__(
        self,
        client: StreamClient,
        stream: str,
        group: str,
        dlq_handler: DLQHandler | None = None,
        max_deliveries: int = 3,
        batch_size: int = 100,
        serializer: Serializer | None = None,
        min_idle_ms: int = 10_000,
    ) -> None:
        check("stream", stream, Text())
        self._config = ConsumerConfig(
            group=group,
            max_deliveries=max_deliveries,
            batch_size=batch_size,
            min_idle_claim_ms=min_idle_ms,
        )
        self._pending = PendingList(client, stream, group)
        self._burial = Burial(
            self._pending,
            dlq_stream=None,
            dlq_max_len=None,
            dlq_handler=dlq_handler,
            serializer=for_stream(serializer or JsonSerializer(), client.key(stream)),
            max_deliveries=max_deliveries,
        )

    async def handle_poison_pills(self) -> int:
        """Bury what has used up its deliveries and is in nobody's hands; returns how many."""
        policy = self._config.policy
        sweep = Sweep(self._pending, policy, _stranger)
        name = worker_name(self._config.group, socket.gethostname())
        buried = looks = 0
        while True:
            due = await sweep.page(self._config.batch_size)
            offers = [offer(entry, f, policy) for entry, f in due if f is Fate.BURY]
            messages, gone = await self._take(name, offers)
            if gone:
                log.warning("dead message(s) were already deleted, acknowledged: %s", gone[:5])
            done = [m.id for m in messages if await self._burial.hand_out(m, MAX_DELIVERIES, name)]
            await self._pending.ack(done)
            buried += len(done)
            if sweep.at_start:
                looks += 1
                if not sweep.unwatched or looks == LOOKS:
                    break
                await asyncio.sleep(LOOK_MS / 1000)
        await self._pending.prune(name)
        return buried

    async def _take(
        self, name: str, offers: Sequence[SeenEntry]
    ) -> tuple[list[StreamMessage], list[str]]:
        """With their payloads, but for what cannot be read in: that is empty."""
        pending = self._pending
        try:
            return await pending.take(name, offers)
        except ResponseError:
            raise
        except (*OUTAGES, MemoryError):  # together they are too large, perhaps
            ours = {entry.id for entry in await pending.held_by(name)}
        link, key = pending.client.link(), pending.client.key(pending.stream)
        sizes = await pending.sizes([offer.id for offer in offers])
        messages: list[StreamMessage] = []
        gone: list[str] = []
        for seen in offers:
            mine = SeenEntry(seen.id, name, seen.new_count, 0, seen.new_count)
            take = partial(pending.take, name, [mine if seen.id in ours else seen])
            try:
                taken = await carry(link, key, sizes[seen.id], take, 1)
            except NotCarriedError as error:
                self._burial.remember(seen.id, str(error))
                taken = await pending.take(name, [mine], carried=False)
            messages += taken[0]
            gone += taken[1]
        return messages, gone

    async def send_to_dlq(self, message: StreamMessage, reason: str) -> None:
        """Call the dlq_handler with a message; what it raises is logged.

        reason: what the handler is told, as in ``"max_deliveries"``.
        """
        await self._burial.tell_handler(message, reason)


def _stranger(_: PendingEntry) -> Owner:
    return Owner.STRANGER
