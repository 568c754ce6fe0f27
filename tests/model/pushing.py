"""Rules: what producers push."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st
from hypothesis.stateful import precondition, rule

from .facts import STREAM
from .process import At
from .stage import Stage, faults

MOST_UNFINISHED = 4


class Pushing(Stage):
    """Single messages and several, for now and for later, and once."""

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
