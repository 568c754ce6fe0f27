"""StreamConsumer: the read -> handle -> settle loop of one asyncio consumer."""

from __future__ import annotations

import asyncio
import contextlib
import weakref
from collections.abc import Awaitable, Callable, Iterable
from typing import Any, ClassVar

from redis.exceptions import ResponseError

from ._clock import mono_ms
from ._log import logger
from ._validate import Function, Maybe, Settled, Text, check
from .client import StreamClient, check_client
from .config import ConsumerConfig, check_config
from .connection.exchange import OUTAGES
from .delivery.batch import Batch
from .delivery.host import Host
from .delivery.invocation import check_runs, heed_cancellation
from .delivery.per_message import PerMessage
from .delivery.reclaiming import Reclaiming
from .delivery.retention import TRIM_INTERVAL_S, Retention
from .delivery.server_check import check_server
from .delivery.session import Session
from .delivery.setbacks import GROUP_PAUSE_S, Setbacks
from .group import GHOST_IDLE_MS, ConsumerGroup, group_is_lost
from .handlers import DLQHandler, Handler, with_middleware
from .later.attending import Attendance
from .later.keys import companions
from .later.mover import mover_of
from .later.periodic import Periodic, checked, schedules_of
from .message import StreamMessage
from .metrics import ConsumerMetrics
from .middleware import Middleware, Source
from .middleware import checked as checked_middleware
from .serializers import Serializer

log = logger(__name__)

STAND_STILL_S = 1.0
LEAVE_S, LEAVE_TRIES = 2, 3


class StreamConsumer:
    """A member of a consumer group.

    >>> async def handle(messages):
    ...     return [m.id for m in messages]        # what is done
    >>> consumer = StreamConsumer(client, "orders", ConsumerConfig(group="workers"), handle)
    >>> await consumer.run()

    client, stream, config: where it reads; see StreamClient and ConsumerConfig. ``group`` is the
        ConsumerGroup it belongs to.
    handler: gets a list of StreamMessage and returns the ids to acknowledge; ``async def``, a plain
        function (runs in a thread) or made by ``@per_message``. Messages that it does not
        acknowledge, and all of its batch if it raises, are delivered again after the retry delay.
    dlq_handler: ``async def f(message, reason)``, called with each dead message.
    serializer: how payloads are decoded; JSON by default.
    error_hook: ``f(exception, messages)``, plain or async, called when the handler raised.
    periodic: Cron and Every that are pushed while ``run()`` runs, each tick once over all hosts.
    middleware: functions around each call of the handler; see redis_stream_queue.middleware.

    A handler that blocks the event loop also stops the renewal of its leases.
    """

    client = Settled[StreamClient]()
    stream = Settled[str]()
    config = Settled[ConsumerConfig]()
    group = Settled[ConsumerGroup]()

    _instances: ClassVar[weakref.WeakSet[StreamConsumer]] = weakref.WeakSet()

    def __init__(
        self,
        client: StreamClient,
        stream: str,
        config: ConsumerConfig,
        handler: Handler,
        dlq_handler: DLQHandler | None = None,
        serializer: Serializer | None = None,
        error_hook: Callable[[BaseException, list[StreamMessage]], Any] | None = None,
        periodic: Iterable[Periodic] = (),
        middleware: Iterable[Middleware] = (),
    ) -> None:
        check("stream", stream, Text())
        check_client(client)
        check_config(config)
        check("handler", handler, Function())
        check_runs(handler)
        check("dlq_handler", dlq_handler, Maybe(Function()))
        check("error_hook", error_hook, Maybe(Function()))
        source = Source(stream, config.group, config.max_deliveries)
        handler = with_middleware(handler, checked_middleware(middleware), source)
        self.client = client
        self.stream = stream
        self.config = config
        self.group = ConsumerGroup(client, stream, config.group)
        self._session = Session(
            client,
            stream,
            config,
            handler,
            dlq_handler=dlq_handler,
            serializer=serializer,
            error_hook=error_hook,
            host=Host(wanted=self._wanted, put_off=self._holds_still),
        )
        self._lanes = handler.concurrency if isinstance(handler, PerMessage) else 1
        self._in_flight = self._session.in_flight
        self._reclaiming = Reclaiming(self._in_flight, config, self._handle, self._may_go_on)
        self._checked = False
        self._named = False
        self._stopping = False
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stopped = asyncio.Event()
        self._next_trim_ms = 0
        self._next_prune_ms = mono_ms() + GHOST_IDLE_MS
        self._mover = mover_of(client, stream)
        self._attendance: Attendance | None = None
        self._schedules = schedules_of(checked(periodic), self._session.serializer.encode)
        if self._schedules:
            companions(client.key(stream))  # raises where there is no room for them
        self._retention = Retention(self._in_flight.pending, config.max_stream_size)
        self._instances.add(self)

    # -- metrics -------------------------------------------------------------------------------

    def metrics(self) -> ConsumerMetrics:
        """Counters and rates so far; no Redis call, no waiting."""
        return self._in_flight.meter.snapshot()

    @classmethod
    def all_metrics(cls) -> list[ConsumerMetrics]:
        """Metrics of every consumer of this process."""
        return [consumer.metrics() for consumer in list(cls._instances)]

    # -- one iteration -------------------------------------------------------------------------

    async def run_once(self) -> int:
        """One full iteration: read new, handle; reclaim what is due, handle; bury the dead.

        Returns how many messages were acknowledged. Raises what Redis raises, ClusterSlotError and
        UnsupportedServer.
        """
        acked = self._in_flight.meter.acked
        before = acked.total
        try:
            await self._iterate()
            return acked.total - before
        except ResponseError as error:
            if group_is_lost(error):  # the next call creates it again
                await self._restore_group()
            raise

    async def _iterate(self) -> None:
        await self._ensure()
        if self._mover is not None and self._loop is None:  # else run() sees to it
            await self._mover.move_some()
            if self._mover.paused(self.config.group):
                await asyncio.sleep(min(self.config.block_ms / 1000, STAND_STILL_S))
                return
        messages = await self._session.read(self.config.batch_size, self.config.block_ms)
        await self._handle(messages)
        await self._reclaiming.reclaim()

    def run_once_sync(self) -> int:
        """``run_once`` for code without an event loop."""
        return asyncio.run(self._once_and_close())

    async def _once_and_close(self) -> int:
        try:
            return await self.run_once()
        finally:
            await self._session.close()
            await self.client.close()

    async def _ensure(self) -> None:
        if not self._checked:
            await check_server(self.client, self.stream)
            self.group.reset()  # a new consumer looks for itself: a test may have flushed all
            self._checked = True
        await self.group.ensure(self.config.dlq_stream, self.config.dlq_group)
        if not self._named:
            await self._in_flight.reserve_name()
            self._named = True

    async def _handle(self, messages: list[StreamMessage]) -> None:
        if messages and self._holds_still():  # since they were asked for
            self._in_flight.unsettled.release(messages)
        elif messages:
            await self._session.handle(messages)
            await self._in_flight.flush_acks()

    async def close(self) -> None:
        """Call this after the last ``run_once``: gives back what is held, removes the own name.

        ``run()`` does so by itself.
        """
        await self._leave()

    # -- the loop ------------------------------------------------------------------------------

    async def run(self) -> None:
        """Read, handle, reclaim and bury until ``stop()`` or cancellation.

        Errors are logged and the step is tried again with growing pauses: errors of Redis and of
        the network, and also missing rights or keys in different slots of a cluster, which somebody
        has to mend (logged once). A lost group is created again. At the end unfinished messages are
        given back at once. If a subclass has a ``run_once`` of its own, that is called again and
        again. Raises CancelledError when cancelled.
        """
        self._loop = asyncio.get_running_loop()
        self._stopped = asyncio.Event()
        turn = self._way_to_turn()
        setbacks = Setbacks()
        log.info("a consumer of %s in group %s starts", self.stream, self.config.group)
        self._attendance = attendance = Attendance(
            self.client,
            self.stream,
            self.config.group,
            self._schedules,
            on_pause=self._interrupt,
            on_cancelled=self._session.cancel,
        )
        try:
            while not self._stopping:
                try:
                    attendance.changed.clear()  # before we look: stop() counts as a change, too
                    await attendance.load_pauses()
                    if attendance.paused:
                        await self._stand_still(attendance.changed)
                    else:
                        await turn()
                    setbacks.over()
                    heed_cancellation()
                except Exception as error:  # Redis, the network, a bug: the loop must go on
                    await self._survive(error, setbacks)
        finally:
            self._loop = None
            self._stopping = False
            name, done = self._in_flight.name or "without a name", self.metrics()
            await self._leave()
            log.info(
                "consumer %s of %s has ended: %d acknowledged, %d dead, %d handler errors",
                name,
                self.stream,
                done.total_acked,
                done.total_dlq,
                done.total_errors,
            )
            self._attendance = None
            await attendance.end()

    def run_sync(self) -> None:
        """``run`` for code without an event loop; ends on Ctrl-C."""
        with contextlib.suppress(KeyboardInterrupt):
            asyncio.run(self._run_and_close())

    async def _run_and_close(self) -> None:
        try:
            await self.run()
        finally:
            await self.client.close()

    def stop(self) -> None:
        """End ``run()`` after the messages that run now; what has not started is given back.

        Safe from any thread and from signal handlers.
        """
        self._stopping = True
        loop = self._loop
        if loop is not None and not loop.is_closed():
            loop.call_soon_threadsafe(self._wake)

    def _wake(self) -> None:
        self._stopped.set()
        if self._attendance is not None:
            self._attendance.changed.set()
        self._interrupt()

    def _interrupt(self) -> None:
        self._session.stop_starting()
        self._session.reader.interrupt()

    # -- paused ----------------------------------------------------------------------------------

    @property
    def _paused(self) -> bool:
        return self._attendance is not None and self._attendance.paused

    def _may_go_on(self) -> bool:
        return not self._stopping and not self._paused

    def _holds_still(self) -> bool:
        """Does ``run()`` start nothing more, for now or for good?"""
        return self._loop is not None and not self._may_go_on()

    async def _stand_still(self, changed: asyncio.Event) -> None:
        """While paused: settle what is done, and wait for the end of the pause."""
        await self._in_flight.flush_acks()
        await self._in_flight.settle()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(STAND_STILL_S):
                await changed.wait()

    def _way_to_turn(self) -> Callable[[], Awaitable[Any]]:
        """The function that ``run()`` calls again and again."""
        own = getattr(self.run_once, "__func__", None) is StreamConsumer.run_once
        return self._turn if own else self.run_once

    async def _turn(self) -> None:
        await self._ensure()
        now = mono_ms()
        wait_ms = max(min(self._reclaiming.due_ms() - now, self.config.block_ms), 0)
        messages = await self._session.read(self.config.batch_size, wait_ms)
        if messages and self._holds_still():  # since the read began
            self._in_flight.unsettled.release(messages)
        elif messages:
            new = not [True for message in messages if message.delivery_count != 1]
            await self._session.handle(messages, grows=new)
        if self._stopping or mono_ms() < self._reclaiming.due_ms():
            return
        await self._reclaiming.tick()
        if mono_ms() >= self._next_trim_ms:
            self._next_trim_ms = mono_ms() + int(TRIM_INTERVAL_S * 1000)
            await self._retention.trim()
        if mono_ms() >= self._next_prune_ms:
            self._next_prune_ms = mono_ms() + GHOST_IDLE_MS
            await self.group.prune_consumers(GHOST_IDLE_MS)

    def _wanted(self, batch: Batch) -> int:
        """How many more messages to read for free lanes; none when a sweep is due."""
        due_ms = self._reclaiming.due_ms()
        if self._lanes == 1 or not self._may_go_on() or mono_ms() >= due_ms:
            return 0
        return self.config.batch_size - batch.waiting - batch.lanes

    async def _survive(self, error: Exception, setbacks: Setbacks) -> None:
        who = f"consumer {self._in_flight.name or f'of group {self.config.group}'}: "
        if group_is_lost(error):
            await asyncio.sleep(GROUP_PAUSE_S)
            try:
                await self._restore_group()
            except OUTAGES as again:
                error, who = again, f"{who}the group is gone and cannot be made again: "
            else:
                group, stream = self.config.group, self.stream
                log.warning("group %s of %s was gone and is made again: %s", group, stream, error)
                return
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(setbacks.pause_s(error, who)):
                await self._stopped.wait()

    async def _restore_group(self) -> None:
        """Create a lost group again behind what is known to be finished."""
        self.group.reset()
        self._named = False
        await self.group.recreate(self._retention.restart_id)

    async def _leave(self) -> None:
        """Give back what is held and remove the name, also when it is cancelled meanwhile.

        (asyncio.run() cancels once more what a ``gather`` has cancelled already.)
        """
        cancelled: asyncio.CancelledError | None = None
        for _ in range(LEAVE_TRIES):
            try:
                await self._try_to_leave()
                break
            except asyncio.CancelledError as error:
                cancelled = error
        self._named = False
        if self.config.worker_name is None:
            self._in_flight.name = ""
        if cancelled is not None:
            raise cancelled

    async def _try_to_leave(self) -> None:
        try:
            async with asyncio.timeout(LEAVE_S):
                await self._session.leave()
        except OUTAGES as error:
            log.warning("could not give everything back, others take it later: %s", error)
            await self._session.close()
