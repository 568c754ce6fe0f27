"""Moves a message that this consumer has taken and marked to the dead letters, in this order:

1. ``dlq_handler(message, reason)`` if there is one; what it raises is logged.
2. With a dead-letter stream: one atomic step copies the entry and acknowledges it.
   Without one: the entry is acknowledged, unless the handler failed; then it waits for another try.
"""

from __future__ import annotations

import asyncio
import random
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import replace

from .._burial_mark import MOST_DELIVERIES, TOO_LARGE, marked, read_count
from .._clock import mono_ms, wall_ms
from .._log import logger
from .._names import parking_due_ms
from ..config import ConsumerConfig
from ..handlers import DLQHandler
from ..message import StreamMessage
from ..serializers import Serializer
from .invocation import call_hook
from .pending import Parked, PendingList

log = logger(__name__)

LETTER_FIELDS = (
    "original_stream",
    "original_id",
    "group",
    "reason",
    "delivery_count",
    "worker",
    "dead_letter_ts",
    "last_error",
)
LAST_ERROR = "rsq:last_error"  # header of a message that a dlq_handler gets
REMEMBERED = 1000  # errors of messages that may have to be buried
SAY_EVERY_MS = 60_000
FIRST_PAUSE_MS, LONGEST_PAUSE_MS = 1000, 8000  # between two tries of a letter that is refused
JITTER = 0.25
DLQ_HANDLER_TRIES = 3  # burials that began; then the letter moves without the dlq_handler


class DeadLetterWriter:
    """Writes the dead letters of one group, and keeps the last errors of messages for them.

    dlq_stream: the dead-letter stream; None = there is none.
    letter: a function that may change the fields that we add to the entry's own fields.
    """

    def __init__(
        self,
        pending: PendingList,
        config: ConsumerConfig,
        dlq_handler: DLQHandler | None,
        serializer: Serializer | None,
    ) -> None:
        self.pending = pending
        self.dlq_stream = config.dlq_stream
        self.dlq_handler = dlq_handler
        self._config = config
        self._serializer = serializer if config.payload_field is not None else None
        self.letter: Callable[[dict[str, str]], dict[str, str]] = dict
        self._known: OrderedDict[str, str] = OrderedDict()
        self._tries: OrderedDict[str, int] = OrderedDict()  # how often a letter was refused
        self._refusals = 0  # since the last line about them
        self._say_next_ms = 0

    def remember(self, entry_id: str, error: str) -> None:
        """Keep the last error of a message for the letter it may become."""
        self._known[entry_id] = error
        self._known.move_to_end(entry_id)
        if len(self._known) > REMEMBERED:
            self._known.popitem(last=False)

    def known_error(self, entry_id: str) -> str:
        """The last remembered error of a message, "" = none."""
        return self._known.get(entry_id, "")

    def forget(self, ids: Sequence[str]) -> None:
        """Forget the errors of messages that are finished."""
        if self._known or self._tries:
            for entry_id in ids:
                self._known.pop(entry_id, None)
                self._tries.pop(entry_id, None)

    async def put_off(
        self, message: StreamMessage, reason: str, error: str, *, owner: str, delay_ms: int
    ) -> None:
        """Give a dead message back, marked: the next sweep buries it, and no handler gets it."""
        self.remember(message.id, error)
        _, earlier, deliveries = read_count(message.delivery_count)
        count = marked(deliveries, earlier or reason)  # a burial that did not end this process
        await self.pending.park(owner, [Parked(message.id, delay_ms, deliveries=count)])

    async def refused(
        self, message: StreamMessage, reason: str, error: str, refusal: str, owner: str
    ) -> None:
        """Redis refuses the letter (OOM, NOPERM, a key of another type): it waits, longer each
        time. That is logged once, then at most once a minute with a count."""
        self._refusals += 1
        if mono_ms() >= self._say_next_ms:
            log.error(
                "message %s of %s could not be buried in %s, it is tried again "
                "(%d refusal(s) since this was said last): %s",
                message.id,
                self.pending.stream,
                self.dlq_stream,
                self._refusals,
                refusal,
            )
            self._refusals, self._say_next_ms = 0, mono_ms() + SAY_EVERY_MS
        tries = self._tries[message.id] = self._tries.get(message.id, 0) + 1
        if len(self._tries) > REMEMBERED:
            self._tries.popitem(last=False)
        delay_ms = min(FIRST_PAUSE_MS << min(tries - 1, 10), LONGEST_PAUSE_MS)
        delay_ms -= int(delay_ms * JITTER * random.random())
        await self.put_off(message, reason, error, owner=owner, delay_ms=delay_ms)

    async def write(
        self,
        message: StreamMessage,
        reason: str,
        error: str,
        *,
        owner: str,
        worker: str | None,
    ) -> bool:
        """Tell the dlq_handler, write the letter, acknowledge; the message's data is raw.

        reason: unless its delivery count tells another one. owner: whose it is now, in this
        process. worker: who had it last, if not the owner.
        Returns whether it is buried; if not, it is given back and offered again at the next sweep.
        """
        error = error or self.known_error(message.id) or self._guessed(message, worker)
        begun, earlier, deliveries = read_count(message.delivery_count)
        message, reason = replace(message, delivery_count=deliveries), earlier or reason
        if self.dlq_stream is None:
            return await self._drop(message, reason, error, owner)
        if begun < DLQ_HANDLER_TRIES:
            await self.tell_handler(message, reason, error)
        moved = await self.pending.move_to_dlq(
            owner,
            message.id,
            self.dlq_stream,
            self._config.dlq_max_len,
            self.letter(self._letter(message, reason, error, worker or owner)),
            self._config.dlq_group,
        )
        self.forget([message.id])
        self._say(message, reason, error, moved)
        return bool(moved)

    async def _drop(self, message: StreamMessage, reason: str, error: str, owner: str) -> bool:
        """End a message without a dead-letter stream; returns False if the dlq_handler failed."""
        if not await self.tell_handler(message, reason, error):
            await self.put_off(message, reason, error, owner=owner, delay_ms=0)
            return False
        if self.dlq_handler is None:
            log.warning(
                "message %s of %s is dead (%s) and dropped: no dlq_stream and no dlq_handler "
                "are set",
                message.id,
                self.pending.stream,
                reason,
            )
        await self.pending.ack([message.id])
        self.forget([message.id])
        return True

    def _letter(
        self, message: StreamMessage, reason: str, error: str, worker: str
    ) -> dict[str, str]:
        """The fields that a letter has besides the entry's own fields."""
        return {
            "original_stream": self.pending.client.key(self.pending.stream),
            "original_id": message.id,
            "group": self.pending.group,
            "reason": reason,
            "delivery_count": str(message.delivery_count),
            "worker": worker,
            "dead_letter_ts": str(wall_ms()),
            "last_error": error,
        }

    def _say(self, message: StreamMessage, reason: str, error: str, moved: str | None) -> None:
        if moved == "":
            log.warning(
                "dead message %s was already deleted from %s; acknowledged",
                message.id,
                self.pending.stream,
            )
        elif moved:
            log.warning(
                "message %s of %s is dead (%s after %d deliveries), moved to %s: %s",
                message.id,
                self.pending.stream,
                reason,
                message.delivery_count,
                self.dlq_stream,
                error.partition("\n")[0] or "no error known",
            )

    def _guessed(self, message: StreamMessage, worker: str | None) -> str:
        """A guess why a message has failed whose errors this process has not seen."""
        if worker and parking_due_ms(self.pending.group, worker) is None:
            return f"its consumer {worker} vanished while it held the message"
        begun, _, deliveries = read_count(message.delivery_count)
        most = self._config.max_deliveries
        if begun:
            return (
                "its burial had begun before and was refused or cut off; what it failed of is in "
                "the log of that time"
            )
        if worker is None or not most <= deliveries < MOST_DELIVERIES:
            return ""
        now = f"was lowered to {most}" if deliveries > most else f"is {most} (was it lowered?)"
        return (
            f"delivered {deliveries} time(s) before, and max_deliveries {now}; what it failed of "
            "is in the log of that time"
        )

    async def tell_handler(self, message: StreamMessage, reason: str, error: str = "") -> bool:
        """Call the dlq_handler, if any; returns False if it raised (never raises).

        error: what the message died of, for its headers.
        """
        if self.dlq_handler is None:
            return True
        told = message if reason == TOO_LARGE else self._decoded(message)
        if error:
            told = replace(told, headers={**told.headers, LAST_ERROR: error})
        try:
            await call_hook(self.dlq_handler, told, reason)
        except BaseException as raised:  # its failure must not lose the letter
            task = asyncio.current_task()
            if isinstance(raised, asyncio.CancelledError) and task and task.cancelling():
                raise  # that is the consumer's own
            log.exception("dlq_handler failed for message %s (%s)", message.id, reason)
            return False
        return True

    def _decoded(self, message: StreamMessage) -> StreamMessage:
        if self._serializer is None or not isinstance(message.data, bytes):
            return message
        try:
            return replace(message, data=self._serializer.decode(message.data))
        except Exception:  # a serializer may raise anything; then the raw bytes have to do
            return message
