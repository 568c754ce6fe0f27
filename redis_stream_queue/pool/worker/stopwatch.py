"""Measures how long messages waited and how long their handling took, for the histograms of a row.

Thousands of short messages may start in a second, so those that start in the same ms are counted
together: all but the last took less than 1 ms, and the last one took until the next one starts.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from ..._clock import mono_ms, wall_ms
from ...message import StreamMessage
from ..histogram import HANDLING, WAITING, bucket
from ..scoreboard import Row


class Stopwatch:
    """Measures the messages of one worker. Times are ms of mono_ms().

    started: messages that started at ``since_ms`` and are not counted yet; the caller appends to
    it. tasks: the numbers of their tasks, if they are those of a queue; the caller appends to it,
    too. batch: the messages of a call for a whole batch; only the first of them is
    in ``started`` then.
    """

    def __init__(self, row: Row) -> None:
        self.started: list[StreamMessage] = []
        self.tasks: list[int] = []
        self.batch: Sequence[StreamMessage] = ()
        self.since_ms = 0
        self._row = row

    def tick(self, now_ms: int) -> None:
        """Count the started messages, of a handler that handles one after the other."""
        if self.started:
            self._row.lasted(HANDLING, now_ms - self.since_ms)
            if (others := len(self.started) - 1) > 0:
                self._row.lasted(HANDLING, 0, others)
            if self.tasks:
                self._count_tasks(now_ms - self.since_ms)
            self._count_waits(now_ms - self.since_ms)
        self.since_ms = now_ms

    def _count_tasks(self, last_ms: int) -> None:
        *others, last = self.tasks
        self._row.task_lasted(last, HANDLING, last_ms)
        for number, count in Counter(others).items():
            self._row.task_lasted(number, HANDLING, 0, count)

    def _count_waits(self, ago_ms: int) -> None:
        """Of all that have started, each task by itself."""
        tasks = self.tasks
        if not tasks:
            self.waited(self.started, ago_ms)
        for task in set(tasks):
            pairs = zip(self.started, tasks, strict=False)
            self.waited([message for message, of in pairs if of == task], ago_ms, task)
        self.started.clear()
        tasks.clear()

    def tick_batch(self, now_ms: int) -> None:
        """Count the started call, of a handler that takes a whole batch."""
        if self.started:
            self._row.lasted(HANDLING, now_ms - self.since_ms)
            self.waited(self.batch, now_ms - self.since_ms)
            self.started.clear()
        self.since_ms = now_ms

    def tick_side_by_side(self, now_ms: int) -> None:
        """Count the waits of the started messages, which run side by side; see ended()."""
        if self.started:
            self._count_waits(now_ms - self.since_ms)
        self.since_ms = now_ms

    def ended(self, since_ms: int, task: int | None) -> None:
        """Count a message that was started at ``since_ms`` and has ended now.

        task: number of its task, None = it belongs to no queue.
        """
        lasted_ms = mono_ms() - since_ms
        self._row.lasted(HANDLING, lasted_ms)
        if task is not None:
            self._row.task_lasted(task, HANDLING, lasted_ms)

    def waited(
        self, messages: Sequence[StreamMessage], ago_ms: int, task: int | None = None
    ) -> None:
        """Count how long messages waited in their stream, if this is their first delivery.

        messages: in the order of their ids. ago_ms: how long ago they were started. task: that
        they are of, None = they belong to no queue.

        The wait is the time of this host's clock minus the time in the id, by Redis' clock.
        """
        first, last = messages[0], messages[-1]
        if first.delivery_count != 1 or last.delivery_count != 1:
            messages = [message for message in messages if message.delivery_count == 1]
            if not messages:
                return
            first, last = messages[0], messages[-1]
        now_ms = wall_ms() - ago_ms
        longest, shortest = _waited_ms(first, now_ms), _waited_ms(last, now_ms)
        if bucket(longest) == bucket(shortest):
            self._count_wait((longest + shortest) // 2, len(messages), task)
        else:
            for message in messages:
                self._count_wait(_waited_ms(message, now_ms), 1, task)

    def _count_wait(self, ms: int, count: int, task: int | None) -> None:
        self._row.lasted(WAITING, ms, count)
        if task is not None:
            self._row.task_lasted(task, WAITING, ms, count)


def _waited_ms(message: StreamMessage, now_ms: int) -> int:
    waited_ms = now_ms - int(message.id.partition("-")[0])
    return waited_ms if waited_ms > 0 else 0
