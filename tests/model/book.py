"""What must be true: the model's record of every message, compared with Redis after each step."""

from __future__ import annotations

from collections import Counter
from typing import Any, Protocol

import redis

from redis_stream_queue.message import id_key

from .entries import Entry, Execution
from .facts import GROUP, SLOW, STREAM, Facts, look, payload_of, uid_of


class Holder(Protocol):
    """A consumer as the book knows it."""

    label: str
    min_idle_ms: int

    @property
    def name(self) -> str: ...
    @property
    def alive(self) -> bool: ...
    @property
    def excused(self) -> bool:
        """Could it not renew its leases in the time that has just passed?"""


class Book:
    """All entries, and the invariant."""

    def __init__(self, server: redis.Redis, max_deliveries: int, least_idle_ms: int) -> None:
        self.server = server
        self.max_deliveries = max_deliveries
        self.least_idle_ms = least_idle_ms
        self.entries: dict[str, Entry] = {}
        self.pushed: set[int] = set()
        self.wrong: list[str] = []
        self.step = 0
        self.lapsed: set[tuple[Any, str]] = set()
        self.lost_at: dict[tuple[Any, str], int] = {}
        self.slow_exists = False
        self.slow_has: set[str] = set()
        self.slow_done: set[str] = set()
        self.doubled: set[int] = set()  # uids that a restored group may have in two places
        self.holders: list[Any] = []
        self.letters_seen: set[str] = set()
        self.once: set[int] = set()  # uids of messages that were pushed again and again
        self.may_vanish: set[int] = set()  # cancelled, or expiring
        self.ends_ms: dict[int, int] = {}  # by uid: it does not start later
        self.facts = Facts({}, {}, {GROUP: {}, SLOW: {}}, [])
        self.were_dead: set[int] = set()
        self.pruned: set[str] = set()  # names that were removed as they held nothing

    def complain(self, text: str) -> None:
        self.wrong.append(text)

    def name_of(self, entry_id: str) -> str:
        entry = self.entries.get(entry_id)
        return f"message {entry.uid} ({entry_id})" if entry else entry_id

    # -- executions ------------------------------------------------------------------------------

    def begin(self, holder: Holder, entry_id: str, count: int, *, stale: bool) -> Execution:
        """A handler starts with an entry. stale: it was told that it lost it, or could know."""
        if entry_id not in self.entries:
            self.learn(look(self.server))
        entry = self.entries[entry_id]
        what = f"{holder.label} starts {self.name_of(entry_id)}, delivery {count}"
        line = self.server.xpending_range(STREAM, GROUP, entry_id, entry_id, 1)[0:1]
        owner = line[0]["consumer"] if line else None
        key = (holder, entry_id)
        if not entry.forgiven:
            if owner != holder.name:
                if key not in self.lapsed:
                    self.complain(f"{what}: it is held by {owner!r}, and the lease never lapsed")
                elif stale:
                    self.complain(f"{what}: it is held by {owner!r}, and it could know")
            for other in entry.executions:
                if other.outcome == "running" and other.holder.alive:
                    if (other.holder, entry_id) not in self.lapsed:
                        self.complain(f"{what}: {other.holder.label} runs it, and kept its lease")
                elif other.outcome == "ok" and not self._may_be_repeated(other):
                    self.complain(f"{what}: {other.holder.label} has done it, undisturbed")
            if count > self.max_deliveries:
                self.complain(f"{what}: more than {self.max_deliveries}")
            low, high = entry.charged + 1, entry.charged + 1 + entry.slack
            if not low <= count <= high and key not in self.lapsed:
                self.complain(f"{what}: should be {low}..{high}")
        execution = Execution(holder, entry, count)
        entry.executions.append(execution)
        entry.charged += 1
        return execution

    def check_time(self, execution: Execution, server_ms: int, headers: dict[str, str]) -> None:
        """It does not start after its time."""
        ends_ms = self.ends_ms.get(execution.entry.uid)
        if ends_ms is not None and "rsq:pushed" in headers and server_ms > ends_ms:
            self.complain(f"{self.name_of(execution.entry.id)} starts {server_ms - ends_ms} late")

    def _may_be_repeated(self, execution: Execution) -> bool:
        """May somebody else have the message by now, although this execution ended well?"""
        holder = execution.holder
        lapsed = (holder, execution.entry.id) in self.lapsed
        return not holder.alive or holder.faulty or lapsed

    def batch(self, holder: Holder, counts: dict[str, int]) -> None:
        """A batch goes to a handler: the last permitted delivery is alone."""
        if len(counts) > 1 and self.max_deliveries > 1:
            for entry_id, count in counts.items():
                if count >= self.max_deliveries and not self.entries[entry_id].forgiven:
                    self.complain(
                        f"{holder.label}: the last delivery of {self.name_of(entry_id)} is not "
                        f"alone but one of {len(counts)}"
                    )

    # -- the group lost and found -----------------------------------------------------------------

    def group_created(self, start_id: str) -> None:
        """The group is new: what lies behind start_id is unread again, finished or not.

        What else is known of these entries says nothing any more.
        """
        requeued = Counter(entry.uid for entry in self.entries.values())
        dead = {fields["original_id"] for _, fields in self.facts.letters}
        for entry in self.entries.values():
            entry.forgiven = True
            if id_key(entry.id) > id_key(start_id):
                entry.finished = False
                if entry.id in dead or requeued[entry.uid] > 1:
                    self.doubled.add(entry.uid)

    # -- comparing ---------------------------------------------------------------------------------

    def learn(self, facts: Facts) -> None:
        for entry_id, payload in facts.stream.items():
            if entry_id not in self.entries:
                self._enter(entry_id, payload, facts.headers[entry_id])
                if self.slow_exists:
                    self.slow_has.add(entry_id)
        self.pushed.update(facts.scheduled.values())

    def _enter(self, entry_id: str, payload: str, headers: dict[str, str]) -> None:
        uid = uid_of(payload)
        earlier = [entry for entry in self.entries.values() if entry.uid == uid]
        entry = Entry(entry_id, uid, payload.startswith("bad:"), key=headers.get("rsq:unique", ""))
        if "rsq:deliveries" in headers:
            past = earlier[-1]
            entry.charged, entry.slack, entry.forgiven = past.charged, past.slack, past.forgiven
        elif earlier and (uid in self.once or uid < 0) and uid not in self.were_dead:
            self.complain(f"message {uid} is in the stream again as {entry_id}")
        self.entries[entry_id] = entry
        self.pushed.add(uid)

    def check(self, disturbed: set[Any], *, late: bool = False, aged: bool = False) -> None:
        """Compare everything; disturbed: holders that a fault has hit in this step."""
        self.step += 1
        before, facts = self.facts, look(self.server)
        self.learn(facts)
        self.facts = facts
        if GROUP in facts.delivered:
            self._check_places(facts)
            self._check_holders(facts, aged=aged)
        self._check_nothing_vanished(facts)
        self._check_letters(facts)
        self._note_slack(before, facts, disturbed, late=late)

    def _check_places(self, facts: Facts) -> None:
        pending = facts.pending[GROUP]
        places: dict[int, list[str]] = {uid: [] for uid in self.pushed}
        done: set[int] = set()
        for entry in self.entries.values():
            is_pending = entry.id in pending
            is_unread = facts.unread(GROUP, entry.id)
            if is_pending:
                places[entry.uid].append(f"pending as {entry.id} by {pending[entry.id].consumer}")
            if is_unread:
                places[entry.uid].append(f"unread as {entry.id}")
            if (is_pending or is_unread) and entry.finished:
                # Who held it before its group was destroyed may claim it back: to him it looks as
                # if his name had been deleted with it. So may who has had no answer to the end of
                # it, and whose name was then pruned.
                if is_pending and (entry.forgiven or pending[entry.id].consumer in self.pruned):
                    entry.forgiven = True
                    self.doubled.add(entry.uid)
                else:
                    self.complain(f"{self.name_of(entry.id)} was finished and is back")
            entry.finished = not (is_pending or is_unread)
            if any(e.outcome == "ok" for e in entry.executions):
                done.add(entry.uid)
        for letter_id, fields in facts.letters:
            self.were_dead.add(uid := uid_of(payload_of(fields)))
            places[uid].append(f"dead as {letter_id}")
        for scheduled_id, uid in facts.scheduled.items():
            places[uid].append(f"scheduled as {scheduled_id}")
        self._check_keys(facts)
        for uid, found in places.items():
            if len(found) > 1 and uid not in self.doubled:
                self.complain(f"message {uid} is in {len(found)} places: {'; '.join(found)}")
            if not found and uid not in done and uid not in self.may_vanish:
                self.complain(f"message {uid} is lost")

    def _check_keys(self, facts: Facts) -> None:
        """Of a unique key one is unfinished."""
        unfinished: dict[str, list[int]] = {}
        for entry in self.entries.values():
            if entry.key and not entry.finished and not entry.forgiven:
                unfinished.setdefault(entry.key, []).append(entry.uid)
        for key, uids in unfinished.items():
            if len(uids) > 1:
                self.complain(f"messages {uids} of {key} are unfinished")

    def _check_holders(self, facts: Facts, *, aged: bool) -> None:
        pending = facts.pending[GROUP]
        names = {holder.name: holder for holder in self.holders if holder.alive}
        for entry_id, line in pending.items():
            if line.consumer in names and line.idle_ms >= self.least_idle_ms:
                self.lapsed.add((names[line.consumer], entry_id))
        for holder in names.values():
            running = {e.entry.id for e in holder.running()}
            for entry_id in holder.held() | running:
                key, line = (holder, entry_id), pending.get(entry_id)
                entry = self.entries[entry_id]
                if line is None or line.consumer != holder.name:
                    self.lost_at.setdefault(key, self.step)
                    if line is None and entry.uid in self.may_vanish:
                        self.lapsed.add(key)  # taken back from under it
                    if line is None and any(
                        e.outcome == "ok" and self._may_be_repeated(e) for e in entry.executions
                    ):
                        continue  # done is done: an earlier holder's acknowledgement is not fenced
                    if entry_id in running and key not in self.lapsed and not entry.forgiven:
                        now = f"held by {line.consumer}" if line else "not pending"
                        self.complain(
                            f"{holder.label} runs {self.name_of(entry_id)}, its lease never "
                            f"lapsed, and it is {now}"
                        )
                elif (
                    aged
                    and line.idle_ms >= self.least_idle_ms
                    and not holder.excused
                    and entry_id in running
                ):
                    self.complain(
                        f"{holder.label} runs {self.name_of(entry_id)}, and nobody has "
                        f"renewed its lease for {line.idle_ms} ms"
                    )

    def _check_nothing_vanished(self, facts: Facts) -> None:
        for entry_id, line in facts.pending[GROUP].items():
            if entry_id not in facts.stream:
                self.complain(
                    f"{self.name_of(entry_id)} is pending by {line.consumer} and was trimmed"
                )
        if self.slow_exists:
            gone = {e.id for e in self.entries.values() if e.uid in self.may_vanish}
            for entry_id in self.slow_has - self.slow_done - facts.stream.keys() - gone:
                self.complain(f"{self.name_of(entry_id)} was trimmed, group {SLOW} needs it")

    def _check_letters(self, facts: Facts) -> None:
        for letter_id, fields in facts.letters:
            if letter_id in self.letters_seen:
                continue
            self.letters_seen.add(letter_id)
            entry = self.entries[fields["original_id"]]
            if entry.forgiven:
                continue
            count, reason = int(fields["delivery_count"]), fields["reason"]
            attempts = entry.charged + (reason == "decode_error")
            low, high = max(attempts, 1), attempts + entry.slack
            what = f"the letter of {self.name_of(entry.id)} ({reason})"
            if not low <= count <= high:
                self.complain(f"{what} says {count} deliveries, should be {low}..{high}")
            if reason == "max_deliveries" and count < self.max_deliveries:
                self.complain(f"{what} says {count} deliveries of {self.max_deliveries}")
            if (reason == "decode_error") != entry.bad and reason != "max_deliveries":
                self.complain(f"{what}: wrong reason")
            if entry.bad and entry.charged:
                self.complain(f"{what}: undecodable, but a handler got it")
            for execution in entry.running():
                holder = execution.holder
                if holder.alive and (holder, entry.id) not in self.lapsed:
                    self.complain(f"{what}: {holder.label} still runs it")

    def _note_slack(self, before: Facts, facts: Facts, disturbed: set[Any], *, late: bool) -> None:
        """Deliveries that a fault kept from any handler, or may have."""
        names = {holder.name: holder for holder in disturbed}
        old = before.pending[GROUP]
        for entry_id, line in facts.pending[GROUP].items():
            holder = names.get(line.consumer)
            was = old.get(entry_id)
            moved = was is None or (was.consumer, was.count) != (line.consumer, line.count)
            runs = holder is not None and entry_id in {e.entry.id for e in holder.running()}
            if (holder is not None and not runs) or (late and moved):
                self.entries[entry_id].slack += 1

    def unfinished(self) -> list[str]:
        return [self.name_of(e.id) for e in self.entries.values() if not e.finished]

    def all_finished(self) -> bool:
        return not self.unfinished() and not self.facts.scheduled
