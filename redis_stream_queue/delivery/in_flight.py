"""What one consumer name holds in the pending entries list, and what it still has to tell Redis.

Every message that is held has a lease, which is renewed until the message is settled:
acknowledged, given back or buried. Each of these waits in a queue of its own until Redis has
confirmed it, so that an outage in between loses nothing.
"""

from __future__ import annotations

import asyncio
import random
import socket
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

from redis.exceptions import ResponseError

from .._clock import mono_ms
from .._log import logger
from .._names import worker_name
from ..client import StreamClient
from ..config import ConsumerConfig
from ..connection.backoff import Backoff
from ..connection.link import OUTAGES, Link
from ..handlers import DLQHandler
from ..message import StreamMessage, id_key
from ..metrics import ConsumerMeter
from ..serializers import Serializer
from .batch import DONE, NOT_ACKNOWLEDGED, Outcome, Verdict
from .burial_mark import EXPIRED, MAX_DELIVERIES, REJECTED, marked, uncounted
from .dead_letter import Burial
from .expiry import DEAD
from .hooks import Hooks
from .pending import SMALL_BYTES, Parked, PendingList, Renewed, SeenEntry
from .retry_delay import retry_delay_ms
from .sightings import WATCH_MS, lease_interval_ms

log = logger(__name__)

RESERVE_TRIES = 20
LOOK_AT_NAME_MS = 50
MOST_KEPT = 100_000  # ids

Held = tuple[StreamMessage, Any]  # and its raw payload


class InFlight:
    """What one consumer holds, of ``config.group`` on ``stream``; see the module's text.

    own_name: nobody else has ``config.worker_name``. (One that was given may be a namesake's: what
    it holds and never arrived here is not ours.)
    on_lost: called with the ids that others turn out to have taken.
    kept: ids that a batch handler left out of its answer; it may still acknowledge them later.
    held: by id. unsure: the server may hold something under this name that never arrived here.
    on_answer: called when a renewal was asked for and when it was answered, in ms of mono_ms().
    next_retry_at_ms: when the first message that was parked here is due, in ms of mono_ms().
    """

    def __init__(
        self,
        client: StreamClient,
        stream: str,
        config: ConsumerConfig,
        *,
        dlq_handler: DLQHandler | None = None,
        serializer: Serializer | None = None,
        hooks: Hooks | None = None,
        on_lost: Callable[[set[str]], None] = lambda _: None,
        own_name: bool = False,
    ) -> None:
        self.config = config
        self.name = config.worker_name or ""
        self.meter = ConsumerMeter()
        self.pending = PendingList(client, stream, config.group, config.payload_field)
        self.burial = Burial(
            self.pending,
            dlq_stream=config.dlq_stream,
            dlq_max_len=config.dlq_max_len,
            dlq_group=config.dlq_group,
            dlq_handler=dlq_handler,
            serializer=serializer if config.payload_field is not None else None,
            max_deliveries=config.max_deliveries,
        )
        self.held: dict[str, Held] = {}
        self.kept: dict[str, None] = {}
        self.unsure = False
        self.next_retry_at_ms: int | None = None
        self.on_answer: Callable[[int, int], None] = lambda asked_ms, now_ms: None
        self._hooks = hooks or Hooks()
        self._on_lost = on_lost
        self._own_name = own_name or config.worker_name is None
        self._asked_for = ""
        self._asked_over: dict[str, int] = {}  # ids and counts of a take-over without an answer
        self._to_ack: dict[str, None] = {}
        self._to_park: dict[str, Parked] = {}
        self._to_bury: dict[str, _Dead] = {}
        self._renewed_at_ms = 0
        self._renewals: set[asyncio.Future[None]] = set()  # under way
        self._arriving_since_ms = 0
        self._keeper: asyncio.Task[None] | None = None
        self._arrival: asyncio.Task[None] | None = None

    # -- the name ------------------------------------------------------------------------------

    async def reserve_name(self) -> None:
        """Take a consumer name that nobody has; a configured one is used as it is."""
        if self.name:
            await self.pending.reserve(self.name)
            return
        for _ in range(RESERVE_TRIES):
            name = self._asked_for = worker_name(self.config.group, socket.gethostname())
            if await self.pending.reserve(name):
                self.name, self._asked_for = name, ""
                return
        raise RuntimeError(f"no free consumer name in group {self.config.group!r}")

    async def leave(self) -> None:
        """Settle what is done, give the rest back uncounted, and remove the name."""
        if self._asked_for:  # cancelled in between: it may be ours
            await self.pending.prune(self._asked_for)
        if self.name:
            await self.settle()
            await self.flush_acks()
            self.release([message for message, _ in self.held.values()])
            await self.settle()
            await self.give_back_stranded()
            if self._renewals:  # one that came behind would claim back what is acknowledged
                await asyncio.wait(self._renewals)
            await self.pending.prune(self.name)

    def close(self) -> None:
        """Renew no more."""
        for task in (self._keeper, self._arrival):
            if task is not None:
                task.cancel()

    # -- what is held --------------------------------------------------------------------------

    def hold(
        self, messages: list[StreamMessage], asked_ms: int, *, count: bool = True
    ) -> list[StreamMessage]:
        """Note what is ours now, and keep its leases fresh from now on.

        asked_ms: when the server was asked. The lease began no earlier; an answer that lay around
        (a stopped process) may be so old that somebody else has the messages by now.
        """
        if messages:
            asked_ms = max(asked_ms, self._arriving_since_ms)
            self._renewed_at_ms = min(self._renewed_at_ms, asked_ms) if self.held else asked_ms
            self.held.update([(message.id, (message, message.data)) for message in messages])
            if self._to_park or self.kept:
                for message in messages:
                    self._to_park.pop(message.id, None)
                    self.kept.pop(message.id, None)
            if count:
                self.meter.read.record(len(messages))
            self.keep_leases()
        return messages

    # -- what arrives --------------------------------------------------------------------------

    def expect(self) -> Link:
        """Before a request whose answer may take long to arrive: the server holds messages under
        this name that are not known here yet, and they are leased until ``expect_no_more``."""
        link = self.pending.client.link()
        self._arriving_since_ms = 0
        link.receivers.add(self._arriving)
        return link

    def expect_no_more(self, link: Link) -> None:
        """It has ended; ``link`` is what ``expect`` gave."""
        link.receivers.discard(self._arriving)

    def _arriving(self) -> None:
        self._hooks.receiving()
        if self._arrival is None or self._arrival.done():
            self._arrival = asyncio.ensure_future(self._renew_arriving())

    async def _renew_arriving(self) -> None:
        asked_ms = mono_ms()
        try:
            await self.pending.renew_range(self.name, "-", "+")
        except OUTAGES as error:
            log.debug("the leases of what arrives could not be renewed: %s", error)
        else:
            self._arriving_since_ms = asked_ms

    async def take(self, offers: Sequence[SeenEntry]) -> list[StreamMessage]:
        """Take over entries that are still as they were seen."""
        await self.settle()  # or what waits to be given back would be, while it runs here again
        asked_ms = mono_ms()
        messages, gone = await self._take_over(sorted(offers, key=lambda o: id_key(o.id)))
        if gone:
            log.warning(
                "%d message(s) of %s were deleted before they were handled: %s",
                len(gone),
                self.pending.stream,
                ", ".join(gone[:5]),
            )
        self.hold(messages, asked_ms)
        return [message for message in messages if message.id not in self._to_ack]

    async def _take_over(
        self, offers: Sequence[SeenEntry], *, carried: bool = True
    ) -> tuple[list[StreamMessage], list[str]]:
        link = self.expect()
        try:
            return await self.pending.take(self.name, offers, carried=carried)
        except BaseException:
            self.unsure = True  # it may have been carried out
            self._asked_over = {offer.id: offer.new_count for offer in offers}
            raise
        finally:
            self.expect_no_more(link)

    async def give_back_stranded(self) -> None:
        """Give back, uncounted, what the server holds under this name and never arrived here.

        What is large comes alone the next time: it may be what did not arrive.
        """
        stranded = await self.stranded()
        sizes = await self.pending.sizes([offer.id for offer in stranded])
        given_back = [
            _uncounted(o.id, o.seen_count)._replace(suspect=sizes[o.id] > SMALL_BYTES)
            for o in stranded
        ]
        await self.pending.park(self.name, given_back)
        self.unsure = False

    async def stranded(self) -> list[SeenEntry]:
        """What the server holds under this name and this process does not know of.

        Where others may have the same name that is only what this process asked to take over.
        """
        entries = await self.pending.held_by(self.name)
        return [
            SeenEntry(e.id, e.consumer, e.delivery_count, 0, e.delivery_count)
            for e in entries
            if e.id not in self.held
            and (self._own_name or self._asked_over.get(e.id) == e.delivery_count)
        ]

    # -- leases --------------------------------------------------------------------------------

    def keep_leases(self) -> None:
        """Go on renewing, also where asyncio.run() has cancelled every task there was."""
        if self._keeper is None or self._keeper.done() or self._keeper.cancelling():
            self._keeper = asyncio.ensure_future(self._keep_leases())

    async def _keep_leases(self) -> None:
        """Renew what is held, whatever else goes on, as long as anything is held."""
        interval_ms = lease_interval_ms(self.config.min_idle_claim_ms)
        backoff = Backoff()
        while self.held:
            await asyncio.sleep(interval_ms / 1000)
            if mono_ms() - self._renewed_at_ms < interval_ms // 2:
                continue
            try:
                await self.renew()
                backoff.reset()
            except OUTAGES as error:
                backoff.next_s()
                if backoff.worth_a_line():
                    log.warning("the leases could not be renewed: %s", error)

    async def renew(self) -> None:
        """Renew the leases of all that is held, and forget what others have taken."""
        asked, asked_ms = dict(self.held), mono_ms()
        renewed = await self._renew(asked)
        self._renewed_at_ms = asked_ms  # the answer itself may have lain around
        self.on_answer(asked_ms, mono_ms())
        self._hooks.renewed()
        # What was settled while the answer was on its way is not lost.
        settled = self._to_ack.keys() | self._to_park.keys() | self._to_bury.keys()
        lost = {
            entry_id
            for entry_id in (renewed.taken | renewed.gone) - settled
            if self.held.get(entry_id) is asked[entry_id]
        }
        for entry_id in lost:
            del self.held[entry_id]
        if taken := sorted(lost & renewed.taken):
            log.warning("%d message(s) were taken over by others: %s", len(taken), taken[:5])
        if gone := sorted(lost & renewed.gone):
            log.warning("%d message(s) were acknowledged by others: %s", len(gone), gone[:5])
        if lost:
            self._on_lost(lost)

    async def _renew(self, held: Mapping[str, Held]) -> Renewed:
        counts = {i: message.delivery_count for i, (message, _) in held.items()}
        ended = asyncio.get_running_loop().create_future()
        self._renewals.add(ended)
        try:
            renewed = await self.pending.renew(self.name, counts)
        finally:
            self._renewals.discard(ended)
            ended.set_result(None)
        # What has been settled meanwhile is not needed any more.
        settled = [i for i in renewed.back if i in self._to_ack or self.held.get(i) is not held[i]]
        if settled:
            await self.pending.ack(settled)
        if back := sorted(renewed.back.difference(settled)):
            log.warning(
                "consumer %s was deleted while it held %d message(s), claimed back: %s",
                self.name,
                len(back),
                back[:5],
            )
        return renewed

    async def look_before_reading(self) -> None:
        """A read would make a deleted name again, and hide that it was deleted: look first."""
        unfinished = len(self.held) > len(self._to_ack)
        if unfinished and mono_ms() - self._renewed_at_ms >= LOOK_AT_NAME_MS:
            await self.flush_acks()  # they would have gone with the read
            await self.renew()

    async def _claimed_back(self, ids: Sequence[str]) -> set[str]:
        """Which of these, that Redis says are not ours, only were because our name was deleted.

        All that is held is looked at: claiming one back makes the name again, and then nothing
        would tell that the others were deleted with it.
        """
        asked = dict(self.held)
        return (await self._renew(asked)).back.intersection(ids) if asked else set()

    def lease_is_old(self, now_ms: int) -> bool:
        """Was this process stopped for so long that others may have taken what it holds?"""
        old = now_ms - self._renewed_at_ms > WATCH_MS
        return old and self.config.min_idle_claim_ms > 0

    # -- verdicts ------------------------------------------------------------------------------

    def note(self, messages: Sequence[StreamMessage], verdict: Verdict) -> None:
        """How handling them ended; Redis hears of it with the next settling or read."""
        if verdict is DONE:
            self._to_ack.update(dict.fromkeys([message.id for message in messages]))
            return
        for message in messages:
            try:
                self._carry_out(message, verdict)
            except Exception:  # whatever is wrong with it costs this message alone
                log.exception("what to do with message %s is unclear: tried again", message.id)
                self._to_park[message.id] = Parked(message.id, self.config.first_retry_ms)
        if retried := [message for message in messages if message.id in self._to_park]:
            self._say_tried_again(retried, verdict)

    def _say_tried_again(self, messages: Sequence[StreamMessage], verdict: Verdict) -> None:
        """One line, however large the batch was."""
        first, count = messages[0], len(messages)
        log.info(
            "%s of %s %s tried again in %d ms (delivery %d of %d%s): %s",
            first.id if count == 1 else f"{first.id} and {count - 1} more",
            self.pending.stream,
            "is" if count == 1 else "are",
            self._to_park[first.id].delay_ms,
            first.delivery_count,
            self.config.max_deliveries,
            "" if verdict.counted else ", not counted",
            verdict.error.partition("\n")[0],
        )

    def _carry_out(self, message: StreamMessage, verdict: Verdict) -> None:
        if verdict.outcome is Outcome.DROP:
            self.held.pop(message.id, None)
            log.info("%s of %s was cancelled while it ran", message.id, self.pending.stream)
        elif verdict.outcome is Outcome.EXPIRE:
            self._expired(message, verdict)
        elif verdict.outcome is Outcome.REJECT:
            self.condemn(message, REJECTED, verdict.error)
        elif verdict.counted and message.delivery_count >= self.config.max_deliveries:
            self.condemn(message, MAX_DELIVERIES, verdict.error)
        else:
            self._to_park[message.id] = self._retry(message, verdict)
            if verdict is NOT_ACKNOWLEDGED:
                self.kept[message.id] = None
                if len(self.kept) > MOST_KEPT:
                    del self.kept[next(iter(self.kept))]

    def _expired(self, message: StreamMessage, verdict: Verdict) -> None:
        if message.headers.get(DEAD) == "dead":
            self.condemn(message, EXPIRED, verdict.error)
            return
        self.meter.expired += 1
        self._to_ack[message.id] = None
        log.info("%s of %s has expired: %s", message.id, self.pending.stream, verdict.error)

    def note_kept_done(self, ids: Sequence[str]) -> None:
        """A handler that collects messages has finished these, of earlier batches.

        Whoever has them meanwhile: done is done.
        """
        for entry_id in ids:
            self.kept.pop(entry_id, None)
            self._to_park.pop(entry_id, None)
            self._to_ack[entry_id] = None

    def _retry(self, message: StreamMessage, verdict: Verdict) -> Parked:
        config = self.config
        delay_ms = verdict.delay_ms
        if delay_ms is None:
            delay_ms = retry_delay_ms(
                message.delivery_count,
                config.first_retry_ms,
                config.retry_max_delay_ms,
                random.random(),
            )
        self.burial.remember(message.id, verdict.error)
        due_ms = mono_ms() + delay_ms
        if self.next_retry_at_ms is None or due_ms < self.next_retry_at_ms:
            self.next_retry_at_ms = due_ms
        self._hooks.retrying(message, verdict, delay_ms)
        if verdict.counted:
            return Parked(message.id, delay_ms)
        return _uncounted(message.id, message.delivery_count, delay_ms)

    def condemn(
        self, message: StreamMessage, reason: str, error: str, worker: str | None = None
    ) -> None:
        """Bury it at the next settling; worker: who had it last, if not this one."""
        self._to_bury[message.id] = _Dead(message, reason, error, worker)

    def release(self, messages: Sequence[StreamMessage]) -> None:
        """Give unstarted messages back at the next settling: due now, this delivery uncounted."""
        for message in messages:
            if message.id not in self._to_ack:
                self._to_park[message.id] = _uncounted(message.id, message.delivery_count)

    # -- settling ------------------------------------------------------------------------------

    async def settle(self) -> None:
        """Park and bury what waits for it; a slow dlq_handler holds up no acknowledgement."""
        if self._to_bury:
            await self.flush_acks()
        if self._to_park:
            parked = dict(self._to_park)
            ours = await self.pending.park(self.name, list(parked.values()))
            if len(ours) < len(parked) and (
                back := await self._claimed_back([i for i in parked if i not in ours])
            ):
                await self.pending.park(self.name, [parked[i] for i in back])
            for entry_id in parked:
                self._to_park.pop(entry_id, None)
                self.held.pop(entry_id, None)
            if released := sum(e.deliveries >= 0 and not e.delay_ms for e in parked.values()):
                self._hooks.released(released)
        for entry_id, dead in list(self._to_bury.items()):
            await self._bury(dead)
            self._to_bury.pop(entry_id, None)
            self.held.pop(entry_id, None)

    def unacknowledged(self) -> list[str]:
        """What is done and Redis does not know of: for one XACK; say so with ``acknowledged``."""
        ids = list(self._to_ack)
        if ids:
            self._hooks.acknowledging(ids[0], self.meter.acked.total + len(ids))
        return ids

    def acknowledged(self, ids: Sequence[str]) -> None:
        """Redis has confirmed it."""
        done, release = self._to_ack.pop, self.held.pop
        for entry_id in ids:
            done(entry_id, None)
            release(entry_id, None)
        self.burial.forget(ids)
        self.meter.acked.record(len(ids))
        self._hooks.counted(self.meter)

    async def flush_acks(self) -> None:
        """Acknowledge now what is done."""
        if acks := self.unacknowledged():
            await self.pending.ack(acks)
            self.acknowledged(acks)

    # -- burials -------------------------------------------------------------------------------

    async def bury(
        self,
        offers: Sequence[SeenEntry],
        reason: str = MAX_DELIVERIES,
        error: str = "",
        *,
        carried: bool = True,
    ) -> int:
        """Take over dead entries and bury them; returns how many were buried.

        carried: a dlq_handler gets their payloads. (The letter is copied by the server itself.)
        """
        before = self.meter.dlq
        seen = {offer.id: offer for offer in offers}
        asked_ms = mono_ms()
        # Marked as they are taken: whatever happens then, no handler gets them.
        messages, gone = await self._take_over(
            [o._replace(new_count=marked(o.seen_count, reason)) for o in offers],
            carried=carried and self.burial.dlq_handler is not None,
        )
        if gone:
            log.warning("dead message(s) were already deleted, acknowledged: %s", gone[:5])
        for message in messages:
            message.delivery_count = seen[message.id].seen_count
            self.condemn(message, reason, error, seen[message.id].owner)
        self.hold(messages, asked_ms, count=False)
        await self.settle()
        return self.meter.dlq - before

    async def _bury(self, dead: _Dead) -> None:
        message = dead.message
        if held := self.held.get(message.id):
            message = replace(message, data=held[1])
        try:
            count = marked(message.delivery_count, dead.reason)
            ours = await self.pending.condemn(self.name, message.id, count)
            if not ours and await self._claimed_back([message.id]):
                ours = await self.pending.condemn(self.name, message.id, count)
            if not ours:
                log.warning("message %s was taken over by others, not buried here", message.id)
                return
            self._hooks.burying(message.id, self.meter.dlq + 1)
            buried = await self.burial.bury(
                message, dead.reason, owner=self.name, worker=dead.worker, error=dead.error
            )
        except ResponseError as refused:  # OOM, NOPERM, wrong type: the letter waits
            self._hooks.counted(self.meter)  # it was not buried, though it is no longer held
            await self.burial.refused(message, dead.reason, dead.error, str(refused), self.name)
            return
        self.meter.dlq += buried
        self._hooks.counted(self.meter)


class _Dead(NamedTuple):
    """A message on its way to the dead letters; worker: who had it last, if not this consumer."""

    message: StreamMessage
    reason: str
    error: str
    worker: str | None


def _uncounted(entry_id: str, delivery_count: int, delay_ms: int = 0) -> Parked:
    return Parked(entry_id, delay_ms, deliveries=uncounted(delivery_count))
