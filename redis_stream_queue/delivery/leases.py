"""The leases of what one consumer name holds: renewed for as long as it is held."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from .._clock import mono_ms
from .._log import logger
from ..connection.backoff import Backoff
from ..connection.exchange import OUTAGES
from ..connection.link import Link
from ..connection.reading import Made
from ..connection.refusals import words_of
from ..message import StreamMessage
from .hooks import Hooks
from .pending import PendingList, Renewed
from .sightings import WATCH_MS, lease_interval_ms
from .unsettled import Unsettled

log = logger(__name__)

Held = tuple[StreamMessage, Any]  # and its raw payload


class Leases:
    """The messages that are held under ``name``, and the time since which they are surely ours.

    If the name is deleted (XGROUP DELCONSUMER), the messages are claimed back. A read or a
    take-over that makes the name again hides that from the next renewal, so it says so here.

    min_idle_ms: after which others may take over what is not renewed; 0 = at once.
    on_lost: called with the ids of messages that others have taken. on_cancelled: called with the
    id of each message that was cancelled.
    on_answer: called when a renewal was asked for and when it was answered, in ms of mono_ms().
    """

    def __init__(
        self,
        pending: PendingList,
        min_idle_ms: int,
        unsettled: Unsettled,
        hooks: Hooks,
        on_lost: Callable[[set[str]], None],
        on_cancelled: Callable[[str], None],
    ) -> None:
        self.name = ""
        self.held: dict[str, Held] = {}
        self.on_answer: Callable[[int, int], None] = lambda asked_ms, now_ms: None
        self._pending = pending
        self._min_idle_ms = min_idle_ms
        self._unsettled = unsettled
        self._hooks = hooks
        self._on_lost = on_lost
        self._on_cancelled = on_cancelled
        self._renewed_at_ms = 0
        self._deletions = self._mended = 0  # of the name, and up to which of them all is back
        self._doubts = self._cleared = 0  # whether it was, and up to which of them it was looked at
        self._making = 0  # requests under way that may make the name again, or bring messages
        self._dropped: set[str] = set()  # cancelled since the first of these was sent
        # Those under way, each with the time since which what came meanwhile is surely ours.
        self._renewals: dict[asyncio.Future[None], int] = {}
        self._arriving_since_ms = 0
        self._keeper: asyncio.Task[None] | None = None
        self._arrival: asyncio.Task[None] | None = None

    def close(self) -> None:
        """Renew no more."""
        for task in (self._keeper, self._arrival):
            if task is not None:
                task.cancel()

    async def renewals_ended(self) -> None:
        """Wait for renewals under way: one that came later would claim back what is settled."""
        if self._renewals:
            await asyncio.wait(self._renewals)

    def hold(self, messages: list[StreamMessage], asked_ms: int) -> list[StreamMessage]:
        """Hold messages that were ours when Redis was asked; renew their leases from now on.

        Returns those that were not cancelled on their way.
        """
        if self._dropped:
            messages = [message for message in messages if message.id not in self._dropped]
        asked_ms = max(asked_ms, self._arriving_since_ms)
        self._renewed_at_ms = min(self._renewed_at_ms, asked_ms) if self.held else asked_ms
        for renewal, since_ms in self._renewals.items():
            self._renewals[renewal] = min(since_ms, asked_ms)
        held = self.held
        for message in messages:
            held[message.id] = message, message.data
        self.keep()
        return messages

    def drop(self, entry_id: str) -> bool:
        """Hold this message no more, as it was cancelled; returns whether it was held.

        It may be on its way to us: the news of that came on another connection, and sooner.
        """
        if self._making:
            self._dropped.add(entry_id)
        return self.held.pop(entry_id, None) is not None

    @property
    def unfinished(self) -> bool:
        """Is something held that is not done?"""
        return len(self.held) > len(self._unsettled.to_ack)

    @property
    def look_first(self) -> bool:
        """Is a renewal due before the next read, since the name was deleted or may be?"""
        return self.unfinished and (self._doubts > self._cleared or self._deletions > self._mended)

    def name_was_made(self, made: Made) -> None:
        """Did a request have to make the name again? An error = it cannot be told."""
        if isinstance(made, Exception):
            self._doubts += 1
        elif made and self.unfinished:
            self._deletions += 1

    def expect(self) -> Link:
        """Before a request whose answer may take long to arrive: the server holds messages under
        this name that are not known here yet, and they are leased until ``expect_no_more``."""
        link = self._pending.client.link()
        if not self._making:
            self._dropped.clear()
        self._making += 1
        self._arriving_since_ms = 0
        link.receivers.add(self._arriving)
        return link

    def expect_no_more(self, link: Link, made: Made) -> None:
        """That request has ended. link: what expect() returned. made: see name_was_made()."""
        if made:
            self.name_was_made(made)
        link.receivers.discard(self._arriving)
        self._making -= 1

    def _arriving(self) -> None:
        self._hooks.receiving()
        if self._arrival is None or self._arrival.done():
            self._arrival = asyncio.ensure_future(self._renew_arriving())

    async def _renew_arriving(self) -> None:
        asked_ms = mono_ms()
        try:
            await self._pending.renew_range(self.name, "-", "+")
        except OUTAGES as error:
            self._hooks.redis_failed()
            log.debug("the leases of what arrives could not be renewed: %s", error)
        else:
            self._arriving_since_ms = asked_ms

    def keep(self) -> None:
        """Go on renewing, also where asyncio.run() has cancelled every task there was."""
        if self._keeper is None or self._keeper.done() or self._keeper.cancelling():
            self._keeper = asyncio.ensure_future(self._keep())

    async def _keep(self) -> None:
        """Renew what is held, whatever else goes on, as long as anything is held."""
        interval_ms = lease_interval_ms(self._min_idle_ms)
        backoff = Backoff()
        while self.held:
            await asyncio.sleep(interval_ms / 1000)
            if mono_ms() - self._renewed_at_ms < interval_ms // 2:
                continue
            try:
                await self.renew()
                backoff.reset()
            except OUTAGES as error:
                self._hooks.redis_failed()
                backoff.next_s()
                if backoff.worth_a_line():
                    log.warning("the leases could not be renewed: %s", words_of(error))

    async def renew(self) -> None:
        """Renew the leases of all that is held, and forget what others have taken."""
        asked, asked_ms = dict(self.held), mono_ms()
        renewed = await self._renew(asked)
        self.on_answer(asked_ms, mono_ms())
        self._hooks.renewed()
        if missing := self._lost_of(asked, renewed.gone):  # a cancellation that was not heard of?
            cancelled = await self._pending.cancelled(missing)
            for entry_id in self._lost_of(asked, cancelled):
                self._on_cancelled(entry_id)
        lost = self._lost_of(asked, renewed.taken | renewed.gone)
        for entry_id in lost:
            del self.held[entry_id]
        _say_lost(lost & renewed.taken, lost & renewed.gone)
        if lost:
            self._on_lost(lost)

    def _lost_of(self, asked: Mapping[str, Held], ids: set[str]) -> set[str]:
        """Those of these ids that are still held: what was settled meanwhile is not lost."""
        settled = self._unsettled.settled()
        return {i for i in ids - settled if self.held.get(i) is asked[i]}

    async def _renew(self, held: Mapping[str, Held]) -> Renewed:
        counts = {i: message.delivery_count for i, (message, _) in held.items()}
        ended = asyncio.get_running_loop().create_future()
        self._renewals[ended] = mono_ms()  # the answer itself may lie around
        deletions, doubts = self._deletions, self._doubts
        try:
            renewed = await self._pending.renew(self.name, counts, deletions > self._mended)
        finally:
            since_ms = self._renewals.pop(ended)
            ended.set_result(None)
        self._renewed_at_ms = since_ms
        self._mended, self._cleared = max(self._mended, deletions), max(self._cleared, doubts)
        if self._making or self._deletions > deletions:
            renewed.gone.clear()  # the next renewal will know whether the name was deleted
        # What has been settled meanwhile is not needed any more.
        settled = [
            i
            for i in renewed.back
            if i in self._unsettled.to_ack or self.held.get(i) is not held[i]
        ]
        if settled:
            await self._pending.ack(settled)
        if back := sorted(renewed.back.difference(settled)):
            log.warning(
                "consumer %s was deleted while it held %d message(s), claimed back: %s",
                self.name,
                len(back),
                back[:5],
            )
        return renewed

    async def claimed_back(self, ids: Sequence[str]) -> set[str]:
        """Claim back those of these ids that Redis lost with our deleted name; returns them.

        All that is held is looked at: claiming one back makes the name again, and then nothing
        would tell that the others were deleted with it.
        """
        asked = dict(self.held)
        if not asked:
            return set()
        renewed, others = await self._renew(asked), set(ids)
        if gone := renewed.gone & others:
            gone -= await self._pending.cancelled(gone)
        _say_lost(renewed.taken & others, gone)
        return renewed.back & others

    def is_old(self, now_ms: int) -> bool:
        """Was this process stopped for so long that others may have taken what it holds?"""
        old = now_ms - self._renewed_at_ms > WATCH_MS
        return old and self._min_idle_ms > 0


def _say_lost(taken: set[str], gone: set[str]) -> None:
    if taken:
        log.warning("%d message(s) were taken over by others: %s", len(taken), sorted(taken)[:5])
    if gone:
        log.warning("%d message(s) were acknowledged by others: %s", len(gone), sorted(gone)[:5])
