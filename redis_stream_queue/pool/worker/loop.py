"""The worker's loop: reads, handles and acknowledges messages until it is told to stop."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Callable

from ..._clock import mono_ms
from ..._log import logger
from ...client import StreamClient
from ...connection.backoff import Backoff
from ...connection.exchange import OUTAGES
from ...delivery.batch import Batch
from ...delivery.host import Host
from ...delivery.payloads import Decode
from ...delivery.pending import SeenEntry
from ...delivery.per_message import PerMessage
from ...delivery.session import Session
from ...delivery.setbacks import GROUP_PAUSE_S, Setbacks
from ...exceptions import RedisStreamError
from ...group import group_is_lost
from ...handlers import Declaration, Handler, runner_of
from ...message import StreamMessage
from ...serializers import Serializer
from ..pipe import Channel
from ..protocol import Fatal, GroupLost, Leaving, Message, Ready, Retire, Start, Take
from ..scoreboard import Field, Scoreboard
from ..settings import COMMAND_TIMEOUT_S
from ..standard_streams import StandardStreams
from .batch_size import batch_size
from .main_thread import MainThread
from .orders import Orders
from .reporting import LONG_OVERRUN_MS, OVERRUN_MS, ReportingHooks

log = logger(__name__)

BLOCK_MS = 800  # of a read; so a dead connection is noticed within two seconds
LEAVE_S = 5.0  # how long a worker that ends tries to settle its messages in an outage
RETIRE_SHARE = 0.1  # a life asks for a successor when it may handle only this share of its messages
NEW_ONES_SHARE = 12  # after a take-over new messages have so many times the time that it took
MOST_NEW_ONES_S = 1.0  # but no more than this, as an outage may have held up the take-over
MOST_THREADS = 5  # threads that are named when they are waited for


class Worker:
    """A worker once its app is loaded. start: its settings. Other parameters: see Session, Host."""

    def __init__(
        self,
        sock: socket.socket,
        scoreboard: Scoreboard,
        row_number: int,
        start: Start,
        handler: Handler,
        main_thread: MainThread,
        streams: StandardStreams,
        declared: Declaration,
        *,
        serializer: Serializer | None,
        interrupt: Callable[[str], None],
        limit_decoding: Callable[[Decode], Decode],
    ) -> None:
        self._sock = sock
        self._scoreboard = scoreboard
        self._row = scoreboard.row(row_number)
        runner = runner_of(handler)
        self._batch = batch_size(start.batch_size, runner.concurrency, mixed=runner.mixed)
        self._hooks = self._reporting(start, handler, streams)
        self._client = StreamClient.from_url(
            start.url, prefix=start.prefix, socket_timeout=COMMAND_TIMEOUT_S
        )
        self.session = Session(
            self._client,
            start.stream,
            start.consumer,
            handler,
            dlq_handler=declared.dlq_handler,
            error_hook=declared.error_hook,
            serializer=serializer,
            hooks=self._hooks,
            host=Host(
                main_thread.run,
                main_thread.between,
                self._wanted,
                self._fetch,
                self._gives_back,
                interrupt,
                limit_decoding,
                lambda: self.orders.put_off_reads,
            ),
            own_name=True,
        )
        self._channel: Channel | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self.orders = Orders(self.session, self._send)
        self._lanes = runner.concurrency
        self._fixed_size = start.batch_size is not None
        self._observed_ms = self._observed = 0  # the last look: when, and how many were done
        self._most_messages = start.most_messages
        self._asked_to_retire = False
        self._new_ones_until_s = 0.0

    def _reporting(
        self, start: Start, handler: Handler, streams: StandardStreams
    ) -> ReportingHooks:
        return ReportingHooks(
            self._row,
            self._send,
            streams,
            side_by_side=isinstance(handler, PerMessage) and handler.concurrency > 1,
            whole_batch=not isinstance(handler, PerMessage),
            rules_of=handler.rules_of if isinstance(handler, PerMessage) else None,
            time_limit_s=start.time_limit_s,
        )

    def _send(self, message: Message) -> None:
        if self._channel is not None:
            self._channel.send(message)

    def drain_from_signal(self) -> None:
        """Drain, as SIGTERM was sent to the worker itself; the master replaces it."""
        self.orders.draining = True
        if self._loop is not None:
            self._loop.call_soon_threadsafe(self.orders.drain)

    # -- the loop ------------------------------------------------------------------------------

    async def run(self) -> None:
        """Run until drained, or until the master is gone."""
        self._loop = asyncio.get_running_loop()
        self._channel = Channel(self._sock, self.orders.heard, self.orders.drain)
        setbacks = Setbacks()
        ready = False
        while not self.orders.draining:
            try:
                if not ready:
                    await self.session.reader.connect()
                    ready = True
                    self._row[Field.READ_AT] = mono_ms()
                    self._send(Ready())
                if await self._turn():
                    setbacks.over()
            except RedisStreamError as error:
                self._send(Fatal(str(error)))
                break
            except Exception as error:  # Redis, the network, a defect of ours: the loop goes on
                await self._survive(error, setbacks)
        await self._leave()

    async def _turn(self) -> bool:
        """Do one step; returns whether Redis has answered."""
        self.orders.answered.clear()
        if self.orders.takes:
            await self._carry_out(self.orders.takes.pop(0))
            return True
        if self.orders.paused:
            await self._until_told()
            return True
        self._row[Field.ONLY_NEW] = 0  # before the look at offers_waiting: no offer is missed
        only_new = False
        if self._scoreboard.offers_waiting:
            only_new = not self._is_turn_of_offers()
            if not only_new and await self._ask_for_offers():
                return False
        room = self._room()
        if room <= 0:
            self.orders.answered.clear()  # by the answer that there are no offers
            await self._until_told()
            return False
        self._row[Field.ONLY_NEW] = only_new  # 1 only if the read does not block
        block_ms = 0 if only_new else BLOCK_MS
        messages = await self.session.read(min(self._batch.size, room), block_ms)
        if messages:
            # A message that was delivered before may have to run alone.
            await self._handle(messages, grows=not [m for m in messages if m.delivery_count != 1])
        else:
            self._row[Field.READ_AT] = mono_ms()
            self._new_ones_until_s = 0.0
        return True

    @staticmethod
    def _now_s() -> float:
        return asyncio.get_running_loop().time()

    def _is_turn_of_offers(self) -> bool:
        """May offers be taken now? They cost Redis more than reads; new messages keep a share."""
        return self._now_s() >= self._new_ones_until_s

    def _room(self) -> int:
        """How many more messages this life may handle; asks for a successor when few are left."""
        if self._most_messages is None:
            return self._batch.size
        room = self._most_messages - self.session.in_flight.meter.read.total
        if room <= self._most_messages * RETIRE_SHARE and not self._asked_to_retire:
            self._asked_to_retire = True
            self._send(Retire(f"{self._most_messages} messages"))
        return room

    async def _until_told(self) -> None:
        """Acknowledge what is done, and wait for orders: the stream is paused, or this life may
        handle no more messages."""
        await self.session.in_flight.flush_acks()
        await self.session.in_flight.settle()
        self._row[Field.READ_AT] = mono_ms()
        if not self.orders.takes:
            await self.orders.wait(BLOCK_MS / 1000)

    async def _ask_for_offers(self, beside: int = 0) -> bool:
        await self.session.in_flight.flush_acks()  # no read follows that would carry them
        if self.orders.takes:  # meanwhile
            return True
        return await self.orders.ask(beside)

    async def _carry_out(self, take: Take) -> None:
        if take.bury is not None:
            await self.session.in_flight.bury(_offers(take), take.bury, take.error)
            return
        began_s = self._now_s()
        messages = await self.session.in_flight.take(_offers(take))
        took_s = self._now_s() - began_s
        await self._handle(messages, grows=not take.alone)
        self._new_ones_after(took_s)

    def _new_ones_after(self, took_s: float) -> None:
        """Give new messages their share of the time after a take-over that took ``took_s``."""
        share_s = min(NEW_ONES_SHARE * took_s, MOST_NEW_ONES_S)
        self._new_ones_until_s = self._now_s() + share_s

    async def _handle(self, messages: list[StreamMessage], *, grows: bool) -> None:
        if not messages:
            return
        if self.orders.start_nothing:
            self.session.in_flight.unsettled.release(messages)
            return
        self._observed_ms, self._observed = mono_ms(), 0
        self.orders.handling = True
        try:
            self._observe(await self.session.handle(messages, grows=grows))
        finally:
            self.orders.handling = False

    def _wanted(self, batch: Batch) -> int:
        newly_handled = self._observe(batch.handled)
        if self.orders.start_nothing or self._hooks.overruns:
            return 0  # let the batch end
        if self._scoreboard.offers_waiting and self._lanes == 1:
            return 0
        more = self._batch.more(newly_handled, batch.waiting, batch.lanes, batch.blocks)
        return min(more, self._room())

    def _gives_back(self, batch: Batch) -> list[StreamMessage]:
        """The messages to give back, as they would wait behind one that overruns.

        None if the batch size is fixed.
        """
        runs_ms = self._hooks.runs_ms()
        wanted = runs_ms >= OVERRUN_MS and (
            runs_ms >= LONG_OVERRUN_MS or self._scoreboard.someone_idle(mono_ms())
        )
        return batch.withdraw() if wanted and not self._fixed_size else []

    async def _fetch(self, count: int) -> list[StreamMessage]:
        """Get up to ``count`` more messages for free lanes: offers first, then new ones."""
        if not (self._scoreboard.offers_waiting and self._is_turn_of_offers()):
            return await self.session.read(count, 0)
        self.orders.room_beside = count
        try:
            got_some = await self._ask_for_offers(count)
        finally:
            self.orders.room_beside = 0
        if not got_some:
            return []  # the offers must run alone: let this batch end
        began_s = self._now_s()
        messages = await self.session.in_flight.take(_offers(self.orders.takes.pop(0)))
        self._new_ones_after(self._now_s() - began_s)
        return messages

    def _observe(self, handled: int) -> int:
        """Note how many of the batch are done; returns how many since the last call."""
        now_ms, newly_handled = mono_ms(), handled - self._observed
        if newly_handled > 0:
            self._batch.observe(newly_handled, now_ms - self._observed_ms)
            self._row[Field.BATCH] = self._batch.size
            self._observed_ms, self._observed = now_ms, handled
        return newly_handled

    async def _survive(self, error: Exception, setbacks: Setbacks) -> None:
        self._row[Field.ONLY_NEW] = 0
        if isinstance(error, OUTAGES):
            self._hooks.redis_failed()
        pause_s = setbacks.pause_s(error)
        if group_is_lost(error):
            self._send(GroupLost())
            pause_s = GROUP_PAUSE_S
        self.orders.answered.clear()
        await self.orders.wait(pause_s)

    async def _try_to_leave(self) -> None:
        backoff = Backoff()
        while True:
            try:
                await self.session.leave()
                return
            except OUTAGES as error:
                log.debug("cannot leave yet: %s", error)
                await asyncio.sleep(backoff.next_s())

    async def _leave(self) -> None:
        try:
            async with asyncio.timeout(LEAVE_S):
                await self._try_to_leave()
        except TimeoutError:
            log.warning("could not give everything back, others take it over later")
            await self.session.close()
        await self._client.close()
        waited_for = [t.name for t in threading.enumerate() if _is_waited_for(t)]
        self._send(Leaving([name[:100] for name in waited_for[:MOST_THREADS]]))
        if self._channel is not None:
            self._channel.close()


def _is_waited_for(thread: threading.Thread) -> bool:
    return not thread.daemon and thread is not threading.main_thread()


def _offers(take: Take) -> list[SeenEntry]:
    return [SeenEntry(*fields) for fields in take.offers]
