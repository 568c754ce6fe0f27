"""How long messages waited and how long handling them took, into the histograms of a row.

Handlers of short messages start thousands of them a second, so what started in one ms is counted
together: those before the last took less than 1 ms, and the last one until the next one starts.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from ..._clock import mono_ms, wall_ms
from ...message import StreamMessage
from ..histogram import HANDLING, WAITING, bucket
from ..scoreboard import Row


class Stopwatch:
    """Times the messages of one worker. Times are ms of mono_ms().

    started: what started at ``since_ms`` and is not counted yet; to be appended to. tasks: the
    numbers of their tasks, where a queue runs them one after the other; likewise. batch: what a
    call for a whole batch is about; its first message is started, then.
    """

    def __init__(self, row: Row) -> None:
        self.started: list[StreamMessage] = []
        self.tasks: list[int] = []
        self.batch: Sequence[StreamMessage] = ()
        self.since_ms = 0
        self._row = row

    def tick(self, now_ms: int) -> None:
        """Count what was started before; one after the other is handled."""
        if self.started:
            self._row.lasted(HANDLING, now_ms - self.since_ms)
            if (others := len(self.started) - 1) > 0:
                self._row.lasted(HANDLING, 0, others)
            if self.tasks:
                self._count_tasks(now_ms - self.since_ms)
            self.waited(self.started, now_ms - self.since_ms)
            self.started.clear()
        self.since_ms = now_ms

    def _count_tasks(self, last_ms: int) -> None:
        self._row.task_lasted(self.tasks.pop(), last_ms)
        if self.tasks:
            for number, count in Counter(self.tasks).items():
                self._row.task_lasted(number, 0, count)
            self.tasks.clear()

    def tick_batch(self, now_ms: int) -> None:
        """The same of a call for a whole batch."""
        if self.started:
            self._row.lasted(HANDLING, now_ms - self.since_ms)
            self.waited(self.batch, now_ms - self.since_ms)
            self.started.clear()
        self.since_ms = now_ms

    def tick_side_by_side(self, now_ms: int) -> None:
        """The same where the end of each one is told by itself."""
        if self.started:
            self.waited(self.started, now_ms - self.since_ms)
            self.started.clear()
        self.since_ms = now_ms

    def ended(self, since_ms: int, task: int | None) -> None:
        """What was started then has ended now. task: its number, None = it is none of a queue."""
        lasted_ms = mono_ms() - since_ms
        self._row.lasted(HANDLING, lasted_ms)
        if task is not None:
            self._row.task_lasted(task, lasted_ms)

    def waited(self, messages: Sequence[StreamMessage], ago_ms: int) -> None:
        """These, in the order of their ids, were started so long ago. For how long a message lay
        in its stream is counted when it is delivered first, by this host's clock and Redis'."""
        first, last = messages[0], messages[-1]
        if first.delivery_count != 1 or last.delivery_count != 1:
            messages = [message for message in messages if message.delivery_count == 1]
            if not messages:
                return
            first, last = messages[0], messages[-1]
        now_ms = wall_ms() - ago_ms
        longest, shortest = _waited_ms(first, now_ms), _waited_ms(last, now_ms)
        if bucket(longest) == bucket(shortest):
            self._row.lasted(WAITING, (longest + shortest) // 2, len(messages))
        else:
            for message in messages:
                self._row.lasted(WAITING, _waited_ms(message, now_ms))


def _waited_ms(message: StreamMessage, now_ms: int) -> int:
    waited_ms = now_ms - int(message.id.partition("-")[0])
    return waited_ms if waited_ms > 0 else 0
