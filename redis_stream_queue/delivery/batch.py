"""One batch on its way through a handler, seen from two sides.

The handler's side takes messages and says how each ended; the loop's side collects what is
finished, withdraws what has not started and notes what was lost. Both sides may be threads: every
shared step is one atomic deque or set operation.
"""

from __future__ import annotations

import asyncio
import traceback
from collections import deque
from collections.abc import Callable, Coroutine, Sequence
from contextvars import Context
from enum import Enum
from typing import Any, NamedTuple

from .._clock import mono_ms
from .._plain import cut, plain, plain_cut
from ..exceptions import Reject, Retry, whole_ms
from ..message import StreamMessage
from .invocation import discard, forks, leave_out_ours
from .rules import RulesOf, as_configured

ERROR_TEXT = 2000  # characters of an error that travel and are kept
LOOK_UP_MS = 20  # how often a thread that handles messages looks at leases and the loop


class Outcome(Enum):
    ACK = "ack"
    RETRY = "retry"
    REJECT = "reject"
    EXPIRE = "expire"
    DROP = "drop"


class Verdict(NamedTuple):
    """How the handling of one message ended.

    error: what to show as ``last_error``; delay_ms: wish of a Retry, None = as configured.
    counted: does the delivery count?
    """

    outcome: Outcome
    error: str = ""
    delay_ms: int | None = None
    counted: bool = True


DONE = Verdict(Outcome.ACK)
EXPIRED = Verdict(Outcome.EXPIRE, "it had not started when its ttl_ms was over")
CANCELLED = Verdict(Outcome.DROP)
NOT_ACKNOWLEDGED = Verdict(Outcome.RETRY, "the handler did not return this message's id")


def verdict_of(error: BaseException) -> Verdict:
    """The verdict that an exception in a handler stands for."""
    if isinstance(error, Retry):
        return _asked_for(error)
    if isinstance(error, Reject):
        return Verdict(Outcome.REJECT, _text(error))
    return Verdict(Outcome.RETRY, describe(error))


def _asked_for(retry: Retry) -> Verdict:
    """What a Retry asks for; an app's subclass may have lost or changed its attributes."""
    try:
        delay_ms = None if retry.delay_ms is None else whole_ms(retry.delay_ms)
        return Verdict(Outcome.RETRY, _text(retry), delay_ms, bool(retry.counted))
    except Exception as odd:  # a Retry of the app's own may hold anything
        return Verdict(Outcome.RETRY, f"{_text(retry)} (as configured: {one_line(odd)})")


def one_line(error: BaseException) -> str:
    """Type and text of an error, at most 1,000 characters."""
    return cut(f"{plain_cut(type(error).__name__, 100)}: {_text(error)}", ERROR_TEXT // 2)


def _text(error: BaseException) -> str:
    """The text of an error, in visible characters and newlines, cut if it is long."""
    try:
        return plain_cut(str(error), ERROR_TEXT // 2, "\n")
    except BaseException:  # a __str__ of the app's own may fail, too
        return "(its text cannot be shown)"


def describe(error: BaseException) -> str:
    """Type and text of an error and the end of its traceback, at most 2,000 characters."""
    head = one_line(error)
    trace = plain("".join(traceback.format_tb(error.__traceback__, -20)), "\n")
    room = ERROR_TEXT - len(head) - 1
    return f"{head}\n{trace[-room:]}" if trace else head


class Handed(NamedTuple):
    """The awaitable that a call has returned, and the context of the call."""

    messages: list[StreamMessage]
    result: Any
    context: Context


class Batch:
    """A batch in the hands of a handler.

    on_start: called with each message (a batch handler: with the first one) and the time just
        before it is handled, in the handler's thread.
    on_finish: called with each message when its verdict is known, in the handler's thread; not for
        a batch handler.
    between: called every LOOK_UP_MS or so, in the handler's thread and between two messages, with
        the time; returns the time after it. Not for async handlers.
    stale: is the lease, at this time, so old that somebody may have taken the batch?
    verify: look who holds the batch now and fill ``lost``.
    rules_of: what its handler knows of a message.
    was_kept: did a handler leave the message with this id out of its answer, and has nothing else
        become of it here?
    owner: the task whose cancellation is that of the consumer.
    handed: what the handler's thread leaves to the loop.
    forks: see invocation.forks().
    awaited: who waits in the loop for the call for a message, by its id.
    plain: the call that may block, if one has been made.
    deadlines: until when a message may start, by its id, of those for which that matters.
    look_up_ms: when to look next whether somebody may have taken the batch.
    closed: nothing more is to be started.

    Times are ms of mono_ms().
    """

    def __init__(
        self,
        messages: Sequence[StreamMessage],
        on_start: Callable[[StreamMessage, int], None] = lambda *_: None,
        on_finish: Callable[[StreamMessage], None] | None = None,
        between: Callable[[int], int] = lambda now_ms: now_ms,
        stale: Callable[[int], bool] = lambda _: False,
        verify: Callable[[], Coroutine[Any, Any, None]] | None = None,
        was_kept: Callable[[str], bool] = lambda _: False,
        rules_of: RulesOf = as_configured,
    ) -> None:
        self.messages = list(messages)
        self.lost: set[str] = set()
        self.deadlines: dict[str, int] = {}
        self.awaited: dict[str, asyncio.Task[Any] | None] = {}
        self._cancelled: set[str] = set()
        self.lanes = 0  # calls under way
        self.handled = 0  # messages whose verdict is known
        self.owner = asyncio.current_task() if verify else None
        self.handed: Handed | None = None
        self.plain: asyncio.Future[None] | None = None
        self.forks = forks()
        self.closed = False
        self.errors: list[tuple[BaseException, list[StreamMessage]]] = []
        self._waiting = deque(self.messages)
        self._done: deque[StreamMessage] = deque()
        self._finished: deque[tuple[Sequence[StreamMessage], Verdict]] = deque()
        self._collected: set[str] = set()
        self._on_start = on_start
        self._on_finish = on_finish
        self._between = between
        self.look_up_ms = mono_ms() + LOOK_UP_MS
        self._stale = stale
        self._verify = verify
        self.was_kept = was_kept
        self._rules_of = rules_of
        self.kept_done: list[str] = []  # ids of earlier batches that are done now
        self._loop = asyncio.get_running_loop() if verify else None

    def fill(self, messages: list[StreamMessage], now_ms: int) -> None:
        """Put in the messages, if the batch was made before they were read."""
        self.messages = messages
        self._waiting.extend(messages)
        self.look_up_ms = now_ms + LOOK_UP_MS

    # -- the handler's side ----------------------------------------------------------------------

    def next(self) -> StreamMessage | None:
        """The next message to handle, None when there is no more to start. In a thread only."""
        now = mono_ms()
        if now >= self.look_up_ms:
            now = self._look_up(now)
        return self.start_one(now)

    def _look_up(self, now_ms: int) -> int:
        """Look at leases and let the loop have a turn; too slow to be done before each message."""
        now_ms = self._between(now_ms)
        if self._stale(now_ms + LOOK_UP_MS) and self._verify and self._loop:
            asyncio.run_coroutine_threadsafe(self._verify(), self._loop).result()
            now_ms = mono_ms()
        self.look_up_ms = now_ms + LOOK_UP_MS
        return now_ms

    async def look_up_in_loop(self, now_ms: int) -> int:
        """The same look for calls in the loop's thread, where the loop has its turns by itself."""
        if self._stale(now_ms + LOOK_UP_MS) and self._verify:
            await self._verify()
            now_ms = mono_ms()
        self.look_up_ms = now_ms + LOOK_UP_MS
        return now_ms

    def start_one(self, now_ms: int) -> StreamMessage | None:
        """The next message to handle; from ``look_up_ms`` on, a look comes first."""
        while True:
            try:
                message = self._waiting.popleft()
            except IndexError:
                return None
            if self.lost and message.id in self.lost:
                continue
            if self.deadlines and self._is_late(message, now_ms):
                continue
            self._on_start(message, now_ms)
            return message

    def _is_late(self, message: StreamMessage, now_ms: int) -> bool:
        """Is it too late for this message to start? If so, that is its verdict."""
        ends_ms = self.deadlines.get(message.id)
        if ends_ms is None or now_ms <= ends_ms:
            return False
        self._finished.append(((message,), EXPIRED))
        return True

    def start_all(self) -> list[StreamMessage]:
        """Every message that has not started, at once (for a batch handler)."""
        now_ms = mono_ms()
        messages = [m for m in _popped(self._waiting) if m.id not in self.lost]
        if self.deadlines:
            messages = [m for m in messages if not self._is_late(m, now_ms)]
        if messages:
            self._on_start(messages[0], now_ms)
        return messages

    def done(self, message: StreamMessage) -> None:
        """The call for this message has ended without an error."""
        if self._on_finish:
            self._on_finish(message)
        self._done.append(message)

    def finish_batch(
        self, messages: list[StreamMessage], done: list[StreamMessage], others: Verdict
    ) -> None:
        """The call for a batch has ended: some messages are done, the others get this verdict."""
        if done:
            self._finished.append((done, DONE))
        if len(done) < len(messages):
            ids = {message.id for message in done}
            self._finished.append(([m for m in messages if m.id not in ids], others))

    def finish_kept(self, ids: Sequence[str]) -> None:
        """Messages of earlier batches are done now: their handler has collected them."""
        self.kept_done += ids

    def fail(self, message: StreamMessage, error: BaseException) -> None:
        """The call for this message has ended with this exception."""
        if message.id in self._cancelled:
            if self._on_finish:
                self._on_finish(message)
            self._finished.append(((message,), CANCELLED))
            return
        leave_out_ours(error)
        verdict = verdict_of(error)
        if not isinstance(error, Retry | Reject):
            self.errors.append((error, [message]))
            if not self._rules_of(message).retries(error):
                verdict = verdict._replace(outcome=Outcome.REJECT)
        if self._on_finish:
            self._on_finish(message)
        self._finished.append(((message,), verdict))

    def fail_batch(self, messages: list[StreamMessage], error: BaseException) -> None:
        """The call for a batch has ended with this exception. Retry and Reject are for one message,
        so they are errors like others here.
        """
        leave_out_ours(error)
        self.errors.append((error, messages))
        self.finish_batch(messages, [], Verdict(Outcome.RETRY, describe(error)))

    def take_handed(self) -> Handed | None:
        """What the handler's thread has left to the loop; nothing if the consumer is cancelled."""
        handed, self.handed = self.handed, None
        if handed is not None and self.owner is not None and self.owner.cancelling():
            discard(handed.result)
            return None
        return handed

    def is_cancelled(self, error: BaseException) -> bool:
        """Is this the cancellation of the consumer, and not something the app cancelled itself?"""
        cancelled = self.owner is not None and self.owner.cancelling() > 0
        return cancelled and isinstance(error, asyncio.CancelledError)

    # -- the loop's side -------------------------------------------------------------------------

    @property
    def blocks(self) -> bool:
        """Does a call run that may block?"""
        return self.plain is not None and not self.plain.done()

    @property
    def head(self) -> StreamMessage | None:
        """The next message, for the side that starts it."""
        try:
            return self._waiting[0]
        except IndexError:  # the other side may withdraw it
            return None

    @property
    def has_work(self) -> bool:
        """Is there anything that a call of the handler could do?"""
        return bool(self._waiting) or self.handed is not None

    @property
    def waiting(self) -> int:
        """How many messages have not started."""
        return len(self._waiting)

    def cancel(self, entry_id: str) -> bool:
        """A message was cancelled: do not start it, or cancel what is awaited for it.

        Returns False if it may run in the handler's thread, where it is not seen here.
        """
        self._cancelled.add(entry_id)
        if entry_id in [message.id for message in list(self._waiting)]:
            self.lost.add(entry_id)
            return True
        task = self.awaited.get(entry_id)
        if task is not None:
            task.cancel()
        return task is not None

    def extend(self, messages: Sequence[StreamMessage]) -> bool:
        """Add messages; returns False if the batch was closed meanwhile."""
        if self.closed:
            return False
        left = [m for m in self.messages if m.id not in self._collected]
        here = {message.id for message in left} - self.lost
        new = [m for m in messages if m.id not in here]  # a group made anew may repeat some
        if self.lost:
            ids = {message.id for message in new}
            self._waiting.extend([m for m in _popped(self._waiting) if m.id not in ids])
            self.lost -= ids
        self.messages = [*left, *new]
        self._collected.clear()
        self._waiting.extend(new)
        return True

    def close(self, but: int = 0) -> list[StreamMessage]:
        """Start nothing more, ``but`` so many; returns what has not started."""
        self.closed = True
        return self.withdraw(but)

    def withdraw(self, but: int = 0) -> list[StreamMessage]:
        """Take back everything that has not started, ``but`` so many."""
        taken = _popped(self._waiting)
        self._waiting.extend(taken[:but])
        del taken[:but]
        if taken:
            ids = {message.id for message in taken}
            self.messages = [m for m in self.messages if m.id not in ids]
        return taken

    def collect(self) -> list[tuple[Sequence[StreamMessage], Verdict]]:
        """The messages that have finished since the last call, with their verdicts."""
        finished: list[tuple[Sequence[StreamMessage], Verdict]] = []
        if done := [self._done.popleft() for _ in range(len(self._done))]:  # it only grows
            self._collected.update([message.id for message in done])
            finished.append((done, DONE))
        while self._finished:
            group = self._finished.popleft()
            self._collected.update([message.id for message in group[0]])
            finished.append(group)
        self.handled += sum(len(messages) for messages, _ in finished)
        return finished

    def unfinished(self) -> list[StreamMessage]:
        """Messages without a verdict (as of the last collect) that this consumer still holds."""
        if len(self._collected) == len(self.messages):
            return []
        gone = self._collected | self.lost
        return [m for m in self.messages if m.id not in gone]


def _popped(messages: deque[StreamMessage]) -> list[StreamMessage]:
    """Everything in it, taken out; the other side may go on meanwhile."""
    popped = []
    while True:
        try:
            popped.append(messages.popleft())
        except IndexError:
            return popped
