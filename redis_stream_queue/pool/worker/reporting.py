"""ReportingHooks: keeps a worker's shared row, and tells the master what it should know at once."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

from ..._clock import mono_ms
from ..._plain import plain_cut
from ...delivery import current
from ...delivery.batch import Batch, Verdict, one_line
from ...delivery.hooks import Hooks
from ...delivery.rules import AS_CONFIGURED, Rules, RulesOf
from ...message import StreamMessage, id_key
from ...metrics import ConsumerMeter
from .._linux import memory_mb
from ..failures import MOST_KIND, MOST_KINDS, OTHERS
from ..protocol import MAX_ERROR, Buried, Failed, Message, Released, Retrying
from ..scoreboard import NO_ID, Field, Row
from ..standard_streams import StandardStreams
from .stopwatch import Stopwatch

OVERRUN_MS = 100  # a message runs for so long: the rest is given back if a worker is idle
LONG_OVERRUN_MS = 250  # for so long: in any case, as a worker of another host may be idle
_note_handled = current.handled.set


class ReportingHooks(Hooks):
    """Keeps this worker's shared row, and tells the master what it should know at once.

    send: to the master. side_by_side: several messages run at a time. whole_batch: the handler is
    called with a whole batch. rules_of: returns the rules of a message, None = there are none.
    time_limit_s: of messages whose rules have none.
    """

    def __init__(
        self,
        row: Row,
        send: Callable[[Message], None],
        streams: StandardStreams,
        *,
        side_by_side: bool = False,
        whole_batch: bool = False,
        rules_of: RulesOf | None = None,
        time_limit_s: float | None = None,
    ) -> None:
        self.row = row
        self._start = row.start
        self._whole_batch = whole_batch
        self._batch_ids = ""
        self._send = send
        self._streams = streams
        self._side_by_side = side_by_side
        self._stopwatch = watch = Stopwatch(row)
        self._note_start = watch.started.append
        self._note_task = watch.tasks.append
        self._tick = watch.tick_batch if whole_batch else watch.tick
        if side_by_side:
            self._tick = watch.tick_side_by_side
        self._rules_of = rules_of
        self._limit_ms = round((time_limit_s or 0) * 1000)
        self._batches = 0
        self._counts: Counter[Field] = Counter()
        self._shown: Rules | None = None  # the rules that the row has now; None = none, or old ones
        self._looked = False  # were the standard streams checked since the last message?
        self._running: dict[str, tuple[int, Rules]] = {}  # start and rules by id, oldest first

    def receiving(self) -> None:
        self.row[Field.READ_AT] = mono_ms()

    def batch_started(self, messages: Sequence[StreamMessage], now_ms: int) -> None:
        first, last = messages[0].id, messages[-1].id
        if self._rules_of is not None:
            self.row.rule(0, 0, 0, alone=False)
            self._shown = None
        self.row.begin(first, last, len(messages), now_ms)
        self._stopwatch.since_ms = now_ms
        if self._whole_batch:
            self._batch_ids = first if first == last else f"{first}..{last}"
            self._stopwatch.batch = messages

    def batch_waits(self) -> None:
        self.row[Field.MESSAGE_SINCE] = 0

    def batch_grows(self, messages: Sequence[StreamMessage], held: int) -> None:
        row = self.row
        first, last = messages[0].id, messages[-1].id
        if id_key(first) < id_key(row.id(Field.FIRST)):
            row.set_id(Field.FIRST, first)
        if id_key(last) > id_key(row.id(Field.LAST)):
            row.set_id(Field.LAST, last)
        row[Field.HELD] = held
        row[Field.READ_AT] = row[Field.BUSY_SINCE] = mono_ms()
        self._count_batch()

    def _count_batch(self) -> None:
        self._batches += 1  # as with _count
        self.row[Field.BATCHES] = self._batches

    def message_started(self, message: StreamMessage, now_ms: int) -> None:
        if now_ms != self._stopwatch.since_ms:
            self._tick(now_ms)
        self._note_start(message)
        if now_ms >= self._streams.next_ms and not self._looked:
            self._streams.look(now_ms)
        self._looked = False
        if self._rules_of is None and not self._side_by_side:
            _note_handled(self._batch_ids or message.id)
            self._start(message.id, now_ms)
            return
        rules = AS_CONFIGURED if self._rules_of is None else self._rules_of(message)
        _note_handled((message, rules, now_ms))
        if self._rules_of is not None:
            self._note_task(rules.number)
        if self._side_by_side:
            self._running[message.id] = now_ms, rules
            self._show_oldest()
            return
        if rules is self._shown:
            self._start(message.id, now_ms)
        else:
            self._show(message.id, now_ms, rules)

    def message_finished(self, message: StreamMessage) -> None:
        if (started := self._running.pop(message.id, None)) is not None:
            since_ms, rules = started
            self._stopwatch.ended(since_ms, rules.number if self._rules_of else None)
        self._show_oldest()

    def _show(self, entry_id: str, since_ms: int, rules: Rules) -> None:
        if rules is not AS_CONFIGURED and rules is not self._shown:
            most = rules.max_deliveries or 0
            self.row.rule(self._limit_of(rules), most, rules.number, alone=rules.alone)
            self._shown = rules
        self._start(entry_id, since_ms)

    def _limit_of(self, rules: Rules) -> int:
        """The time limit in ms, 0 = none."""
        own_s = rules.time_limit_s
        return self._limit_ms if own_s is None else max(round(own_s * 1000), 1)

    def _show_oldest(self) -> None:
        """Write into the row which of several running messages the master should look at.

        It is the one that has to end first by its time limit, else the one that was started first.
        """
        ending = []
        if self._rules_of is not None:
            ending = [
                (since_ms + limit_ms, entry_id)
                for entry_id, (since_ms, rules) in self._running.items()
                if (limit_ms := self._limit_of(rules))
            ]
        for entry_id in [min(ending)[1]] if ending else self._running:
            self._show(entry_id, *self._running[entry_id])
            return
        self.row[Field.MESSAGE_SINCE] = 0

    def batch_finished(self) -> None:
        self._running.clear()
        self._streams.open_again()
        self._looked = True
        self.row[Field.MESSAGE_SINCE] = 0
        self.row[Field.BUSY_UNTIL] = now_ms = mono_ms()
        self._tick(now_ms)
        self.row[Field.BUSY_SINCE] = 0
        self._count_batch()
        self._weigh_first()

    def _weigh_first(self) -> None:
        """Note the memory in use after the first message: the app may have loaded a model in it."""
        if not self.row[Field.OWN_MB] and self.row.id(Field.CURRENT) != NO_ID:
            self.row[Field.OWN_MB] = max(round(memory_mb() or 0), 1)

    @property
    def overruns(self) -> bool:
        """Has a message run for so long that others should not wait behind it?"""
        return self.runs_ms() >= OVERRUN_MS and not self._side_by_side

    def runs_ms(self) -> int:
        """How long the message that was started last has been running."""
        return mono_ms() - self._stopwatch.since_ms

    def tending(self, batch: Batch) -> None:
        self._streams.open_again()  # before a read or a new connection
        if batch.handled:
            self._weigh_first()

    def renewed(self) -> None:
        self.row[Field.RENEWED_AT] = mono_ms()

    def acknowledging(self, entry_id: str, total: int) -> None:
        self.row.set_id(Field.ACKING, entry_id)  # before the total, which makes it count
        self.row[Field.ACKING_TOTAL] = total

    def burying(self, entry_id: str, total: int) -> None:
        self.row.set_id(Field.BURYING, entry_id)
        self.row[Field.BURYING_TOTAL] = total

    def buried(self, reason: str) -> None:
        self._send(Buried(reason))

    def failed(self, errors: Sequence[tuple[BaseException, list[StreamMessage]]]) -> None:
        self._streams.open_again()  # the handler may have closed the stream of the log
        if self._rules_of is not None:
            for _, messages in errors:
                for message in messages:
                    self.row.task_failed(self._rules_of(message).number)
        kinds: dict[str, list[Any]] = {}
        for error, messages in errors:
            kind = plain_cut(type(error).__name__, MOST_KIND)
            if kind not in kinds and len(kinds) >= MOST_KINDS:
                kind = OTHERS
            kinds.setdefault(kind, [kind, one_line(error), messages[0].id, 0])[-1] += 1
        self._send(Failed(list(kinds.values())))

    def counted(self, meter: ConsumerMeter) -> None:
        row = self.row
        row[Field.READ] = meter.read.total
        row[Field.ACKED] = meter.acked.total
        row[Field.ERRORS] = meter.errors
        row[Field.EXPIRED] = meter.expired
        row[Field.DEAD] = row[Field.BURYING_TOTAL] = meter.dlq

    def retrying(self, message: StreamMessage, verdict: Verdict, delay_ms: int) -> None:
        self._count(Field.RETRIED)
        self._send(Retrying(message.id, verdict.error[:MAX_ERROR], delay_ms))

    def released(self, count: int) -> None:
        self._count(Field.RELEASED, count)
        self._send(Released())

    def redis_failed(self) -> None:
        self._count(Field.REDIS_ERRORS)

    def _count(self, field: Field, count: int = 1) -> None:
        self._counts[field] += count  # not in the row, where the app may write anything
        self.row[field] = self._counts[field]
