"""The state machine: real workers, masters, consumers and producers on a real server, in any order.

Slots 0 and 1 are workers of pool A, slot 2 is the worker of pool B (another host, with another
min_idle_claim_ms), slot 3 is a StreamConsumer of its own.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
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

from redis_stream_queue.delivery.sightings import LOOK_MS, WATCH_MS
from redis_stream_queue.group import ConsumerGroup
from redis_stream_queue.pool.scoreboard import Scoreboard

from .actors import Pool, PoolWorker
from .ages import AGE
from .book import GROUP, REWIND, SLOW, STREAM
from .process import At, Clock, Fault, patched_library
from .world import SLOTS, World

STEPS_MS = (200, 400, 4000, 12_000, 27_000, 61_000)
LAST_ROUNDS = 60
MOST_UNFINISHED = 4
LONG_MS = 5000  # a retry that waits longer is scheduled

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
    scoreboards: list[Scoreboard]

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
        self.world = World(self.server, self.url, self.scoreboards, self.clock, **shape)
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

    @precondition(lambda self: len(self.w.book.unfinished()) < MOST_UNFINISHED)
    @rule(
        count=st.integers(1, 3),
        delay_ms=st.sampled_from((0, 100, 5000, 15_000)),
        ttl_ms=st.sampled_from((None, None, 3000)),
        at=faults,
    )
    def push_later(self, count: int, delay_ms: int, ttl_ms: int | None, at: At | None) -> None:
        world = self.w
        uids = list(self._new(count))
        if ttl_ms is not None and delay_ms:
            world.book.may_vanish.update(uids)
            ends_ms = self.clock.server_ms + ttl_ms
            world.book.ends_ms.update(dict.fromkeys(uids, ends_ms))
        options: Any = {"delay_ms": delay_ms, **({"ttl_ms": ttl_ms} if delay_ms else {})}
        self._admin(lambda: world.producer.push_many(uids, **options), at)

    def _new(self, count: int) -> range:
        self.w.next_uid += count
        return range(self.w.next_uid - count, self.w.next_uid)

    @precondition(lambda self: len(self.w.book.unfinished()) < MOST_UNFINISHED)
    @rule(again=st.booleans(), delay_ms=st.sampled_from((0, 0, 5000)), at=faults)
    def push_once(self, again: bool, delay_ms: int, at: At | None) -> None:
        """Again: as after an answer that was lost, whatever has become of it."""
        world = self.w
        once = world.book.once
        [uid] = [max(once)] if again and once else self._new(1)
        once.add(uid)
        self._admin(lambda: world.producer.push(uid, dedup_id=f"once {uid}", delay_ms=delay_ms), at)

    @precondition(lambda self: len(self.w.book.unfinished()) < MOST_UNFINISHED)
    @rule(key=st.sampled_from(("a", "b")), delay_ms=st.sampled_from((0, 0, 5000)), at=faults)
    def push_unique(self, key: str, delay_ms: int, at: At | None) -> None:
        world = self.w
        [uid] = self._new(1)
        self._admin(lambda: world.producer.push(uid, unique=key, delay_ms=delay_ms), at)

    @precondition(lambda self: self.w.book.facts.scheduled or self.w.book.unfinished())
    @rule(index=st.integers(0, 5), at=faults)
    def cancel(self, index: int, at: At | None) -> None:
        """Wherever it is. Who holds it hears of it later, and may start it until then."""
        world = self.w
        book = world.book
        entries = [entry for entry in book.entries.values() if not entry.finished]
        ids = [*book.facts.scheduled, *(entry.id for entry in entries)]
        cancelled = ids[index % len(ids)]
        entry = book.entries.get(cancelled)
        book.may_vanish.add(entry.uid if entry else book.facts.scheduled[cancelled])
        self._admin(lambda: world.producer.client.cancel(STREAM, cancelled), at)

    @rule(on=st.booleans(), heard=st.booleans(), at=faults)
    def pause(self, on: bool, heard: bool, at: At | None) -> None:
        """Or resume; heard: everybody who can knows at once."""
        client = self.w.producer.client
        self._admin(lambda: client.pause(STREAM) if on else client.resume(STREAM), at)
        for pool in (0, 1) if heard else ():
            self._master(pool, "learn")
        for actor in self.w.living() if heard else ():
            if actor.told and actor.process.runs:
                actor.process.run(actor._deliver)

    @precondition(lambda self: self.w.amid_a_batch())
    @rule()
    def pause_amid_a_batch(self) -> None:
        """What has not started does not, though what runs has ended."""
        self.pause(True, True, None)
        self.each_message_is_in_one_place()
        for hand in self.w.hands():
            if hand.actor in self.w.amid_a_batch():
                self.verdict(self.w.hands().index(hand), "ok", None)
                self.each_message_is_in_one_place()

    @rule(pool=pools, at=faults)
    def hear_of_pauses(self, pool: int, at: At | None) -> None:
        self._master(pool, "learn", at)

    def _admin(self, start: Callable[[], Any], at: At | None) -> None:
        admin = self.w.admin
        if admin.stopped:
            admin.resume()
        if admin.dead:  # a new one, that waits for nothing of the old one
            admin.dead, admin.turn = False, asyncio.Lock()
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
        verdict=st.sampled_from(("ok", "raise", "some", "retry", "much later", "reject")),
        at=faults,
    )
    def verdict(self, index: int, verdict: str, at: At | None) -> None:
        hands = self.w.hands()
        hand = hands[index % len(hands)]
        if verdict in ("retry", "much later", "reject") and self.w.style == "batch":
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

    @rule(pool=pools, ms=st.sampled_from((200, 4000, 12_000, 27_000)))
    def watch(self, pool: int, ms: int) -> None:
        """The master looks again and again, as it does, until it may take what nobody renews."""
        self.recover_later(pool, ms)
        for _ in range(2 + WATCH_MS // LOOK_MS):
            self.recover_later(pool, LOOK_MS)

    @rule(ms=st.sampled_from((12_000, 61_000)), steps=st.booleans())
    def nobody_can_renew(self, ms: int, steps: bool) -> None:
        """Redis was away for so long, or its clock has jumped: the masters are the first to look,
        and what runs is not taken for abandoned."""
        if steps:
            self.clock.server_ahead_ms += ms
        else:
            self.clock.ms += ms
        self._age(ms)
        for pool in self.w.pools:
            if pool.process.runs:
                pool.process.run(pool.recover)
        self.time_passes(600, None)

    @precondition(lambda self: self.w.book.facts.scheduled)
    @rule(pool=pools, ms=st.sampled_from((0, 5000, 15_000)), at=faults)
    def move(self, pool: int, ms: int, at: At | None) -> None:
        if ms:
            self.time_passes(ms, None)
            self.each_message_is_in_one_place()
        self._master(pool, "move", at)

    @precondition(lambda self: len(self.w.book.unfinished()) < MOST_UNFINISHED)
    @rule(pool=pools, at=faults)
    def tick(self, pool: int, at: At | None) -> None:
        self._master(pool, "tick", at)

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
        self._age(ms)
        isolated = world.actors.get(cut) if cut is not None else None
        if isolated is not None:
            isolated.process.cut = True
        for pool in world.pools:
            if pool.process.runs:
                pool.process.run(pool.renew)
        for actor in world.actors.values():
            if actor.alive and actor.process.runs:
                actor.process.run()
        self._age(1)  # what was renewed has an idle time, as it would have when anybody looks
        self.aged = ms > 1000  # else the leases need no renewal yet

    def _age(self, ms: int) -> None:
        with self.server.pipeline() as pipe:
            pipe.execute_command(*REWIND)
            for group in (GROUP, SLOW):
                pipe.eval(AGE, 1, STREAM, group, ms)
            pipe.execute()

    @precondition(lambda self: self.w.late)
    @rule(index=st.integers(0, 3))
    def late_arrives(self, index: int) -> None:
        world = self.w
        late = world.late.pop(index % len(world.late))
        connection = self.server.connection_pool.get_connection()
        sent = self.clock.virtual(late.commands)
        for command in sent:
            connection.send_command(*command)
        *_, (_, *replies) = [connection.read_response() for _ in sent]
        for command, reply in zip(late.commands, replies, strict=True):
            if not isinstance(reply, Exception):
                world._executed(late.process, command, reply)
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
        self.pause(False, True, None)
        for _ in range(LAST_ROUNDS):
            for pool in (0, 1):
                self._master(pool, "learn")
            if GROUP not in world.book.facts.delivered:
                self.restore_group(0)
                self.each_message_is_in_one_place()
            while world.hands():
                self.verdict(0, "ok", None)
                self.each_message_is_in_one_place()
            for slot in SLOTS:
                world.actor(slot).turn(None)
                self.each_message_is_in_one_place()
            self._master(0, "move")
            self.each_message_is_in_one_place()
            for _ in range(2 + WATCH_MS // LOOK_MS):
                for pool in (0, 1):
                    self._master(pool, "recover")
                self.each_message_is_in_one_place()
                if world.book.all_finished() and not world.hands():
                    return
                self.time_passes(LOOK_MS, None)
                self.each_message_is_in_one_place()
            self.time_passes(27_000, None)
            self.each_message_is_in_one_place()
        raise AssertionError(f"never finished: {world.book.unfinished()}")
