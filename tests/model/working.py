"""Rules: workers and masters have a turn, and are disturbed."""

from __future__ import annotations

from hypothesis import strategies as st
from hypothesis.stateful import precondition, rule

from redis_stream_queue.delivery.sightings import LOOK_MS, WATCH_MS

from .facts import GROUP
from .process import At
from .pushing import MOST_UNFINISHED
from .stage import STEPS_MS, Stage, faults, pools


class Working(Stage):
    """Turns, verdicts of handlers, recovery and upkeep; crashes, stops and drains."""

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

    # -- masters -----------------------------------------------------------------------------------

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
