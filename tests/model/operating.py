"""Rules: what operators, other groups and the world do."""

from __future__ import annotations

import re

from hypothesis import strategies as st
from hypothesis.stateful import precondition, rule

from redis_stream_queue import DLQError

from .facts import GROUP, SLOW, STREAM, look
from .process import At
from .stage import faults, pools
from .working import Working

REFUSED = re.compile(
    r"letter (\S+) has a unique key, and the same work is unfinished as ([@0-9-]+)"
)


class Operating(Working):
    """Cancels, pauses, requeues, lost groups; a second group; commands that come late."""

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

    @precondition(lambda self: self.w.book.facts.letters)
    @rule(everything=st.booleans(), at=faults)
    def requeue(self, everything: bool, at: At | None) -> None:
        ids = None if everything else [self.w.book.facts.letters[0][0]]
        self._admin(lambda: self._requeue(ids), at)

    async def _requeue(self, ids: list[str] | None) -> None:
        """One with a unique key stays while the same work is unfinished, and only then."""
        try:
            await self.w.letters.requeue(ids)
        except DLQError as error:
            facts = look(self.server)
            key_of = {i: fields.get("rsq:unique") for i, fields in facts.letters}
            refused = REFUSED.findall(str(error))
            for letter, same in refused:
                of_stream = facts.headers.get(same, {}).get("rsq:unique") == key_of[letter]
                if not (same in facts.scheduled or (of_stream and facts.unfinished(GROUP, same))):
                    raise
            if str(error).count("letter ") != len(refused):
                raise

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
