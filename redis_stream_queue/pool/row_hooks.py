"""RowHooks: keeps a worker's shared row, and tells the master what it should know at once."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from .._clock import mono_ms
from ..hooks import Hooks
from ..message import StreamMessage, id_key
from ..metrics import ConsumerMeter
from ..work import Verdict, Work
from .protocol import MAX_ERROR, Message, Released, Retrying
from .rows import Field, Row

OVERRUN_MS = 100  # a message that runs longer lets the rest of its batch go to others


class RowHooks(Hooks):
    """Keeps this worker's shared row, and tells the master what it should know at once."""

    def __init__(self, row: Row, send: Callable[[Message], None], *, gives_back: bool) -> None:
        self.row = row
        self._send = send
        self._gives_back = gives_back
        self._message_since_ms = 0
        self._running: dict[str, int] = {}  # when what runs was started, the oldest first

    def batch_started(self, messages: Sequence[StreamMessage]) -> None:
        row = self.row
        ids = sorted((m.id for m in messages), key=id_key)
        row.set_id(Field.FIRST_MS, ids[0])
        row.set_id(Field.LAST_MS, ids[-1])
        row[Field.CURRENT_MS] = row[Field.CURRENT_SEQ] = 0
        row[Field.HELD] = len(ids)
        row[Field.MESSAGE_SINCE] = 0
        row[Field.RENEWED_AT] = self._message_since_ms = mono_ms()
        row[Field.BUSY_SINCE] = row[Field.RENEWED_AT]

    def message_started(self, message: StreamMessage) -> None:
        self.row.set_id(Field.CURRENT_MS, message.id)
        self._message_since_ms = self._running[message.id] = mono_ms()
        if len(self._running) == 1:
            self.row[Field.MESSAGE_SINCE] = self._message_since_ms

    def message_finished(self, message: StreamMessage) -> None:
        self._running.pop(message.id, None)
        self.row[Field.MESSAGE_SINCE] = next(iter(self._running.values()), 0)

    def batch_finished(self) -> None:
        self._running.clear()
        self.row[Field.BUSY_UNTIL] = mono_ms()
        self.row[Field.BUSY_SINCE] = 0
        self.row[Field.BATCHES] += 1

    def tending(self, work: Work) -> list[StreamMessage]:
        if not self._gives_back or mono_ms() - self._message_since_ms < OVERRUN_MS:
            return []
        return work.withdraw()

    def renewed(self) -> None:
        self.row[Field.RENEWED_AT] = mono_ms()

    def counted(self, meter: ConsumerMeter) -> None:
        row = self.row
        row[Field.READ] = meter.read.total
        row[Field.ACKED] = meter.acked.total
        row[Field.ERRORS] = meter.errors
        row[Field.DEAD] = meter.dlq

    def retrying(self, message: StreamMessage, verdict: Verdict, delay_ms: int) -> None:
        self._send(Retrying(message.id, verdict.error[:MAX_ERROR], delay_ms))

    def released(self, count: int) -> None:
        self._send(Released(count))
