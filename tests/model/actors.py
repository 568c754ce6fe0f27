"""Consumers and masters of the model: the real ones, with their pipes and processes replaced."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from redis_stream_queue import (
    Every,
    Mover,
    Reject,
    Retry,
    StreamClient,
    StreamConsumer,
    per_message,
)
from redis_stream_queue.connection.scripts import RENEW, TAKE
from redis_stream_queue.delivery.retention import Retention
from redis_stream_queue.group import ConsumerGroup
from redis_stream_queue.handlers import Declaration
from redis_stream_queue.later.periodic import schedules_of
from redis_stream_queue.later.ticker import Ticker
from redis_stream_queue.message import StreamMessage
from redis_stream_queue.pool.master.recovery import Death, Recovery
from redis_stream_queue.pool.master.slots import WorkerRecord, nobody
from redis_stream_queue.pool.master.states import WorkerState
from redis_stream_queue.pool.protocol import (
    AskForWork,
    Declined,
    Pause,
    Resume,
    Retrying,
    Start,
    Take,
)
from redis_stream_queue.pool.settings import Settings
from redis_stream_queue.pool.worker import loop as pool_worker

from .book import GROUP, STREAM, Execution
from .process import At

if TYPE_CHECKING:
    from .world import World

MIN_IDLE_MS = (10_000, 25_000)  # pool A, pool B
MUCH_LATER_MS = 8000
BEAT_S = 20


class Failed(Exception):
    """What a failing handler raises."""


@dataclass(eq=False)
class Hand:
    """A handler call that waits for its verdict."""

    actor: Actor
    executions: list[Execution]
    verdict: asyncio.Future[str]


class Actor(ABC):
    """A consumer of the group: one life of one name."""

    def __init__(self, world: World, label: str, min_idle_ms: int) -> None:
        self.world = world
        self.label = label
        self.min_idle_ms = min_idle_ms
        self.process = world.process(label)
        self.left = False
        self.hands: list[Hand] = []
        self.executions: list[Execution] = []
        self.task: asyncio.Task[Any] | None = None
        self.renewed_at = (0, 0)  # virtual ms and step of the last renewal the server has seen
        self.given_at_ms = 0
        world.book.holders.append(self)

    in_flight: Any

    @property
    def name(self) -> str:
        return str(self.in_flight.name)

    @property
    def alive(self) -> bool:
        return not self.process.dead and not self.left

    @property
    def faulty(self) -> bool:
        return self.process.faults > 0

    @property
    def excused(self) -> bool:
        return self.process.stopped or self.process.cut

    @property
    def at_work(self) -> bool:
        return self.task is not None and not self.task.done()

    @property
    def told(self) -> bool:
        """Does a message of its master wait?"""
        return False

    @property
    def paused(self) -> bool:
        """Has it heard that nothing is to be started?"""
        return False

    def held(self) -> set[str]:
        return set(self.in_flight.held)

    def running(self) -> list[Execution]:
        return [e for hand in self.hands for e in hand.executions if e.outcome == "running"]

    def executed(self, command: Any) -> None:
        """The server has done a command of this process."""
        now_ms = self.world.clock.ms
        if RENEW.sha in command:
            self.renewed_at = (now_ms, self.world.book.step + 1)
        elif TAKE.sha in command or command[0] == "XREADGROUP":
            self.given_at_ms = now_ms

    def _stale(self, entry_id: str) -> bool:
        """Was it told that this entry is lost, or has it reason to ask?"""
        renewed_ms, renewed_step = self.renewed_at
        told = renewed_step > self.world.book.lost_at.get((self, entry_id), 10**9)
        age_ms = self.world.clock.ms - max(renewed_ms, self.given_at_ms)
        return told or age_ms > self.min_idle_ms

    # -- the app's handler -----------------------------------------------------------------------

    def handler(self, style: str) -> Any:
        if style == "batch":

            async def many(messages: list[StreamMessage]) -> list[str]:
                return await self._handle(messages)

            return many

        async def one(message: StreamMessage) -> None:
            await self._handle([message])

        return per_message(concurrency=2 if style == "side by side" else 1)(one)

    async def _handle(self, messages: list[StreamMessage]) -> list[str]:
        if self.process.dead:
            raise Failed
        book = self.world.book
        if self.paused:
            book.complain(f"{self.label} started {[m.id for m in messages]} while paused")
        executions = [
            book.begin(self, m.id, m.delivery_count, stale=self._stale(m.id)) for m in messages
        ]
        for message, execution in zip(messages, executions, strict=True):
            if self.world.clock.server_ahead_ms == 0:  # else it has not been asked since
                self.world.book.check_time(execution, self.world.clock.ms, message.headers)
        self.executions += executions
        hand = Hand(self, executions, asyncio.get_running_loop().create_future())
        self.hands.append(hand)
        try:
            verdict = await hand.verdict
        except asyncio.CancelledError:
            if self.process.dead:
                raise
            for execution in executions:
                execution.outcome = "cancelled"
                execution.entry.charged -= 1  # given back uncounted
            raise
        finally:
            self.hands.remove(hand)
        done = {"ok": len(executions), "some": 1}.get(verdict, 0)
        for number, execution in enumerate(executions):
            execution.outcome = "ok" if number < done else "failed"
        if verdict == "raise":
            raise Failed
        if verdict == "retry":
            raise Retry(delay_ms=0)
        if verdict == "much later":
            raise Retry(delay_ms=MUCH_LATER_MS)
        if verdict == "reject":
            raise Reject
        return [m.id for m in messages[:done]]

    def watch_batches(self, hooks: Any) -> None:
        started = hooks.batch_started

        def batch_started(messages: list[StreamMessage], now_ms: int) -> None:
            self.world.book.batch(self, {m.id: m.delivery_count for m in messages})
            started(messages, now_ms)

        grows = hooks.batch_grows

        def batch_grows(messages: list[StreamMessage], held: int) -> None:
            together = {i: m.delivery_count for i, (m, _) in self.in_flight.held.items()}
            self.world.book.batch(self, together)
            grows(messages, held)

        hooks.batch_started = batch_started
        hooks.batch_grows = batch_grows

    # -- what rules do ---------------------------------------------------------------------------

    @abstractmethod
    async def _turn(self) -> None: ...

    async def _deliver(self) -> None:  # noqa: B027 - a StreamConsumer has no master
        """Messages of the master come in."""

    @abstractmethod
    async def _drain(self) -> None: ...

    def turn(self, at: At | None) -> None:
        if self.process.stopped:
            self.process.resume(at)
        elif self.at_work:
            self.process.run(self._deliver, at)
        else:
            self.task = self.process.run(self._turn, at)

    def drain(self, at: At | None) -> None:
        if self.at_work:
            self.process.run(self._drain, at)
        else:
            self.task = self.process.run(self._drain, at)

    def died(self) -> None:  # noqa: B027
        """Its process is gone: tell who can know."""


class PoolWorker(Actor):
    """The real Worker of a pool, with its two pipes replaced."""

    def __init__(self, world: World, pool: Pool, slot: int) -> None:
        pool.lives += 1
        super().__init__(
            world, f"worker {slot}, life {pool.lives}", pool.consumer.min_idle_claim_ms
        )
        self.pool = pool
        row_number = pool.lives % 1000
        row = pool.scoreboard.row(row_number)
        row.clear()
        self.inbox: list[Any] = []
        name = f"{GROUP}_{pool.label}{slot}_{pool.lives}"
        start = Start(
            url=world.url,
            prefix="",
            stream=STREAM,
            consumer=replace(pool.consumer, worker_name=name),
            batch_size=world.batch_size,
            soft_time_limit_s=None,
            most_messages=None,
        )
        self.worker: Any = pool_worker.Worker(
            None,  # type: ignore[arg-type]
            pool.scoreboard,
            row_number,
            start,
            self.handler(world.style),
            SimpleNamespace(run=None, between=None),  # type: ignore[arg-type]  # for plain handlers
            SimpleNamespace(next_ms=1 << 62, look=lambda _: None, open_again=lambda: None),  # type: ignore[arg-type]
            Declaration(),
            serializer=None,
            interrupt=lambda _: None,
            limit_decoding=lambda decode: decode,
        )
        self.worker._loop = self.process.loop
        self.worker._channel = self
        self.in_flight = self.worker.session.in_flight
        self.watch_batches(self.worker._hooks)
        self.record = WorkerRecord(
            slot, pool.lives, row_number, row, _Pipe(self.inbox), consumer=name
        )
        self.record.state = WorkerState.READY
        row[pool_worker.Field.BATCH] = world.batch_size or 1
        pool.records.append(self.record)
        if pool.paused:
            self.record.channel.send(Pause())
        self._named = False

    @property
    def excused(self) -> bool:
        if self.process.stopped and self.record.busy and self.pool.process.runs:
            return False  # the fallback renewal did it
        return super().excused

    @property
    def told(self) -> bool:
        return bool(self.inbox)

    @property
    def paused(self) -> bool:
        return bool(self.worker.orders.paused)

    def send(self, message: Any) -> None:
        """The worker's end of the pipe."""
        if self.process.dead:
            return
        if self.pool.process.runs:
            self.pool.heard(self.record, message)
        if isinstance(message, AskForWork):  # answered, or the wait for it is over
            while self.inbox:
                self.worker.orders.heard(self.inbox.pop(0))
            self.worker.orders.answered.set()

    def close(self) -> None:
        pass

    async def _deliver(self) -> None:
        while self.inbox:
            self.worker.orders.heard(self.inbox.pop(0))

    async def _turn(self) -> None:
        await self._deliver()
        if not self._named:
            await self.in_flight.reserve_name()  # as the master does
            self._named = True
        if not self.worker.orders.draining:
            await self.worker._turn()
        if self.worker.orders.draining:
            await self._leave()

    async def _drain(self) -> None:
        self.record.state = WorkerState.DRAINING
        self.worker.orders.drain()
        if not self.at_work:
            await self._leave()

    async def _leave(self) -> None:
        await self.worker._leave()
        self.left = True
        self.died()

    def died(self) -> None:
        if self.record in self.pool.records and not self.pool.process.dead:
            self.pool.records.remove(self.record)
            suspects = self.record.suspects(one_at_a_time=self.world.style == "one by one")
            if not self.process.dead:
                suspects = nobody
            why = "killed by SIGSEGV"
            self.pool.recovery.died(Death(self.name, self.world.clock.ms, suspects, why))


class _Pipe:
    """The master's end of a pipe."""

    def __init__(self, inbox: list[Any]) -> None:
        self._inbox = inbox

    def send(self, message: Any) -> None:
        if isinstance(message, Take | Pause | Resume):
            self._inbox.append(message)


class Alone(Actor):
    """A StreamConsumer."""

    def __init__(self, world: World, life: int) -> None:
        super().__init__(world, f"consumer, life {life}", MIN_IDLE_MS[0])
        config = world.consumer_config(MIN_IDLE_MS[0])
        client = StreamClient.from_url(world.url)
        self.consumer: Any = StreamConsumer(client, STREAM, config, self.handler(world.style))
        self.consumer._checked = True
        self.in_flight = self.consumer._in_flight
        self.watch_batches(self.consumer._session.hooks)

    async def _turn(self) -> None:
        await self.consumer.run_once()

    async def _drain(self) -> None:
        """run() is cancelled."""
        if self.at_work:
            assert self.task is not None
            self.task.cancel()
            await asyncio.wait({self.task})
        await self.consumer._leave()
        self.left = True


class Pool:
    """A master: Recovery and Retention of one host."""

    def __init__(self, world: World, number: int) -> None:
        self.world = world
        self.label = "AB"[number]
        self.process = world.process(f"master {self.label}")
        self.scoreboard = world.scoreboards[number]
        self.scoreboard.offers_waiting = 0
        self.lives = world.lives[number]
        self.records: list[WorkerRecord] = []
        self.consumer = world.consumer_config(MIN_IDLE_MS[number])
        client = StreamClient.from_url(world.url)
        settings = Settings(
            STREAM,
            self.consumer,
            world.batch_size,
            dlq_handler=False,
            one_at_a_time=world.style == "one by one",
            policy=self.consumer.policy,
            limited=False,
        )
        self.recovery = Recovery(client, settings, self.scoreboard, lambda: self.records)
        self.retention = Retention(self.recovery.pending, world.max_stream_size)
        self.group = ConsumerGroup(client, STREAM, GROUP)
        self.mover = Mover(client, STREAM)
        self.paused = False
        beat = schedules_of([Every("beat", BEAT_S, 0)], lambda data: str(data).encode())
        self.ticker: Any = Ticker(client, STREAM, GROUP, beat)

    def heard(self, record: WorkerRecord, message: Any) -> None:
        if isinstance(message, AskForWork):
            self.recovery.offers.answer(record, message.taken, message.beside)
        elif isinstance(message, Declined):
            self.recovery.declined(record, message.ids)
        elif isinstance(message, Retrying):
            self.recovery.retrying(message.id, message.error, message.due_in_ms)

    async def recover(self) -> None:
        await self.recovery.look_at_deaths()
        await self.recovery.sweep()

    async def trim(self) -> None:
        await self.retention.trim()

    async def move(self) -> None:
        await self.mover.move()

    async def learn(self) -> None:
        """What is paused; its workers are told."""
        before = self.paused
        await self.mover.learn()
        self.paused = self.mover.paused(GROUP) is not None
        if self.paused != before:
            self.recovery.offers.paused = self.paused
            for record in self.records:
                if record.channel is not None:
                    record.channel.send(Pause() if self.paused else Resume())

    async def tick(self) -> None:
        """What its loop does, without the waiting: what it knows may be old."""
        if self.ticker._new:
            await self.ticker._declare()
        for one in self.ticker._declared:
            if (
                one.timer.call_at_ms is not None
                and one.timer.call_at_ms <= self.ticker._server_ms()
            ):
                await self.ticker._tick(one)

    async def prune(self) -> None:
        await self.group.prune_consumers(0)

    async def renew(self) -> None:
        await self.recovery.renew_leases(min(self.consumer.min_idle_claim_ms // 3, 1000))

    async def restore(self) -> None:
        await self.group.recreate(self.retention.restart_id)
