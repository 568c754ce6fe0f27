"""Consumers of the model: one life of one name each, and what its handler does."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from redis_stream_queue import Reject, Retry, StreamClient, StreamConsumer, per_message
from redis_stream_queue.connection.scripts import RENEW, TAKE
from redis_stream_queue.message import StreamMessage

from .entries import Execution
from .facts import STREAM
from .process import At

if TYPE_CHECKING:
    from .world import World

MIN_IDLE_MS = (10_000, 25_000)  # pool A, pool B
MUCH_LATER_MS = 8000


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
