"""The state machine: real workers, masters, consumers and producers on a real server, in any order.

Slots 0 and 1 are workers of pool A, slot 2 is the worker of pool B (another host, with another
min_idle_claim_ms), slot 3 is a StreamConsumer of its own.
"""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st
from hypothesis.stateful import initialize

from redis_stream_queue.delivery.sightings import LOOK_MS, WATCH_MS

from .facts import GROUP
from .operating import Operating
from .pushing import Pushing
from .world import SLOTS, World

LAST_ROUNDS = 60
LONG_MS = 5000  # a retry that waits longer is scheduled


class Messages(Pushing, Operating):
    """All rules; the invariant is Book.check()."""

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
