"""Session: one life of one consumer name: reads, handles, settles.

Used by StreamConsumer and by the pool's worker. They decide when to read, and they sweep. What it
holds is in ``in_flight``.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
from collections.abc import Sequence

from redis.exceptions import ResponseError

from .._clock import mono_ms
from .._lazy_timer import LazyTimer
from .._log import logger
from ..client import StreamClient
from ..config import ConsumerConfig
from ..connection.backoff import Backoff
from ..connection.exchange import OUTAGES
from ..connection.replies import entry_messages
from ..handlers import DLQHandler, ErrorHook, Handler, rules_of, runner_of
from ..message import StreamMessage
from ..serializers import JsonSerializer, Serializer, for_stream
from .batch import Batch
from .eager import start_now
from .expiry import Expiry
from .failures import Failures
from .handler_tasks import HandlerTasks
from .hooks import Hooks
from .host import Host
from .in_flight import InFlight
from .payloads import Payloads
from .per_message import PerMessage
from .reader import Reader
from .stranded import Stranded
from .told import batch_kind
from .unsettled import may_all_run

log = logger(__name__)

RECONNECT_S = 0.5  # longest that acknowledgements wait for a connection to read with
TEND_S = 0.05  # longest that a finished message waits for its acknowledgement
SLOW_DECODING_MS = 500  # a batch that took so long may be why its worker has to leave


class Session:
    """One consumer of ``config.group`` on ``stream``; see the module's text.

    own_name: see InFlight.
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
        host: Host | None = None,
        own_name: bool = False,
    ) -> None:
        self.config = config
        self.handler = handler
        self._finishing: asyncio.Task[None] | None = None
        self._rules_of = rules_of(handler)
        self.serializer = for_stream(serializer or JsonSerializer(), client.key(stream))
        self.hooks = hooks or Hooks()
        self._host = host or Host()
        self.reader = Reader(client, stream, config.group)
        self.in_flight = InFlight(
            client,
            stream,
            config,
            dlq_handler=dlq_handler,
            serializer=self.serializer,
            hooks=self.hooks,
            on_lost=self._lost,
            on_cancelled=self.cancel,
            own_name=own_name,
            rules_of=self._rules_of,
        )
        self._expiry = Expiry(self.in_flight.pending)
        self.failures = Failures(
            stream,
            config.max_deliveries,
            self.hooks,
            self.in_flight.meter,
            error_hook,
            self._rules_of,
        )
        self._payloads = Payloads(
            config,
            self._host.limit_decoding(self.serializer.decode),
            self.in_flight.unsettled,
            self.failures,
        )
        self._stranded = Stranded(self.in_flight)
        self._fetch = self._host.fetch or (lambda count: self.read(count, 0))
        self._one_by_one = isinstance(handler, PerMessage)
        self._side_by_side = self._runner.concurrency > 1
        self._tasks: HandlerTasks | None = None  # of the batch that is handled
        self._decoded_slowly = False
        self._settling = Backoff()
        self._ticks = LazyTimer(self._tick)

    @property
    def handler(self) -> Handler:
        """What handles the messages."""
        return self._handler

    @handler.setter
    def handler(self, handler: Handler) -> None:
        self._handler = handler
        self._runner = runner_of(handler)
        self._prepared: HandlerTasks | None = None  # of the next batch: while nothing waits for it

    async def leave(self) -> None:
        """Settle what is done, give the rest back uncounted, and remove the name."""
        if self.in_flight.unsure:
            await self.reader.end_broken_read()
        await self.in_flight.leave()
        await self.close()

    async def close(self) -> None:
        """Renew no more, and close the reading connection."""
        self._prepared = None  # another loop may be the next
        self.in_flight.leases.close()
        await self.reader.close()

    # -- reading -------------------------------------------------------------------------------

    async def read(self, count: int, block_ms: int) -> list[StreamMessage]:
        """New messages with raw data; acknowledgements that wait travel with the request.

        Returns [] after ``block_ms``, or early after ``reader.interrupt()`` or where the host puts
        it off. After a read that broke, first what was delivered and never seen here.
        """
        in_flight, reader = self.in_flight, self.reader
        await in_flight.settle()
        # No more messages than can be acknowledged; and what is done waits for nothing but a read.
        if reader.acks_refused or not reader.connected or in_flight.unsure:
            await in_flight.flush_acks()
            reader.acks_refused = False
        if in_flight.unsure:
            await reader.end_broken_read()
            if stranded := await self._stranded.batch(count):
                return stranded
        await in_flight.look_before_reading()
        if self._host.put_off():  # it was said meanwhile, when there was no read to interrupt
            return []
        if self._tasks is not None:
            self._collect(self._tasks.batch)  # what has ended meanwhile is done, too
        acks = in_flight.unacknowledged()
        asked_ms = mono_ms()
        most = reader.portion.of(count)
        self._prepared = self._prepared or self._new_tasks()
        self._prepared.batch.owner = asyncio.current_task()
        link, held = in_flight.leases.expect(), in_flight.leases.unfinished
        try:
            entries = await reader.read(
                in_flight.name, most, block_ms, acks, in_flight.acknowledged, held
            )
        except ResponseError:  # that is an answer
            raise
        except BaseException as error:  # a cancellation, too: it may have been carried out
            in_flight.unsure = True
            if isinstance(error, OUTAGES):  # what is done does not wait until we try again
                with contextlib.suppress(*OUTAGES):
                    await in_flight.flush_acks()
            raise
        finally:
            in_flight.leases.expect_no_more(link, reader.name_made)
        in_flight.unsure |= reader.lost_reply
        return in_flight.hold(entry_messages(entries, self.config.payload_field, 1), asked_ms)

    # -- handling ------------------------------------------------------------------------------

    async def handle(self, messages: Sequence[StreamMessage], *, grows: bool = False) -> int:
        """Decode, run the handler, settle. Acknowledgements wait for the next read or flush.

        grows: others that are read meanwhile may keep them company.
        Returns how many were handled: fewer where some were given back, more where others came.
        """
        began_ms = mono_ms()
        self.hooks.batch_started(messages, began_ms)  # first: what kills us may be the decoding
        decoded = self._payloads.decode(messages)
        now_ms = mono_ms()
        self._decoded_slowly = now_ms - began_ms >= SLOW_DECODING_MS
        tasks, self._prepared = self._prepared or self._new_tasks(), None
        if not may_all_run(decoded):
            self.hooks.batch_waits()
            self._tasks = tasks  # it may be closed meanwhile
            decoded = await self._admitted(tasks.batch, decoded, beside=False)
            now_ms = mono_ms()
            if tasks.batch.closed:
                self.in_flight.unsettled.release(decoded)
                decoded = []
        tasks.batch.fill(decoded, now_ms)
        if decoded:
            await self._run(tasks, now_ms, grows=grows and self._one_by_one)
        else:
            self._tasks = None
            self.hooks.batch_finished()
        await self.failures.told()
        await self.in_flight.settle()
        return tasks.batch.handled

    async def _admitted(
        self, batch: Batch, decoded: list[StreamMessage], *, beside: bool
    ) -> list[StreamMessage]:
        """Those that may run now, and until when each may start."""
        decoded = self.in_flight.unsettled.resumed(decoded)
        batch.deadlines |= await self._expiry.deadlines(decoded)
        held = self.in_flight.held  # else it was taken back, or over, meanwhile
        decoded = [message for message in decoded if message.id in held]
        return self.in_flight.unsettled.admitted(decoded, beside=beside)

    def _new_tasks(self) -> HandlerTasks:
        batch = batch_kind(self.reader.stream)(
            (),
            self.hooks.message_started,
            self.hooks.message_finished if self._side_by_side else None,
            self._host.between,
            self.in_flight.leases.is_old,
            self._verify,
            self.in_flight.unsettled.kept.__contains__,
            self._rules_of,
        )
        return HandlerTasks(batch, self._begin, self._runner.lanes)

    async def _run(self, tasks: HandlerTasks, now_ms: int, *, grows: bool) -> None:
        self._tasks, batch = tasks, tasks.batch
        try:
            if self.in_flight.leases.is_old(now_ms):
                self.hooks.batch_waits()
                await self._verify()
            tasks.start()
            try:
                await self._tend(tasks, batch, grows=grows)
            except asyncio.CancelledError:
                await self._cancelled(tasks, batch)
                raise
            if tasks.error is not None:
                raise tasks.error
        finally:
            self._tasks = None
            self.hooks.batch_finished()
            self._collect(batch)
            self.in_flight.unsettled.release(batch.unfinished())

    def _begin(self, batch: Batch) -> asyncio.Future[None] | None:
        """A call of the handler, which begins now; None if it has ended, too. What is awaited has
        a task of its own, which the app may cancel."""
        runner = self._runner
        if runner.awaits(batch):
            task, ended = start_now(runner.run_async(batch))
            return None if ended else task
        if batch.handed is not None:
            self._finishing, ended = start_now(runner.finish(batch))
            return None if ended else self._finishing
        batch.plain = self._host.run_plain(functools.partial(runner.run, batch))
        return batch.plain

    async def _verify(self) -> None:
        """Look who has the batch now, if the lease is so old that others may."""
        if self.in_flight.leases.is_old(mono_ms()):
            await self.in_flight.leases.renew()

    def _lost(self, ids: set[str]) -> None:
        if self._tasks is not None:
            self._tasks.batch.lost |= ids

    async def _tend(self, tasks: HandlerTasks, batch: Batch, *, grows: bool) -> None:
        """Until all is handled: settle what is done, give back on request, read more in time."""
        clock = asyncio.get_running_loop().time
        tick_s, starved = clock() + TEND_S, False
        while tasks.running:
            self._ticks.set(tick_s)
            await tasks.stirred()
            if not tasks.running:
                break
            ticked = clock() >= tick_s
            if ticked:
                self.hooks.tending(batch)
                released = self._host.gives_back(batch)
                self.in_flight.unsettled.release(released)
                starved = bool(released)
            self._collect(batch)
            wanted = 0
            if grows and tasks.error is None and not starved and (ticked or self._side_by_side):
                wanted = self.reader.portion.of(self._host.wanted(batch))
            if wanted > 0:
                starved = not await self._read_more(tasks, batch, wanted)
            elif ticked:
                await self._try_to_settle()
            if ticked:
                tick_s = clock() + TEND_S + self._settling.pause_s

    def _tick(self) -> None:
        if self._tasks is not None:
            self._tasks.stir()

    async def _read_more(self, tasks: HandlerTasks, batch: Batch, wanted: int) -> bool:
        """Is it worth while to ask again at once?"""
        try:
            await self._mend()
            if not self.reader.connected:
                await self.in_flight.flush_acks()
                async with asyncio.timeout(RECONNECT_S):  # and again with the next tick
                    await self.reader.connect()
            await self.in_flight.settle()
            messages = await self._fetch(wanted)
        except OUTAGES as error:
            self._outage(error)
            return False
        self._settling.reset()
        if messages:
            self.hooks.batch_grows(messages, len(self.in_flight.held))
            decoded = self._payloads.decode(messages)
            decoded = await self._admitted(batch, decoded, beside=True)
            if not batch.extend(decoded):
                self.in_flight.unsettled.release(decoded)
            elif tasks.error is None:
                tasks.start()
        return len(messages) == wanted

    async def _mend(self) -> None:
        """After a read that broke: this batch may go on for hours, so others get what it left."""
        if self.in_flight.unsure:
            await self.in_flight.flush_acks()
            await self.reader.end_broken_read()
            await self.in_flight.give_back_stranded()

    async def _try_to_settle(self) -> None:
        try:
            await self.in_flight.flush_acks()
            await self._mend()
            await self.in_flight.settle()
            self._settling.reset()
        except OUTAGES as error:
            self._outage(error)

    def _outage(self, error: Exception) -> None:
        self.hooks.redis_failed()
        self._settling.next_s()
        if self._settling.worth_a_line():
            log.warning("Redis did not answer while a handler ran: %s", error)

    async def _cancelled(self, tasks: HandlerTasks, batch: Batch) -> None:
        """The consumer is cancelled: start nothing more; a plain handler cannot be interrupted."""
        self.in_flight.unsettled.release(batch.close())
        self._collect(batch)
        with contextlib.suppress(asyncio.CancelledError):
            await self._try_to_settle()
        if self._runner.is_async or self._runner.mixed:
            tasks.cancel()
        elif self._finishing is not None:
            self._finishing.cancel()
        while tasks.running:  # nothing is given back while it runs, however often we are cancelled
            self.in_flight.leases.keep()
            with contextlib.suppress(asyncio.CancelledError):
                await tasks.ended()

    def stop_starting(self) -> None:
        """Let what runs finish, and give back the rest of its batch.

        What took long to decode begins all the same, or it would go from worker to worker where
        decoding it is what makes each of them leave.
        """
        if (tasks := self._tasks) is not None:
            unstarted = tasks.batch.waiting == len(tasks.batch.messages)
            left = tasks.batch.close(int(unstarted and self._decoded_slowly))
            self.in_flight.unsettled.release(left)

    def cancel(self, entry_id: str) -> None:
        """This message was taken back: it does not start any more; what is awaited for it is
        cancelled, and what runs is interrupted if it can be."""
        if not self.in_flight.leases.drop(entry_id) or self._tasks is None:
            return
        if not self._tasks.batch.cancel(entry_id):
            self._host.interrupt(entry_id)

    # -- what came of it -----------------------------------------------------------------------

    def _collect(self, batch: Batch) -> None:
        for messages, verdict in batch.collect():
            self.in_flight.unsettled.note(messages, verdict)
        if batch.kept_done:
            done, batch.kept_done = batch.kept_done, []
            self.in_flight.unsettled.note_kept_done(done)
        if batch.errors:
            errors, batch.errors = batch.errors, []
            self.failures.report(errors)
