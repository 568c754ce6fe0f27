"""Brings in messages that the server has delivered to this consumer and that never arrived here.

Small entries come together, large ones one by one, so that one that does not arrive harms no other.
If an entry does not arrive alone either, though the server answers, this delivery has failed as if
a handler had failed it: the message waits for the next one, and after the last it is buried; the
server itself copies it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial

from .._clock import mono_ms
from .._log import logger
from ..connection.carrying import NotCarriedError, carry
from ..connection.exchange import OUTAGES
from ..message import StreamMessage
from .batch import Outcome, Verdict
from .in_flight import InFlight
from .pending import SMALL_BYTES, SeenEntry

log = logger(__name__)


class Stranded:
    """Brings in what is stranded under the name of ``in_flight``, a batch at a time."""

    def __init__(self, in_flight: InFlight) -> None:
        self._in_flight = in_flight
        self._policy = in_flight.config.policy
        self._one_by_one = False  # several did not arrive together

    async def batch(self, count: int) -> list[StreamMessage]:
        """Up to ``count`` of these messages, the small ones first; buries those that are dead.

        The last permitted delivery of a message comes alone.
        """
        in_flight = self._in_flight
        offers = await in_flight.stranded()
        sizes = await in_flight.pending.sizes([offer.id for offer in offers])
        offers.sort(key=lambda offer: sizes[offer.id])
        dead = [offer for offer in offers if offer.seen_count > self._policy.max_deliveries]
        await in_flight.bury(dead)
        offers = [offer for offer in offers if offer not in dead]
        chosen = self._chosen(offers, sizes, count)
        messages = await self._bring_in(chosen, sizes)
        in_flight.unsure = len(chosen) < len(offers)
        self._one_by_one &= in_flight.unsure
        return messages

    def _chosen(
        self, offers: Sequence[SeenEntry], sizes: Mapping[str, int], count: int
    ) -> Sequence[SeenEntry]:
        """The first entry, and if it is small, those after it that are small, too."""
        size = 0
        for index, offer in enumerate(offers):
            size += sizes[offer.id]
            one_too_many = index and (self._one_by_one or index >= count or size > SMALL_BYTES)
            if one_too_many or self._policy.is_last(offer.new_count):
                return offers[: max(index, 1)]
        return offers

    async def _bring_in(
        self, offers: Sequence[SeenEntry], sizes: Mapping[str, int]
    ) -> list[StreamMessage]:
        in_flight = self._in_flight
        if len(offers) != 1:
            try:
                return await in_flight.take(offers)
            except OUTAGES:
                self._one_by_one = True
                raise
        [offer] = offers
        await in_flight.settle()  # what breaks there is not its fault
        pending = in_flight.pending
        link, key = pending.client.link(), pending.client.key(pending.stream)
        try:
            return await carry(link, key, sizes[offer.id], partial(in_flight.take, offers))
        except NotCarriedError as error:
            await self._failed(offer, str(error))
            return []

    async def _failed(self, offer: SeenEntry, why: str) -> None:
        """Note that this delivery has failed."""
        in_flight = self._in_flight
        log.warning(
            "message %s of stream %s: %s; delivery %d of %d",
            offer.id,
            in_flight.pending.stream,
            why,
            offer.new_count,
            self._policy.max_deliveries,
        )
        message = StreamMessage(offer.id, b"", offer.new_count)
        in_flight.hold([message], mono_ms(), count=False)
        in_flight.unsettled.note([message], Verdict(Outcome.RETRY, why))
        await in_flight.settle()
