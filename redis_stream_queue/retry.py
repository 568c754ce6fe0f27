"""RetryHandler: finds messages that have used up their deliveries and gives them to a handler."""

from __future__ import annotations

import asyncio
from functools import partial

from ._validate import Function, Maybe, Text, check
from .client import StreamClient, check_client
from .config import ConsumerConfig
from .delivery.fate import Fate, Owner
from .delivery.in_flight import InFlight
from .delivery.sightings import LOOK_MS, LOOKS
from .delivery.sweep import Sweep, offer
from .handlers import DLQHandler
from .message import PendingEntry, StreamMessage
from .serializers import JsonSerializer, Serializer, for_stream


class RetryHandler:
    """Sweeps poison pills for code that has no StreamConsumer (a consumer does it by itself).

    client, stream, group: where the pending messages are.
    max_deliveries: deliveries before a message is dead. batch_size: entries looked at in one step.
    serializer: how the payload is decoded for the dlq_handler; JSON by default.
    dlq_handler: called with each dead message and the reason; then the message is acknowledged.
    min_idle_ms: a message whose holder has renewed it within this time is left to that consumer.
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
        check_client(client)
        check("stream", stream, Text())
        check("dlq_handler", dlq_handler, Maybe(Function()))
        self._config = ConsumerConfig(
            group=group,
            max_deliveries=max_deliveries,
            batch_size=batch_size,
            min_idle_claim_ms=min_idle_ms,
        )
        self._in_flight = partial(
            InFlight,
            client,
            stream,
            self._config,
            dlq_handler=dlq_handler,
            serializer=for_stream(serializer or JsonSerializer(), client.key(stream)),
        )

    async def handle_poison_pills(self) -> int:
        """Bury messages that have used up their deliveries and are abandoned; returns how many."""
        in_flight, policy = self._in_flight(), self._config.policy
        sweep = Sweep(in_flight.pending, policy, _stranger)
        looks = 0
        try:
            while True:
                due = await sweep.page(self._config.batch_size)
                await in_flight.bury([offer(e, f, policy) for e, f in due if f is Fate.BURY])
                if sweep.at_start:
                    looks += 1
                    if not sweep.unwatched or looks == LOOKS:
                        break
                    await asyncio.sleep(LOOK_MS / 1000)
            await in_flight.leave()
        finally:
            in_flight.leases.close()
        return in_flight.meter.dlq

    async def send_to_dlq(self, message: StreamMessage, reason: str) -> None:
        """Call the dlq_handler with a message; what it raises is logged.

        reason: what the handler is told, as in ``"max_deliveries"``.
        """
        await self._in_flight().letters.tell_handler(message, reason)


def _stranger(_: PendingEntry) -> Owner:
    return Owner.STRANGER
