"""Session: one life of one consumer name. Reads, handles, settles, keeps its leases.

Used by StreamConsumer and by the pool's worker; it decides when to read nowhere, and it never
sweeps. What it holds is in ``held``; what is done but not yet acknowledged in ``_to_ack``.
"""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import logging
import random
import socket
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from redis.exceptions import ResponseError

from . import burial as letters
from ._clock import mono_ms
from ._keys import worker_name
from ._link import OUTAGES, Channel, Command, first_error
from ._replies import entry_messages
from .backoff import Backoff
from .burial import Burial
from .client import StreamClient, read_command, read_entries
from .config import ConsumerConfig
from .handlers import DLQHandler, Handler, PerMessage, is_async, run_batch, run_batch_async
from .hooks import Hooks
from .message import StreamMessage, id_key
from .metrics import ConsumerMeter
from .pending import Offer, Parked, PendingList
from .retry_delay import retry_delay_ms
from .serializers import JsonSerializer, Serializer
from .work import DONE, Outcome, Verdict, Work, one_line

log = logging.getLogger("redis_stream_queue")

ANSWER_S = 0.7  # longest time to an answer, besides a read's block; then the connection is dead
ACK_DELAY_S = 0.05  # longest that a finished message waits for its acknowledgement
MAX_RENEW_INTERVAL_MS = 1000
UNBLOCK_PAUSE_S = 0.002
BLOCK_WITHOUT_UNBLOCK_MS = 250  # where an ACL forbids CLIENT ID or CLIENT UNBLOCK
RESERVE_TRIES = 20
CONDEMNED = 10**9  # delivery counts above it: dead, whatever max_deliveries says; and burials begun
DLQ_HANDLER_TRIES = 3  # a dlq_handler that ends the process so often is passed over

ErrorHook = Callable[[BaseException, list[StreamMessage]], Any]
Held = tuple[StreamMessage, Any]  # and its raw payload
RunPlain = Callable[[Callable[[], None]], Awaitable[None]]


async def run_in_thread(call: Callable[[], None]) -> None:
    """Run a plain handler beside the loop, so that the loop stays alive."""
    await asyncio.to_thread(call)


class Session:
    """One consumer of ``config.group`` on ``stream``; see the module's text.

    run_plain: how a plain (not async) handler is run.
    """

    def __init__(
        self,
        client: StreamClient,
        stream: str,
        config: ConsumerConfig,
        handler: Handler,
        *,
        dlq_handler: DLQHandler | None = None,
        serializer: Serializer | None = None,
        error_hook: ErrorHook | None = None,
        hooks: Hooks | None = None,
        run_plain: RunPlain = run_in_thread,
    ) -> None:
        self.client = client
        self.stream = stream
        self.config = config
        self.handler = handler
        self.serializer = serializer or JsonSerializer()
        self.error_hook = error_hook
        self.hooks = hooks or Hooks()
        self.meter = ConsumerMeter()
        self.name = config.worker_name or ""
        self._asked_for = ""
        self.pending = PendingList(client, stream, config.group, config.payload_field)
        self.burial = Burial(
            self.pending,
            dlq_stream=config.dlq_stream,
            dlq_max_len=config.dlq_max_len,
            dlq_handler=dlq_handler,
            max_deliveries=config.max_deliveries,
            serializer=self.serializer if config.payload_field is not None else None,
        )
        self.held: dict[str, Held] = {}
        self.next_retry_at_ms: int | None = None
        self._to_ack: dict[str, None] = {}
        self._to_park: dict[str, Parked] = {}
        self._to_bury: dict[str, _Dead] = {}
        self._run_plain = run_plain
        self._side_by_side = isinstance(handler, PerMessage) and handler.concurrency > 1
        self._work: Work | None = None
        self._channel: Channel | None = None
        self._acks_refused = False
        self._settling = Backoff()
        self._reading = False
        self._unblocker: asyncio.Task[None] | None = None
        self._read_broken = False
        self._renewed_at_ms = 0
        self._keeper: asyncio.Task[None] | None = None
        self._hooked: set[asyncio.Task[None]] = set()

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
            await self._end_broken_read()
            await self.settle()
            await self.flush_acks()
            self.release([message for message, _ in self.held.values()])
            await self.settle()
            stranded = await self._stranded()
            await self.pending.park(self.name, [_uncounted(o.id, o.seen_count) for o in stranded])
            await self.pending.prune(self.name)
        await self.close()

    async def close(self) -> None:
        """Close the reading connection."""
        for task in (self._unblocker, self._keeper):
            if task is not None:
                task.cancel()
        if self._channel is not None:
            await self.client.link().drop(self._channel)
            self._channel = None

    # -- reading -------------------------------------------------------------------------------

    async def read(self, count: int, block_ms: int) -> list[StreamMessage]:
        """New messages with raw data; acknowledgements that wait travel with the request.

        Returns [] after ``block_ms``, or early after ``interrupt()``. After a read that broke,
        first returns what the server delivered and this process never saw.
        """
        await self.settle()
        if self._acks_refused:  # no more messages than can be acknowledged
            await self.flush_acks()
            self._acks_refused = False
        if self._read_broken and (stranded := await self._take_stranded(count)):
            return stranded
        if self._channel is None:
            self._channel = self.client.channel(self.stream)
        if self._channel.connection is not None and self._channel.client_id is None:
            block_ms = min(block_ms, BLOCK_WITHOUT_UNBLOCK_MS)
        key, group = self.client.key(self.stream), self.config.group
        acks = list(self._to_ack)
        commands: list[Command] = [("XACK", key, group, *acks)] if acks else []
        commands.append(read_command(key, group, self.name, count, block_ms))

        def on_reply(index: int, reply: Any) -> None:
            # The acknowledgement is answered at once, the read perhaps much later.
            if acks and index == 0 and not isinstance(reply, Exception):
                self._acked(acks)

        asked_ms = mono_ms()
        self._reading = True
        try:
            replies = await self._channel.run(commands, ANSWER_S, on_reply, block_s=block_ms / 1000)
        except BaseException:
            self._read_broken = True
            raise
        finally:
            self._reading = False
        first_error(replies[-1:])
        entries = read_entries(replies[-1])
        self._acks_refused = isinstance(replies[0], Exception)
        if not entries:
            first_error(replies)
        return self._hold(entry_messages(entries, self.config.payload_field, 1), asked_ms)

    def interrupt(self) -> None:
        """End a blocked read at once, with an empty result. Call it in the loop's thread."""
        if self._reading and (self._unblocker is None or self._unblocker.done()):
            self._unblocker = asyncio.ensure_future(self._unblock())

    async def _unblock(self) -> None:
        # CLIENT UNBLOCK finds nothing while the read is still on its way: ask until it ends.
        link, key = self.client.link(), self.client.key(self.stream)
        while self._reading and self._channel is not None:
            client_id = self._channel.client_id
            try:
                if client_id is not None and await link.call(key, "CLIENT", "UNBLOCK", client_id):
                    return
            except OUTAGES as error:
                log.debug("CLIENT UNBLOCK failed: %s", error)
                self._channel.client_id = None
                return
            await asyncio.sleep(UNBLOCK_PAUSE_S)

    async def take(self, offers: Sequence[Offer]) -> list[StreamMessage]:
        """Take over entries that are still as they were seen."""
        await self.settle()  # or what waits to be given back would be, while it runs here again
        asked_ms = mono_ms()
        messages, gone = await self._take_over(sorted(offers, key=lambda o: id_key(o.id)))
        if gone:
            log.warning(
                "%d message(s) of %s were deleted before they were handled: %s",
                len(gone),
                self.stream,
                ", ".join(gone[:5]),
            )
        self._hold(messages, asked_ms)
        return [message for message in messages if message.id not in self._to_ack]

    async def _take_over(self, offers: Sequence[Offer]) -> tuple[list[StreamMessage], list[str]]:
        try:
            return await self.pending.take(self.name, offers)
        except BaseException:
            self._read_broken = True  # it may have been carried out
            raise

    def _hold(
        self, messages: list[StreamMessage], asked_ms: int, *, count: bool = True
    ) -> list[StreamMessage]:
        """Note what is ours now.

        asked_ms: when the server was asked. The lease began no earlier; an answer that lay around
        (a stopped process) may be so old that somebody else has the messages by now.
        """
        if messages:
            self._renewed_at_ms = min(self._renewed_at_ms, asked_ms) if self.held else asked_ms
            self.held.update([(message.id, (message, message.data)) for message in messages])
            if self._to_park:
                for message in messages:
                    self._to_park.pop(message.id, None)
            if count:
                self.meter.read.record(len(messages))
            if self._keeper is None or self._keeper.done():
                self._keeper = asyncio.ensure_future(self._keep_leases())
        return messages

    async def _stranded(self) -> list[Offer]:
        """What the server holds under this name and this process does not know of."""
        entries = await self.pending.held_by(self.name)
        return [
            Offer(e.id, e.consumer, e.delivery_count, 0, e.delivery_count)
            for e in entries
            if e.id not in self.held
        ]

    async def _take_stranded(self, count: int) -> list[StreamMessage]:
        """A batch of what is stranded; the last permitted delivery of a message comes alone."""
        await self._end_broken_read()
        offers = await self._stranded()
        alone = [offer for offer in offers if self.config.policy.is_last(offer.new_count)]
        chosen = alone[:1] or offers[:count]
        messages = await self.take(chosen)
        self._read_broken = len(chosen) < len(offers)
        return messages

    async def _end_broken_read(self) -> None:
        """Make sure that the server no longer serves a read whose reply nobody waits for."""
        channel = self._channel
        if not self._read_broken or channel is None or channel.client_id is None:
            return
        with contextlib.suppress(ResponseError):  # gone already, or an ACL forbids it
            link, key = self.client.link(), self.client.key(self.stream)
            await link.call(key, "CLIENT", "KILL", "ID", channel.client_id)
        await channel.close()

    # -- handling ------------------------------------------------------------------------------

    async def handle(self, messages: Sequence[StreamMessage]) -> None:
        """Decode, run the handler, settle. Acknowledgements wait for the next read or flush."""
        self.hooks.batch_started(messages)  # first: what kills us may be the decoding
        work = Work(
            self._decode(messages),
            self.hooks.message_started,
            self.hooks.message_finished if self._side_by_side else None,
            self._lease_is_old,
            self._verify,
        )
        if work.messages:
            await self._run(work)
        else:
            self.hooks.batch_finished()
        if self._hooked:
            await asyncio.gather(*self._hooked)
        await self.settle()

    async def _run(self, work: Work) -> None:
        self._work = work
        try:
            if self._lease_is_old(mono_ms()):
                await self._verify(work)
            task = asyncio.ensure_future(self._call(work))
            try:
                await self._tend(task, work)
                await task
            except asyncio.CancelledError:
                await self._cancelled(task, work)
                raise
        finally:
            self._work = None
            self.hooks.batch_finished()
            self._collect(work)
            self.release(work.unfinished())

    def _decode(self, messages: Sequence[StreamMessage]) -> list[StreamMessage]:
        if self.config.payload_field is None:
            return list(messages)
        decode = self.serializer.decode
        decoded = []
        for message in messages:
            try:
                message.data = decode(message.data)
            except Exception as error:  # a serializer may raise anything: never retried
                self._to_bury[message.id] = _Dead(message, letters.DECODE_ERROR, one_line(error))
            else:
                decoded.append(message)
        return decoded

    async def _call(self, work: Work) -> None:
        handler = self.handler
        if isinstance(handler, PerMessage):
            if handler.is_async:
                await handler.run_async(work)
            else:
                await self._run_plain(lambda: handler.run(work))
        elif is_async(handler):
            await run_batch_async(handler, work)
        else:
            await self._run_plain(lambda: run_batch(handler, work))

    async def _tend(self, task: asyncio.Task[None], work: Work) -> None:
        """Until the handler ends: settle what is done, give back on request."""
        pause_s = 0.0
        while True:
            await asyncio.wait({task}, timeout=ACK_DELAY_S + pause_s)
            if task.done():
                return
            self.release(self.hooks.tending(work))
            self._collect(work)
            await self._try_to_settle()
            pause_s = self._settling.pause_s

    async def _try_to_settle(self) -> None:
        try:
            await self.flush_acks()
            await self.settle()
            self._settling.reset()
        except OUTAGES as error:
            self._settling.next_s()
            if self._settling.worth_a_line():
                log.warning("Redis did not answer while a handler ran: %s", error)

    async def _cancelled(self, task: asyncio.Task[None], work: Work) -> None:
        """The consumer is cancelled: start nothing more; a plain handler cannot be interrupted."""
        self.release(work.withdraw())
        self._collect(work)
        await self._try_to_settle()
        if is_async(self.handler):
            task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.shield(task)

    def stop_starting(self) -> None:
        """Let what runs finish, and give back the rest of its batch."""
        if self._work is not None:
            self.release(self._work.withdraw())

    async def _keep_leases(self) -> None:
        """Renew what is held, whatever else goes on, as long as anything is held."""
        interval_ms = min(max(self.config.min_idle_claim_ms // 3, 1), MAX_RENEW_INTERVAL_MS)
        backoff = Backoff()
        while self.held:
            await asyncio.sleep(interval_ms / 1000)
            if mono_ms() - self._renewed_at_ms < interval_ms // 2:
                continue
            try:
                await self._renew_and_note()
                backoff.reset()
            except OUTAGES as error:
                backoff.next_s()
                if backoff.worth_a_line():
                    log.warning("the leases could not be renewed: %s", error)

    async def _renew_and_note(self) -> None:
        lost = await self.renew()
        if self._work is not None:
            self._work.lost |= lost

    async def renew(self) -> set[str]:
        """Renew the leases of all that is held; returns the ids that others have taken."""
        asked, asked_ms = dict(self.held), mono_ms()
        answer = await self.pending.renew(self.name, list(asked))
        self._renewed_at_ms = asked_ms  # the answer itself may have lain around
        self.hooks.renewed()
        # What was settled while the answer was on its way is not lost.
        lost = {
            entry_id
            for entry_id in answer - self._to_ack.keys() - self._to_park.keys()
            if self.held.get(entry_id) is asked[entry_id] and entry_id not in self._to_bury
        }
        for entry_id in lost:
            del self.held[entry_id]
        if lost:
            log.warning("%d message(s) were taken over by others: %s", len(lost), sorted(lost)[:5])
        return lost

    def _lease_is_old(self, now_ms: int) -> bool:
        """Was this process stopped for so long that others may have taken what it holds?"""
        return now_ms - self._renewed_at_ms > self.config.min_idle_claim_ms

    async def _verify(self, work: Work) -> None:
        if self._lease_is_old(mono_ms()):
            work.lost |= await self.renew()

    # -- settling ------------------------------------------------------------------------------
    # Verdicts first go into three queues; an entry leaves its queue when Redis has confirmed it,
    # so that an outage in between loses nothing.

    def _collect(self, work: Work) -> None:
        for messages, verdict in work.collect():
            if verdict is DONE:
                self._to_ack.update(dict.fromkeys([message.id for message in messages]))
            else:
                for message in messages:
                    self._failed(message, verdict)
        if work.errors:
            self._report(work)

    def _failed(self, message: StreamMessage, verdict: Verdict) -> None:
        if verdict.outcome is Outcome.REJECT:
            self._to_bury[message.id] = _Dead(message, letters.REJECTED, verdict.error)
        elif message.delivery_count >= self.config.max_deliveries:
            self._to_bury[message.id] = _Dead(message, letters.MAX_DELIVERIES, verdict.error)
        else:
            self._to_park[message.id] = self._retry(message, verdict)

    def _report(self, work: Work) -> None:
        errors, work.errors = work.errors, []
        for error, messages in errors:
            self.meter.errors += 1
            log.error(
                "handler failed for %s of %s (delivery %d of %d)",
                messages[0].id if len(messages) == 1 else f"{len(messages)} messages",
                self.stream,
                messages[0].delivery_count,
                self.config.max_deliveries,
                exc_info=error,
            )
            if self.error_hook is not None:
                hooked = asyncio.ensure_future(self._call_error_hook(error, messages))
                self._hooked.add(hooked)
                hooked.add_done_callback(self._hooked.discard)
        self.hooks.counted(self.meter)

    async def _call_error_hook(self, error: BaseException, messages: list[StreamMessage]) -> None:
        assert self.error_hook is not None
        try:
            result = self.error_hook(error, messages)
            if inspect.isawaitable(result):
                await result
        except Exception:  # the hook is the user's; the loop goes on
            log.exception("error_hook failed")

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
        self.hooks.retrying(message, verdict, delay_ms)
        return Parked(message.id, delay_ms)

    def release(self, messages: Sequence[StreamMessage]) -> None:
        """Give unstarted messages back at the next settling: due now, this delivery uncounted."""
        for message in messages:
            if message.id not in self._to_ack:
                self._to_park[message.id] = _uncounted(message.id, message.delivery_count)

    async def bury(
        self, offers: Sequence[Offer], reason: str = letters.MAX_DELIVERIES, error: str = ""
    ) -> int:
        """Take over dead entries and bury them; returns how many were buried."""
        before = self.meter.dlq
        owners = {offer.id: offer.owner for offer in offers}
        asked_ms = mono_ms()
        messages, gone = await self._take_over(offers)
        if gone:
            log.warning("dead message(s) were already deleted, acknowledged: %s", gone[:5])
        for message in messages:
            why = self.burial.known_reason(message.id) or reason
            self._to_bury[message.id] = _Dead(message, why, error, owners[message.id])
        self._hold(messages, asked_ms, count=False)
        await self.settle()
        return self.meter.dlq - before

    async def settle(self) -> None:
        """Park and bury what waits for it; a slow dlq_handler holds up no acknowledgement."""
        if self._to_bury:
            await self.flush_acks()
        if self._to_park:
            parked = dict(self._to_park)
            await self.pending.park(self.name, list(parked.values()))
            for entry_id in parked:
                self._to_park.pop(entry_id, None)
                self.held.pop(entry_id, None)
            if released := sum(entry.count >= 0 for entry in parked.values()):
                self.hooks.released(released)
        for entry_id, dead in list(self._to_bury.items()):
            await self._bury(dead)
            self._to_bury.pop(entry_id, None)
            self.held.pop(entry_id, None)

    async def _bury(self, dead: _Dead) -> None:
        message, most = dead.message, self.config.max_deliveries
        tries = max(message.delivery_count - CONDEMNED, 0)
        if not await self.pending.condemn(self.name, message.id, CONDEMNED + tries + 1):
            log.warning("message %s was taken over by others, not buried here", message.id)
            return
        if held := self.held.get(message.id):
            message = replace(message, data=held[1])
        if tries:  # condemned before by somebody who died over it
            message = replace(message, delivery_count=most)
        try:
            buried = await self.burial.bury(
                message,
                dead.reason,
                owner=self.name,
                worker=dead.worker,
                error=dead.error,
                tell=tries < DLQ_HANDLER_TRIES,
            )
        except ResponseError as refused:  # OOM, NOPERM, wrong type: the letter waits
            log.error("message %s could not be buried, trying again: %s", message.id, refused)
            await self.burial.put_off(message, dead.reason, dead.error, owner=self.name)
            return
        self.meter.dlq += buried
        self.hooks.counted(self.meter)

    async def flush_acks(self) -> None:
        """Acknowledge now what is done."""
        acks = list(self._to_ack)
        if acks:
            await self.pending.ack(acks)
            self._acked(acks)

    def _acked(self, ids: list[str]) -> None:
        done, release = self._to_ack.pop, self.held.pop
        for entry_id in ids:
            done(entry_id, None)
            release(entry_id, None)
        self.burial.forget(ids)
        self.meter.acked.record(len(ids))
        self.hooks.counted(self.meter)


@dataclass(frozen=True, slots=True)
class _Dead:
    """A message on its way to the dead letters; worker: who had it last, if not this session."""

    message: StreamMessage
    reason: str
    error: str
    worker: str | None = None


def _uncounted(entry_id: str, delivery_count: int) -> Parked:
    return Parked(entry_id, count=max(delivery_count - 1, 0))
