"""What has been handled or given up and Redis does not know of yet: to acknowledge, park, bury."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import NamedTuple

from .._burial_mark import EXPIRED, REJECTED, uncounted
from .._clock import mono_ms
from .._log import logger
from ..config import ConsumerConfig
from ..later.postponed import DELIVERIES, LAST_ERROR
from ..message import StreamMessage
from ..metrics import ConsumerMeter
from .answers import RESULT, Answer, answer_to, failure
from .batch import DONE, NOT_ACKNOWLEDGED, Outcome, Verdict
from .expiry import DEAD, TTL
from .hooks import Hooks
from .pending import Parked, SeenEntry
from .retry_delay import retry_delay_ms
from .rules import RulesOf, as_configured

log = logger(__name__)

MOST_KEPT = 100_000  # ids
LOST_LAST = "its worker died, or was lost, in its last permitted delivery"
MOST_DIGITS = 5  # of a number of deliveries


class Dead(NamedTuple):
    """A message on its way to the dead letters.

    seen: how it was seen in other hands; None = this consumer holds it.
    asked: it was asked for, and no answer came: it may be ours.
    """

    message: StreamMessage
    reason: str
    error: str
    seen: SeenEntry | None = None
    asked: bool = False


class Unsettled:
    """Decides what becomes of each message, and keeps it until Redis has confirmed it.

    rules_of: what the handler knows of a message.
    on_error: called with an id and its last error, where it will be tried again. on_drop: called
    with the id of what was cancelled, which is gone from Redis already.
    to_ack, to_park, to_bury: by id. answers: of those to acknowledge that want one.
    kept: ids that a batch handler left out of its answer; it may still acknowledge them later.
    next_retry_at_ms: when the first message that was parked here is due, in ms of mono_ms().
    """

    def __init__(
        self,
        stream: str,
        config: ConsumerConfig,
        hooks: Hooks,
        meter: ConsumerMeter,
        on_error: Callable[[str, str], None],
        on_drop: Callable[[str], None],
        rules_of: RulesOf = as_configured,
    ) -> None:
        self.to_ack: dict[str, None] = {}
        self.to_park: dict[str, Parked] = {}
        self.to_bury: dict[str, Dead] = {}
        self.answers: dict[str, Answer] = {}
        self.kept: dict[str, None] = {}
        self.next_retry_at_ms: int | None = None
        self._stream = stream
        self._config = config
        self._hooks = hooks
        self._meter = meter
        self._on_error = on_error
        self._on_drop = on_drop
        self._rules_of = rules_of

    def settled(self) -> set[str]:
        """The ids of all messages that are decided and of which Redis has to be told."""
        return self.to_ack.keys() | self.to_park.keys() | self.to_bury.keys()

    def handed_again(self, messages: Sequence[StreamMessage]) -> None:
        """These messages are held anew: forget what was decided about them before."""
        for message in messages:
            self.to_park.pop(message.id, None)
            self.kept.pop(message.id, None)

    def note(self, messages: Sequence[StreamMessage], verdict: Verdict) -> None:
        """Note how handling these messages ended; Redis is told with the next settling or read."""
        if verdict is DONE:
            if self._rules_of is not as_configured:
                for message in [message for message in messages if RESULT in message.headers]:
                    if (answer := vars(message).get("answer")) is not None:
                        self.answers[message.id] = answer
            self.to_ack.update(dict.fromkeys([message.id for message in messages]))
            return
        for message in messages:
            try:
                self._carry_out(message, verdict)
            except Exception:  # an error of a rule or a hook must harm no other message
                log.exception("what to do with message %s is unclear: tried again", message.id)
                self.to_park[message.id] = Parked(message.id, self._config.first_retry_ms)
        if retried := [message for message in messages if message.id in self.to_park]:
            self._say_tried_again(retried, verdict)

    def _say_tried_again(self, messages: Sequence[StreamMessage], verdict: Verdict) -> None:
        """One line, however large the batch was."""
        first, count = messages[0], len(messages)
        log.info(
            "%s of %s %s tried again in %d ms (delivery %d of %d%s): %s",
            first.id if count == 1 else f"{first.id} and {count - 1} more",
            self._stream,
            "is" if count == 1 else "are",
            self.to_park[first.id].delay_ms,
            first.delivery_count,
            self._rules_of(first).most(self._config.max_deliveries),
            "" if verdict.counted else ", not counted",
            verdict.error.partition("\n")[0],
        )

    def _carry_out(self, message: StreamMessage, verdict: Verdict) -> None:
        rules = self._rules_of(message)
        if verdict.outcome is Outcome.DROP:
            self._on_drop(message.id)
            log.info("%s of %s was cancelled while it ran", message.id, self._stream)
        elif verdict.outcome is Outcome.EXPIRE:
            self._expired(message, verdict)
        elif verdict.outcome is Outcome.REJECT:
            self.note_dead(message, REJECTED, verdict.error)
        elif verdict.counted and message.delivery_count >= rules.most(self._config.max_deliveries):
            self.note_dead(message, rules.dead_for, verdict.error)
        else:
            self.to_park[message.id] = self._retry(message, verdict)
            if verdict is NOT_ACKNOWLEDGED:
                self.kept[message.id] = None
                if len(self.kept) > MOST_KEPT:
                    del self.kept[next(iter(self.kept))]

    def _expired(self, message: StreamMessage, verdict: Verdict) -> None:
        if message.headers.get(DEAD) == "dead":
            self.note_dead(message, EXPIRED, verdict.error)
            return
        self._meter.expired += 1
        self.to_ack[message.id] = None
        if answer := answer_to(message, failure(EXPIRED, verdict.error)):
            self.answers[message.id] = answer
        log.info("%s of %s has expired: %s", message.id, self._stream, verdict.error)

    def note_kept_done(self, ids: Sequence[str]) -> None:
        """Note that a handler that collects messages has finished these, of earlier batches.

        They are acknowledged even if another consumer has them meanwhile.
        """
        for entry_id in ids:
            self.kept.pop(entry_id, None)
            self.to_park.pop(entry_id, None)
            self.to_ack[entry_id] = None

    def _retry(self, message: StreamMessage, verdict: Verdict) -> Parked:
        delay_ms = verdict.delay_ms
        if delay_ms is None:
            config = self._config
            first_ms, most_ms = self._rules_of(message).delays(
                config.first_retry_ms, config.retry_max_delay_ms
            )
            delay_ms = retry_delay_ms(message.delivery_count, first_ms, most_ms, random.random())
        self._on_error(message.id, verdict.error)
        due_ms = mono_ms() + delay_ms
        if self.next_retry_at_ms is None or due_ms < self.next_retry_at_ms:
            self.next_retry_at_ms = due_ms
        self._hooks.retrying(message, verdict, delay_ms)
        if verdict.counted:
            return Parked(message.id, delay_ms)
        return given_back(message.id, message.delivery_count, delay_ms)

    def note_dead(
        self, message: StreamMessage, reason: str, error: str, seen: SeenEntry | None = None
    ) -> None:
        """Bury it at the next settling; seen: see Dead."""
        self.to_bury[message.id] = Dead(message, reason, error, seen)

    def resumed(self, messages: Sequence[StreamMessage]) -> list[StreamMessage]:
        """Those that may start. A retry that was scheduled comes back as a new entry, of which the
        server has counted this delivery only: it is given back with all its deliveries, due now."""
        found = []
        for message in messages:
            deliveries = _deliveries_before(message)
            if deliveries < message.delivery_count:
                found.append(message)
                continue
            self._on_error(message.id, message.headers.get(LAST_ERROR, ""))
            count = deliveries + uncounted(message.delivery_count)
            self.to_park[message.id] = Parked(message.id, deliveries=count)
        return found

    def release(self, messages: Sequence[StreamMessage], *, alone: bool = False) -> None:
        """Give unstarted messages back at the next settling: due now, this delivery uncounted.

        alone: each comes in a batch of its own the next time.
        """
        for message in messages:
            if message.id not in self.to_ack:
                parked = given_back(message.id, message.delivery_count)
                self.to_park[message.id] = parked._replace(suspect=alone)

    def admitted(self, messages: list[StreamMessage], *, beside: bool) -> list[StreamMessage]:
        """Those that may run now, by the rules of each: a message that has used up its own
        deliveries is dead, and one at its last delivery runs alone.

        beside: do other messages run already?
        """
        if not [True for message in messages if message.delivery_count > 1]:
            return messages
        admitted, last = [], []
        for message in messages:
            rules, count = self._rules_of(message), message.delivery_count
            most = rules.most(self._config.max_deliveries)
            if rules.max_deliveries is not None and count > most:
                self.note_dead(message, rules.dead_for, LOST_LAST)
            elif rules.max_deliveries is not None and count == most > 1:
                last.append(message)
            else:
                admitted.append(message)
        if last and not admitted and not beside:
            admitted.append(last.pop(0))
        self.release(last, alone=True)
        return admitted


def may_all_run(messages: Sequence[StreamMessage]) -> bool:
    """Is this the first delivery of each message, without a deadline or earlier deliveries?"""
    for message in messages:
        headers = message.headers
        if message.delivery_count > 1 or (headers and (TTL in headers or DELIVERIES in headers)):
            return False
    return True


def _deliveries_before(message: StreamMessage) -> int:
    """How many deliveries its headers tell of; 0 = none."""
    said = message.headers.get(DELIVERIES, "")
    return int(said) if said.isdecimal() and len(said) <= MOST_DIGITS else 0


def given_back(entry_id: str, delivery_count: int, delay_ms: int = 0) -> Parked:
    """An entry to give back, so that this delivery does not count."""
    return Parked(entry_id, delay_ms, deliveries=uncounted(delivery_count))
