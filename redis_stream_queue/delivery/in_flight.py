"""What one consumer name holds in the pending entries list, and what it still has to tell Redis.

Every message that is held has a lease, which is renewed until the message is settled:
acknowledged, given back or buried. Each of these waits in a queue of its own until Redis has
confirmed it, so that an outage in between loses nothing.
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from itertools import islice

from redis.exceptions import ResponseError

from .._burial_mark import MAX_DELIVERIES, marked
from .._clock import mono_ms
from .._log import logger
from .._names import worker_name
from ..client import StreamClient
from ..config import ConsumerConfig
from ..connection.carrying import NotCarriedError, carry
from ..connection.exchange import OUTAGES
from ..connection.refusals import words_of
from ..handlers import DLQHandler
from ..later.postponed import LONG_MS
from ..message import StreamMessage, id_key
from ..metrics import ConsumerMeter
from ..serializers import Serializer
from .answers import AT_ONCE
from .dead_letter import DeadLetterWriter
from .hooks import Hooks
from .leases import Leases
from .pending import ANY_COUNT, SMALL_BYTES, Parked, PendingList, SeenEntry
from .rules import RulesOf, as_configured
from .unsettled import Dead, Unsettled, given_back

log = logger(__name__)

RESERVE_TRIES = 20


class InFlight:
    """What one consumer holds, of ``config.group`` on ``stream``; see the module's text.

    own_name: nobody else has ``config.worker_name``. (One that was given may be a namesake's: what
    it holds and never arrived here is not ours.)
    rules_of: what the handler knows of a message.
    on_lost, on_cancelled: see Leases.
    held: by id. unsure: the server may hold something under this name that never arrived here.
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
        on_cancelled: Callable[[str], None] = lambda _: None,
        own_name: bool = False,
        rules_of: RulesOf = as_configured,
    ) -> None:
        self.config = config
        self.meter = ConsumerMeter()
        self.pending = PendingList(client, stream, config.group, config.payload_field)
        self.letters = DeadLetterWriter(self.pending, config, dlq_handler, serializer)
        self._hooks = hooks = hooks or Hooks()
        self.unsettled = Unsettled(
            stream,
            config,
            hooks,
            self.meter,
            self.letters.remember,
            self._forget,
            rules_of,
        )
        self.leases = Leases(
            self.pending,
            config.min_idle_claim_ms,
            self.unsettled,
            hooks,
            on_lost,
            on_cancelled,
        )
        self.held = self.leases.held
        self.name = config.worker_name or ""
        self.unsure = False
        self._own_name = own_name or config.worker_name is None
        self._asked_for = ""
        self._asked_over: dict[str, int] = {}  # ids and counts of a take-over without an answer

    # -- the name ------------------------------------------------------------------------------

    @property
    def name(self) -> str:
        """The consumer's name; "" until one is reserved."""
        return self.leases.name

    @name.setter
    def name(self, name: str) -> None:
        self.leases.name = name

    async def reserve_name(self) -> None:
        """Take a consumer name that nobody has; a configured one is used as it is."""
        if self.name:
            self.leases.name_was_made(await self.pending.reserve(self.name))
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
            self.unsettled.release([message for message, _ in self.held.values()])
            await self.settle()
            await self.give_back_stranded()
            await self.leases.renewals_ended()
            await self.pending.prune(self.name)

    # -- what is held --------------------------------------------------------------------------

    def hold(
        self, messages: list[StreamMessage], asked_ms: int, *, count: bool = True
    ) -> list[StreamMessage]:
        """Hold messages that are ours now, and renew their leases from now on.

        asked_ms: when the server was asked. The lease began no earlier; an answer that lay around
        (a stopped process) may be so old that somebody else has the messages by now.
        """
        if messages:
            messages = self.leases.hold(messages, asked_ms)
            if self.unsettled.to_park or self.unsettled.kept:
                self.unsettled.handed_again(messages)
            if count:
                self.meter.read.record(len(messages))
        return messages

    async def take(self, offers: Sequence[SeenEntry]) -> list[StreamMessage]:
        """Take over entries that are still as they were seen.

        First Redis hears of what is done: no read follows that would carry it. And what waits to be
        given back is, or it would be while it runs here again.
        """
        await self.flush_acks()
        await self.settle()
        asked_ms = mono_ms()
        try:
            messages, gone = await self._take_over(sorted(offers, key=lambda o: id_key(o.id)))
        except BaseException:  # a cancellation, too: it may have been carried out
            self.unsure = True
            self._asked_over = {offer.id: offer.new_count for offer in offers}
            raise
        if gone:
            log.warning(
                "%d message(s) of %s were deleted before they were handled: %s",
                len(gone),
                self.pending.stream,
                ", ".join(gone[:5]),
            )
        self.hold(messages, asked_ms)
        return [message for message in messages if message.id not in self.unsettled.to_ack]

    async def _take_over(
        self, offers: Sequence[SeenEntry], *, carried: bool = True
    ) -> tuple[list[StreamMessage], list[str]]:
        link, made = self.leases.expect(), False
        try:
            messages, gone, made = await self.pending.take(self.name, offers, carried=carried)
            return messages, gone
        finally:
            self.leases.expect_no_more(link, made)

    async def give_back_stranded(self) -> None:
        """Give back, uncounted, what the server holds under this name and never arrived here.

        What is large comes alone the next time: it may be what did not arrive.
        """
        stranded = await self.stranded()
        sizes = await self.pending.sizes([offer.id for offer in stranded])
        parked = [
            given_back(o.id, o.seen_count)._replace(suspect=sizes[o.id] > SMALL_BYTES)
            for o in stranded
        ]
        await self.pending.park(self.name, parked)
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

    def _forget(self, entry_id: str) -> None:
        self.held.pop(entry_id, None)

    async def look_before_reading(self) -> None:
        """Claim back what was lost with the name, before more comes under it."""
        if self.leases.look_first:
            await self.flush_acks()  # they would have gone with the read
            await self.leases.renew()

    # -- settling ------------------------------------------------------------------------------

    async def settle(self) -> None:
        """Answer, park and bury what waits for it; a slow dlq_handler holds up no
        acknowledgement."""
        if self.unsettled.answers:
            await self._answer()
        if self.unsettled.to_bury:
            await self.flush_acks()
        if self.unsettled.to_park:
            parked = dict(self.unsettled.to_park)
            ours = await self._give_back(list(parked.values()))
            if len(ours) < len(parked) and (
                back := await self.leases.claimed_back([i for i in parked if i not in ours])
            ):
                await self._give_back([parked[i] for i in back])
            for entry_id in parked:
                self.unsettled.to_park.pop(entry_id, None)
                self.held.pop(entry_id, None)
            if released := sum(e.deliveries >= 0 and not e.delay_ms for e in parked.values()):
                self._hooks.released(released)
        for entry_id, dead in list(self.unsettled.to_bury.items()):
            await self._bury(dead)
            self.unsettled.to_bury.pop(entry_id, None)
            self.held.pop(entry_id, None)

    async def _give_back(self, parked: Sequence[Parked]) -> set[str]:
        """Park messages, or schedule those that wait long; returns the ids that were ours."""
        away = {entry.id for entry in parked if entry.delay_ms > LONG_MS}
        if away:
            errors = {entry_id: self.letters.known_error(entry_id) for entry_id in away}
            away = await self.pending.postpone(
                self.name, [entry for entry in parked if entry.id in away], errors
            )
            self.letters.forget(list(away))
        here = [entry for entry in parked if entry.id not in away]
        return away | set(await self.pending.park(self.name, here))

    def unacknowledged(self) -> list[str]:
        """What is done and Redis does not know of: for one XACK; say so with ``acknowledged``."""
        ids, answers = list(self.unsettled.to_ack), self.unsettled.answers
        if answers:  # these are acknowledged as they are answered
            ids = [entry_id for entry_id in ids if entry_id not in answers]
        if ids:
            self._hooks.acknowledging(ids[0], self.meter.acked.total + len(ids))
        return ids

    def acknowledged(self, ids: Sequence[str]) -> None:
        """Redis has confirmed these acknowledgements."""
        done, release = self.unsettled.to_ack.pop, self.held.pop
        for entry_id in ids:
            done(entry_id, None)
            release(entry_id, None)
        self.letters.forget(ids)
        self.meter.acked.record(len(ids))
        self._hooks.counted(self.meter)

    async def flush_acks(self) -> None:
        """Acknowledge now what is done."""
        if self.unsettled.answers:
            await self._answer()
        if acks := self.unacknowledged():
            await self.pending.ack(acks)
            self.acknowledged(acks)

    async def _answer(self) -> None:
        answers = self.unsettled.answers
        while some := dict(islice(answers.items(), AT_ONCE)):
            ids = list(some)
            self._hooks.acknowledging(ids[0], self.meter.acked.total + len(ids))
            if refused := await self.pending.answer(some):
                log.warning("%d result(s) could not be kept: Redis refuses them", refused)
            self.acknowledged(ids)
            for entry_id in ids:
                answers.pop(entry_id, None)

    # -- burials -------------------------------------------------------------------------------

    async def bury(
        self, offers: Sequence[SeenEntry], reason: str = MAX_DELIVERIES, error: str = ""
    ) -> int:
        """Take over dead entries, one after the other, and bury them; returns how many."""
        before = self.meter.dlq
        if offers and not self.name:
            await self.reserve_name()
        for offer in offers:
            message = StreamMessage(offer.id, b"", offer.seen_count)
            self.unsettled.note_dead(message, reason, error, offer)
        await self.settle()
        return self.meter.dlq - before

    async def _bury(self, dead: Dead) -> None:
        """The only way to the dead letters, wherever it was found that the message is dead.

        The message is taken and marked in one step: from then on no handler gets it any more, and
        a process that finds it goes on with the burial. Then come the dlq_handler, and the letter
        with the acknowledgement: see dead_letter.py.
        """
        ours = await self._marked(dead)
        if ours is None:
            return
        message, reason, error, seen, _ = ours
        self._hooks.burying(message.id, self.meter.dlq + 1)
        try:
            buried = await self.letters.write(
                message, reason, error, owner=self.name, worker=seen and seen.owner
            )
        except ResponseError as refused:  # OOM, NOPERM, wrong type: the letter waits
            self._hooks.counted(self.meter)  # it was not buried, though it is no longer held
            await self.letters.refused(message, reason, error, words_of(refused), self.name)
            return
        self.meter.dlq += buried
        self._hooks.counted(self.meter)
        if buried:
            self._hooks.buried(reason)

    async def _marked(self, dead: Dead) -> Dead | None:
        """Mark it; returns it with its raw payload, None if others have it or it is gone."""
        entry_id, asked_ms = dead.message.id, mono_ms()
        taken, gone, why = await self._take_dead(dead)
        if dead.seen is None and not (taken or gone) and await self.leases.claimed_back([entry_id]):
            taken, gone, why = await self._take_dead(dead)
        if gone:
            log.warning(
                "dead message %s was already deleted from %s; acknowledged",
                entry_id,
                self.pending.stream,
            )
        if not taken:
            if not gone and dead.seen is None:
                log.warning("message %s was taken over by others, not buried here", entry_id)
            return None
        if dead.seen is not None:
            self.hold(taken, asked_ms, count=False)
        held, payload = self.held.get(entry_id, (dead.message, dead.message.data))
        message = replace(held, data=payload, delivery_count=dead.message.delivery_count)
        return dead._replace(message=message, error=why or dead.error)

    async def _take_dead(self, dead: Dead) -> tuple[list[StreamMessage], list[str], str]:
        """Marked; and why its payload could not be read in, for a dlq_handler, if it could not.

        (The letter is copied by the server itself.)
        """
        entry_id, count = dead.message.id, marked(dead.message.delivery_count, dead.reason)
        mine = SeenEntry(entry_id, self.name, ANY_COUNT, 0, count)
        if dead.seen is None:
            return *await self._take_over([mine], carried=False), ""
        seen = dead.seen._replace(new_count=count)
        carried = self.letters.dlq_handler is not None
        try:
            offers = [mine, seen] if dead.asked else [seen]
            return *await self._take_over(offers, carried=carried), ""
        except ResponseError:
            raise
        except BaseException as error:  # a cancellation, too: it may have been carried out
            self.unsettled.to_bury[entry_id] = dead._replace(asked=True)
            if not (carried and isinstance(error, (*OUTAGES, MemoryError))):
                raise
        pending = self.pending
        link, key = pending.client.link(), pending.client.key(pending.stream)
        size = (await pending.sizes([entry_id]))[entry_id]
        try:
            taken = await carry(link, key, size, partial(self._take_over, [mine, seen]), 1)
            return *taken, ""
        except NotCarriedError as error:
            return *await self._take_over([mine], carried=False), str(error)
