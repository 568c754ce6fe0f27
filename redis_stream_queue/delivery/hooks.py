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
        """A batch, in the order of the ids, was read; it is decoded and handled next (in the loop's
        thread)."""

    def batch_waits(self) -> None:
        """The payloads are decoded, but Redis is asked for something before handling begins."""

    def batch_grows(self, messages: Sequence[StreamMessage], held: int) -> None:
        """More messages were read while a batch is handled; it has ``held`` messages now."""

    def message_started(self, message: StreamMessage, now_ms: int) -> None:
        """A message is about to be handled (in the handler's thread)."""

    def message_finished(self, message: StreamMessage) -> None:
        """A message has ended (in the handler's thread); called only if several run at a time."""

    def batch_finished(self) -> None:
        """The batch has been handled."""

    def tending(self, batch: Batch) -> None:
        """Called every 50 ms while a handler runs."""

    def renewed(self) -> None:
        """The leases were renewed."""

    def redis_failed(self) -> None:
        """Redis did not answer, or refused; it is asked again."""

    def acknowledging(self, entry_id: str, total: int) -> None:
        """Acknowledgements are sent now with one command, that of ``entry_id`` among them. When
        Redis has confirmed them, ``total`` are counted."""

    def burying(self, entry_id: str, total: int) -> None:
        """This message is about to be moved to the dead letters, the ``total``-th one."""

    def buried(self, reason: str) -> None:
        """A message was moved to the dead letters, or dropped if there is no dead-letter stream."""

    def failed(self, errors: Sequence[tuple[BaseException, list[StreamMessage]]]) -> None:
        """Calls of the handler have raised; the error_hook is called next. errors: each error with
        the messages of its call."""

    def counted(self, meter: ConsumerMeter) -> None:
        """Counters have changed."""

    def retrying(self, message: StreamMessage, verdict: Verdict, delay_ms: int) -> None:
        """A message failed and waits for its next delivery."""

    def released(self, count: int) -> None:
        """``count`` messages were given back unstarted."""
