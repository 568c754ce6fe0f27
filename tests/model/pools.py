"""Pools of the model: the real worker and master, with their pipes and processes replaced."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from redis_stream_queue import Every, Mover, StreamClient
from redis_stream_queue.delivery.retention import Retention
from redis_stream_queue.group import ConsumerGroup
from redis_stream_queue.handlers import Declaration
from redis_stream_queue.later.periodic import schedules_of
from redis_stream_queue.later.ticker import Ticker
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

from .actors import MIN_IDLE_MS, Actor
from .facts import GROUP, STREAM

if TYPE_CHECKING:
    from .world import World

BEAT_S = 20


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
        await self.mover.load_pauses()
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
