"""What the rules of the model have in common: the world, how its time passes, and the check after
each step."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from typing import Any

import redis
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from redis_stream_queue.group import ConsumerGroup
from redis_stream_queue.pool.scoreboard import Scoreboard

from .ages import AGE
from .facts import GROUP, REWIND, SLOW, STREAM
from .pools import Pool, PoolWorker
from .process import At, Clock, Fault, patched_library
from .world import SLOTS, World

STEPS_MS = (200, 400, 4000, 12_000, 27_000, 61_000)

faults = st.one_of(
    st.none(),
    st.builds(At, st.sampled_from(list(Fault)), st.sampled_from((0, 0, 0, 1, 1, 2, 3))),
)
slots = st.sampled_from(SLOTS)
pools = st.sampled_from((0, 1))


class Stage(RuleBasedStateMachine):
    """What all rules need: a world, its clock, and the check after each step."""

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

    @property
    def w(self) -> World:
        assert self.world is not None
        return self.world

    def _admin(self, start: Callable[[], Any], at: At | None) -> None:
        admin = self.w.admin
        if admin.stopped:
            admin.resume()
        if admin.dead:  # a new one, that waits for nothing of the old one
            admin.dead, admin.turn = False, asyncio.Lock()
        admin.run(start, at)

    def _master(self, pool: int, what: str, at: At | None = None) -> None:
        master = self.w.pools[pool]
        if master.process.stopped:
            master.process.resume(at)
        else:
            master.process.run(getattr(master, what), at)

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
