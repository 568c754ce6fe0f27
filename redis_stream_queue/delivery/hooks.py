"""What a session tells its surroundings: a pool's worker listens, a StreamConsumer need not."""

from __future__ import annotations

from collections.abc import Sequence

from ..message import StreamMessage
from ..metrics import ConsumerMeter
from .batch import Batch, Verdict


class Hooks:
    """What a session tells its surroundings; every method may be left out."""

    def receiving(self) -> None:
        """A long answer is arriving."""

    def batch_started(self, messages: Sequence[StreamMessage], now_ms: int) -> None:
        """A batch, in the order of the ids, was read and is about to be decoded and handled (in
        the loop's thread)."""

    def batch_waits(self) -> None:
        """Its payloads are decoded, but something is to be asked for before handling begins."""

    def batch_grows(self, messages: Sequence[StreamMessage], held: int) -> None:
        """More were read while it is handled, and are about to be decoded; ``held`` in all."""

    def message_started(self, message: StreamMessage, now_ms: int) -> None:
        """A message is about to be handled (in the handler's thread)."""

    def message_finished(self, message: StreamMessage) -> None:
        """Its verdict is known (in the handler's thread); only where several run side by side."""

    def batch_finished(self) -> None:
        """Nothing is being handled any more."""

    def tending(self, batch: Batch) -> None:
        """Called every 50 ms while a handler runs."""

    def renewed(self) -> None:
        """The leases are fresh."""

    def redis_failed(self) -> None:
        """Redis did not answer, or refused; it is asked again."""

    def acknowledging(self, entry_id: str, total: int) -> None:
        """Redis is about to hear of acknowledgements, of all at once, this id's among them; once
        it has, ``total`` are counted."""

    def burying(self, entry_id: str, total: int) -> None:
        """This message is about to be moved to the dead letters, the ``total``-th one."""

    def buried(self, reason: str) -> None:
        """One was moved to the dead letters, or dropped where there are none."""

    def failed(self, errors: Sequence[tuple[BaseException, list[StreamMessage]]]) -> None:
        """Calls of the handler have raised; each error and what was called for, which is about to
        be told."""

    def counted(self, meter: ConsumerMeter) -> None:
        """Counters moved."""

    def retrying(self, message: StreamMessage, verdict: Verdict, delay_ms: int) -> None:
        """A message failed and waits for its next delivery."""

    def released(self, count: int) -> None:
        """So many messages were given back unstarted."""
