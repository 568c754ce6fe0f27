"""The state machine: real workers, masters, consumers and producers on a real server, in any order.

Slots 0 and 1 are workers of pool A, slot 2 is the worker of pool B (another host, with another
min_idle_claim_ms), slot 3 is a StreamConsumer of its own.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import redis
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
)

from redis_stream_queue import (
    ConsumerConfig,
    DeadLetterQueue,
    Reject,
    Retry,
    StreamClient,
    StreamConsumer,
    StreamProducer,
    per_message,
)
from redis_stream_queue._scripts import RENEW, TAKE
from redis_stream_queue.group import ConsumerGroup
from redis_stream_queue.message import StreamMessage
from redis_stream_queue.pool import worker as pool_worker
from redis_stream_queue.pool.config import Settings
from redis_stream_queue.pool.protocol import Declined, Free, Retrying, Take
from redis_stream_queue.pool.recovery import Death, Recovery
from redis_stream_queue.pool.roster import Worker as Record
from redis_stream_queue.pool.roster import nobody
from redis_stream_queue.pool.rows import Rows
from redis_stream_queue.pool.states import WorkerState
from redis_stream_queue.retention import Retention

from .book import AGE, DLQ, GROUP, SLOW, STREAM, Book, Execution
from .process import At, Clock, Fault, Late, Process, patched_library

MIN_IDLE_MS = (10_000, 25_000)  # pool A, pool B
RETRY_MS = 3000
POOL_OF_SLOT = {0: 0, 1: 0, 2: 1}
ALONE = 3
SLOTS = (0, 1, 2, ALONE)
STEPS_MS = (200, 400, 4000, 12_000, 27_000, 61_000)
LAST_ROUNDS = 60
# A worker that is killed between the end of its handler and Redis knowing of it: is that delivery
# counted? Today it is not (the row is cleared first), so a message that kills its worker just then
# never dies.
COUNTS_FINISHED = True
# A burial that the master could not finish (a cut between two commands): does the master go on with
# it? Today not before the next burial, and meanwhile it renews its hold on the message for ever.
MASTER_FINISHES_BURIALS = True
MOST_UNFINISHED = 4


class Failed(Exception):
    """What a failing handler raises."""


@dataclass(eq=False)
class Hand:
    """A handler call that waits for its verdict."""

    actor: Actor
    executions: list[Execution]
    verdict: asyncio.Future[str]


class Actor:
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

    session: Any

    @property
    def name(self) -> str:
        return str(self.session.name)

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

    def held(self) -> set[str]:
        return set(self.session.held)

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
        executions = [
            book.begin(self, m.id, m.delivery_count, stale=self._stale(m.id)) for m in messages
        ]
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
        if verdict == "reject":
            raise Reject
        return [m.id for m in messages[:done]]

    def watch_batches(self, hooks: Any) -> None:
        started = hooks.batch_started

        def batch_started(messages: list[StreamMessage]) -> None:
            self.world.book.batch(self, {m.id: m.delivery_count for m in messages})
            started(messages)

        hooks.batch_started = batch_started

    # -- what rules do ---------------------------------------------------------------------------

    async def _turn(self) -> None:
        raise NotImplementedError

    async def _deliver(self) -> None:
        """Messages of the master come in."""

    async def _drain(self) -> None:
        raise NotImplementedError

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

    def died(self) -> None:
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
        row = pool.rows.row(row_number)
        row.clear()
        self.inbox: list[Any] = []
        name = f"{GROUP}_{pool.label}{slot}_{pool.lives}"
        settings = {
            "url": world.url,
            "prefix": "",
            "stream": STREAM,
            "config": {**asdict(pool.consumer), "worker_name": name},
            "batch_size": world.batch_size,
            "soft_time_limit_s": None,
            "most_messages": None,
        }
        self.worker: Any = pool_worker.Worker(
            None,  # type: ignore[arg-type]
            pool.rows,
            row_number,
            settings,
            self.handler(world.style),
            None,  # type: ignore[arg-type]
        )
        self.worker._loop = self.process.loop
        self.worker._channel = self
        self.session = self.worker.session
        self.watch_batches(self.worker._hooks)
        self.record = Record(slot, pool.lives, row_number, row, _Pipe(self.inbox), consumer=name)
        self.record.state = WorkerState.READY
        row[pool_worker.Field.BATCH] = world.batch_size or 1
        pool.records.append(self.record)
        self._named = False

    @property
    def excused(self) -> bool:
        if self.process.stopped and self.record.busy and self.pool.process.runs:
            return False  # the second rope holds
        return super().excused

    @property
    def told(self) -> bool:
        return bool(self.inbox)

    def send(self, message: Any) -> None:
        """The worker's end of the pipe."""
        if self.process.dead:
            return
        if self.pool.process.runs:
            self.pool.heard(self.record, message)
        if isinstance(message, Free):  # answered, or the wait for it is over
            while self.inbox:
                self.worker._ordered(self.inbox.pop(0))
            self.worker._answered.set()

    def close(self) -> None:
        pass

    async def _deliver(self) -> None:
        while self.inbox:
            self.worker._ordered(self.inbox.pop(0))

    async def _turn(self) -> None:
        await self._deliver()
        if not self._named:
            await self.session.reserve_name()
            self._named = True
        if not self.worker._draining:
            await self.worker._turn()
        if self.worker._draining:
            await self._leave()

    async def _drain(self) -> None:
        self.record.state = WorkerState.DRAINING
        self.worker._drain()
        if not self.at_work:
            await self._leave()

    async def _leave(self) -> None:
        await self.worker._leave()
        self.left = True
        self.died()

    def died(self) -> None:
        if self.record in self.pool.records and not COUNTS_FINISHED:
            pending = self.world.book.now_pending()
            for execution in self.executions:
                entry = execution.entry
                if execution.outcome in ("ok", "failed") and pending.get(entry.id) == self.name:
                    entry.charged -= 1
                    entry.slack += 1
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
        if isinstance(message, Take):
            self._inbox.append(message)


class Alone(Actor):
    """A StreamConsumer."""

    def __init__(self, world: World, life: int) -> None:
        super().__init__(world, f"consumer, life {life}", MIN_IDLE_MS[0])
        config = world.consumer_config(MIN_IDLE_MS[0])
        client = StreamClient.from_url(world.url)
        self.consumer: Any = StreamConsumer(client, STREAM, config, self.handler(world.style))
        self.consumer._checked = True
        self.session = self.consumer._session
        self.watch_batches(self.session.hooks)

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
        self.rows = world.rows[number]
        self.rows.offers_waiting = 0
        self.lives = world.lives[number]
        self.records: list[Record] = []
        self.consumer = world.consumer_config(MIN_IDLE_MS[number])
        client = StreamClient.from_url(world.url)
        settings = Settings(
            STREAM, self.consumer, world.batch_size, False, world.style == "one by one"
        )
        self.recovery = Recovery(client, settings, self.rows, lambda: self.records)
        self.retention = Retention(self.recovery.pending, world.max_stream_size)
        self.group = ConsumerGroup(client, STREAM, GROUP)

    def heard(self, record: Record, message: Any) -> None:
        if isinstance(message, Free):
            self.recovery.offers.answer(record, message.taken)
        elif isinstance(message, Declined):
            self.recovery.offers.declined(record, message.ids)
        elif isinstance(message, Retrying):
            self.recovery.remember(message.id, message.error)

    async def recover(self) -> None:
        if self.recovery.has_deaths:
            await self.recovery.look_at_deaths()
        await self.recovery.sweep()

    async def trim(self) -> None:
        await self.retention.trim()

    async def prune(self) -> None:
        await self.group.prune_consumers(0)

    async def renew(self) -> None:
        await self.recovery.renew_leases(min(self.consumer.min_idle_claim_ms // 3, 1000))

    async def restore(self) -> None:
        await self.group.recreate(self.retention.restart_id)


class World:
    """Everything in one example."""

    def __init__(
        self, server: redis.Redis, url: str, rows: list[Rows], clock: Clock, **shape: Any
    ) -> None:
        self.server = server
        self.url = url
        self.rows = rows
        self.clock = clock
        self.lives = [0, 1000]
        self.style: str = shape["style"]
        self.batch_size: int | None = shape["batch_size"]
        self.max_deliveries: int = shape["max_deliveries"]
        self.destroys: int = shape["destroys"]
        self.max_stream_size = 2
        self.late: list[Late] = []
        self.processes: list[Process] = []
        self.book = Book(server, self.max_deliveries, min(MIN_IDLE_MS))
        self.actors: dict[int, Actor] = {}
        self.alone_lives = 0
        self.admin = self.process("admin")
        client = StreamClient.from_url(url)
        self.producer = StreamProducer(client, STREAM, group=GROUP)
        self.letters = DeadLetterQueue(client, DLQ)
        self.admin.run(self.producer.ensure_group)
        self.pools = [Pool(self, 0), Pool(self, 1)]
        self.next_uid = 0

    def consumer_config(self, min_idle_ms: int) -> ConsumerConfig:
        return ConsumerConfig(
            GROUP,
            dlq_stream=DLQ,
            batch_size=self.batch_size or 3,
            block_ms=0,
            min_idle_claim_ms=min_idle_ms,
            max_deliveries=self.max_deliveries,
            retry_delay_ms=RETRY_MS,
        )

    def process(self, name: str) -> Process:
        process = Process(name, self.clock, self.late, self._executed)
        self.processes.append(process)
        return process

    def _executed(self, process: Process, command: Any, reply: Any) -> None:
        if command[:2] == ("XGROUP", "CREATE") and not isinstance(reply, Exception):
            self.book.group_created(command[4])
        for actor in self.actors.values():
            if actor.process is process:
                actor.executed(command)

    def actor(self, slot: int) -> Actor:
        """Who lives in this slot; a new life where nobody does."""
        actor = self.actors.get(slot)
        if actor is None or not actor.alive:
            if slot == ALONE:
                self.alone_lives += 1
                actor = Alone(self, self.alone_lives)
            else:
                number = POOL_OF_SLOT[slot]
                actor = PoolWorker(self, self.pools[number], slot)
                self.lives[number] = actor.pool.lives
            self.actors[slot] = actor
        return actor

    def hands(self) -> list[Hand]:
        return [h for actor in self.living() if actor.process.runs for h in actor.hands]

    def living(self) -> list[Actor]:
        return [a for slot in SLOTS if (a := self.actors.get(slot)) and a.alive]

    def told(self) -> list[Actor]:
        return [a for a in self.living() if a.told and not a.at_work]

    def free(self) -> list[int]:
        """Slots where a turn would do something."""
        return [
            slot
            for slot in SLOTS
            if (actor := self.actors.get(slot)) is None
            or not actor.alive
            or not actor.at_work
            or actor.process.stopped
            or actor.told
        ]

    def dispose(self) -> None:
        for process in self.processes:
            process.dispose()


faults = st.one_of(
    st.none(),
    st.builds(At, st.sampled_from(list(Fault)), st.sampled_from((0, 0, 0, 1, 1, 2, 3))),
)
slots = st.sampled_from(SLOTS)
pools = st.sampled_from((0, 1))


class Messages(RuleBasedStateMachine):
    """Rules; the invariant is Book.check()."""

    server: redis.Redis
    url: str
    rows: list[Rows]

    def __init__(self) -> None:
        super().__init__()
        self.server.flushall()
        ConsumerGroup._known.clear()
        self.clock = Clock()
        self.stack = contextlib.ExitStack()
        self.stack.enter_context(patched_library(self.clock))
        self.world: World | None = None
        self.aged = self.came_late = False

    @initialize(
        style=st.sampled_from(("one by one", "batch", "side by side")),
        batch_size=st.sampled_from((3, None, 1)),
        max_deliveries=st.sampled_from((3, 2, 3, 2, 1)),
        destroys=st.sampled_from((0, 0, 0, 1, 2)),
        messages=st.integers(1, 6),
    )
    def begin(self, messages: int, **shape: Any) -> None:
        self.world = World(self.server, self.url, self.rows, self.clock, **shape)
        self.stack.callback(self.world.dispose)
        self.push(messages, False, None)

    @property
    def w(self) -> World:
        assert self.world is not None
        return self.world

    # -- producers -------------------------------------------------------------------------------

    @precondition(lambda self: len(self.w.book.unfinished()) < MOST_UNFINISHED)
    @rule(count=st.integers(1, 3), bad=st.integers(0, 9).map(lambda n: n == 9), at=faults)
    def push(self, count: int, bad: bool, at: At | None) -> None:
        world = self.w
        uids = range(world.next_uid, world.next_uid + count)
        world.next_uid += count
        if bad:
            payload = f"bad:{uids[0]}".encode()
            self._admin(lambda: world.producer.client.push(STREAM, payload), at)
        else:
            self._admin(lambda: world.producer.push_many(list(uids)), at)

    def _admin(self, start: Callable[[], Any], at: At | None) -> None:
        admin = self.w.admin
        if admin.stopped:
            admin.resume()
        if admin.dead:
            admin.dead = False  # a new one
        admin.run(start, at)

    # -- workers ---------------------------------------------------------------------------------

    @precondition(lambda self: self.w.free())
    @rule(index=st.integers(0, 3), at=faults)
    def turn(self, index: int, at: At | None) -> None:
        free = self.w.free()
        self.w.actor(free[index % len(free)]).turn(at)

    @precondition(lambda self: self.w.free())
    @rule(index=st.integers(0, 3))
    def turn_undisturbed(self, index: int) -> None:
        self.turn(index, None)

    @precondition(lambda self: self.w.hands())
    @rule(
        index=st.integers(0, 5),
        verdict=st.sampled_from(("ok", "raise", "some", "retry", "reject")),
        at=faults,
    )
    def verdict(self, index: int, verdict: str, at: At | None) -> None:
        hands = self.w.hands()
        hand = hands[index % len(hands)]
        if verdict in ("retry", "reject") and self.w.style == "batch":
            verdict = "raise"
        hand.verdict.set_result(verdict)
        hand.actor.process.run(None, at)

    @precondition(lambda self: self.w.hands())
    @rule(index=st.integers(0, 5))
    def fails(self, index: int) -> None:
        self.verdict(index, "raise", None)

    @precondition(lambda self: self.w.living())
    @rule(index=st.integers(0, 3), what=st.sampled_from(("crash", "stop", "stop", "stop", "drain")))
    def disturb(self, index: int, what: str) -> None:
        living = self.w.living()
        actor = living[index % len(living)]
        if what == "crash":
            actor.process.dead = True
        elif actor.process.stopped:
            actor.process.resume()
        elif what == "stop":
            actor.process.stop()
        else:
            actor.drain(None)

    # -- masters ---------------------------------------------------------------------------------

    def _master(self, pool: int, what: str, at: At | None = None) -> None:
        master = self.w.pools[pool]
        if master.process.stopped:
            master.process.resume(at)
        else:
            master.process.run(getattr(master, what), at)

    @rule(pool=pools, at=faults)
    def recover(self, pool: int, at: At | None) -> None:
        self._master(pool, "recover", at)

    @rule(pool=pools, ms=st.sampled_from((0, *STEPS_MS)))
    def recover_later(self, pool: int, ms: int) -> None:
        if ms:
            self.time_passes(ms, None)
            self.each_message_is_in_one_place()
        self._master(pool, "recover")

    @precondition(lambda self: self.w.told())
    @rule(index=st.integers(0, 3), at=faults)
    def takes_an_offer(self, index: int, at: At | None) -> None:
        told = self.w.told()
        told[index % len(told)].turn(at)

    @precondition(lambda self: GROUP in self.w.book.facts.delivered)
    @rule(pool=pools, what=st.sampled_from(("trim", "trim", "prune")))
    def upkeep(self, pool: int, what: str) -> None:
        self._master(pool, what)

    @rule(pool=pools, what=st.sampled_from(("stop", "stop", "host dies")))
    def disturb_master(self, pool: int, what: str) -> None:
        master = self.w.pools[pool]
        if what == "stop":
            if master.process.runs:
                master.process.stop()
        else:
            master.process.dead = True

    # -- the world -------------------------------------------------------------------------------

    @rule(ms=st.sampled_from(STEPS_MS), cut=st.sampled_from((None,) * 5 + SLOTS))
    def time_passes(self, ms: int, cut: int | None) -> None:
        world = self.w
        self.clock.ms += ms
        for group in (GROUP, SLOW):
            self.server.eval(AGE, 1, STREAM, group, ms)
        isolated = world.actors.get(cut) if cut is not None else None
        if isolated is not None:
            isolated.process.cut = True
        for pool in world.pools:
            if pool.process.runs:
                pool.process.run(pool.renew)
        for actor in world.actors.values():
            if actor.alive and actor.process.runs:
                actor.process.run()
        self.aged = ms > 1000  # else the leases need no renewal yet

    @precondition(lambda self: self.w.late)
    @rule(index=st.integers(0, 3))
    def late_arrives(self, index: int) -> None:
        world = self.w
        late = world.late.pop(index % len(world.late))
        connection = self.server.connection_pool.get_connection()
        for command in late.commands:
            connection.send_command(*command)
            with contextlib.suppress(redis.ResponseError):
                world._executed(late.process, command, connection.read_response())
        self.server.connection_pool.release(connection)
        self.came_late = True

    @precondition(lambda self: self.w.book.facts.letters)
    @rule(everything=st.booleans(), at=faults)
    def requeue(self, everything: bool, at: At | None) -> None:
        ids = None if everything else [self.w.book.facts.letters[0][0]]
        self._admin(lambda: self.w.letters.requeue(ids), at)

    @rule(count=st.integers(1, 3), acks=st.integers(0, 3))
    def slow_group(self, count: int, acks: int) -> None:
        book = self.w.book
        if not book.slow_exists:
            if not book.facts.stream:
                return
            self.server.xgroup_create(STREAM, SLOW, "0")
            book.slow_exists, book.slow_has = True, set(book.facts.stream)
            return
        self.server.xreadgroup(SLOW, "slow_one", {STREAM: ">"}, count=count)
        mine = list(book.facts.pending[SLOW])[:acks]
        if mine:
            self.server.xack(STREAM, SLOW, *mine)
            book.slow_done.update(mine)

    @precondition(lambda self: self.w.destroys and GROUP in self.w.book.facts.delivered)
    @rule()
    def destroy_group(self) -> None:
        self.w.destroys -= 1
        self.server.xgroup_destroy(STREAM, GROUP)

    @precondition(lambda self: GROUP not in self.w.book.facts.delivered)
    @rule(pool=pools)
    def restore_group(self, pool: int) -> None:
        self._master(pool, "restore", None)

    # -- after every step --------------------------------------------------------------------------

    @invariant()
    def each_message_is_in_one_place(self) -> None:
        world = self.w
        book = world.book
        hit: set[Any] = set()
        for actor in book.holders:
            process = actor.process
            state = (process.faults, process.stopped_at_ms, process.dead)
            if getattr(actor, "seen", (0, None, False)) != state:
                hit.add(actor)
            actor.seen = state
            if process.dead:
                actor.died()
        for number, pool in enumerate(world.pools):
            if pool.process.dead:  # the pod comes back; its workers are born when they are needed
                for actor in world.actors.values():
                    if isinstance(actor, PoolWorker) and actor.pool is pool:
                        actor.process.dead = True
                world.lives[number] = pool.lives
                world.pools[number] = Pool(world, number)
        for process in world.processes:
            for error in process.errors:
                book.complain(f"{process.name} raised {error!r}")
        book.check(hit, late=self.came_late, aged=self.aged)
        self.aged = self.came_late = False
        for process in world.processes:
            process.cut = False
        assert not book.wrong, "\n".join(book.wrong)

    # -- the end -----------------------------------------------------------------------------------

    def teardown(self) -> None:
        try:
            if self.world is not None and not self.world.book.wrong:
                self._finish()
        finally:
            self.stack.close()

    def _finish(self) -> None:
        """Everything that lives goes on, all handlers succeed: nothing may be left."""
        world = self.w
        for process in world.processes:
            if process.stopped and not process.dead:
                process.resume()
        self.each_message_is_in_one_place()
        for _ in range(LAST_ROUNDS):
            if GROUP not in world.book.facts.delivered:
                self.restore_group(0)
                self.each_message_is_in_one_place()
            while world.hands():
                self.verdict(0, "ok", None)
                self.each_message_is_in_one_place()
            for slot in SLOTS:
                world.actor(slot).turn(None)
                self.each_message_is_in_one_place()
            for pool in (0, 1):
                if not MASTER_FINISHES_BURIALS:
                    world.pools[pool].process.run(world.pools[pool].recovery.undertaker.settle)
                self._master(pool, "recover")
            self.each_message_is_in_one_place()
            if world.book.all_finished() and not world.hands():
                return
            self.time_passes(27_000, None)
            self.each_message_is_in_one_place()
        raise AssertionError(f"never finished: {world.book.unfinished()}")
