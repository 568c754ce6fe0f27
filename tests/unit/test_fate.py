"""One pure function decides about each pending entry: fate()."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from redis_stream_queue._names import parking_name
from redis_stream_queue.delivery.fate import Fate, Owner, Policy, due_idle_ms, due_in_ms, fate
from redis_stream_queue.message import PendingEntry

GROUP = "workers"
MIN_IDLE_MS = 1000
WATCHED = 0  # however short its idle time, it was watched long enough
LIVE = (Owner.ME_RUNNING, Owner.MATE)
UNSTARTED = (Owner.ME_STRANDED, Owner.DEAD_WAITING)
PARKED = "workers:retry:4096"
SUSPECT = "workers:retry:2"
HOLDERS = ("somebody", PARKED, SUSPECT, "others:retry:1", "others:retry:2", "")
IDLES = (-1, 0, MIN_IDLE_MS - 1, MIN_IDLE_MS, 4095, 4096, 10**9)
NACKED = 2**63 - 1  # delivery count that XNACK FATAL leaves
HANDED_OUT = {Fate.CLAIM, Fate.CLAIM_ALONE}


def entry(consumer: str = "somebody", idle_ms: int = 10**6, count: int = 1) -> PendingEntry:
    return PendingEntry("1-0", consumer, idle_ms, count)


def policy(max_deliveries: int = 3) -> Policy:
    return Policy(GROUP, MIN_IDLE_MS, max_deliveries)


EVERYTHING = [
    (entry(consumer, idle_ms, count), owner, policy(limit))
    for consumer, idle_ms, owner, limit, count in itertools.product(
        HOLDERS, IDLES, Owner, (1, 2, 3, 5), (*range(8), NACKED)
    )
]


class TestEverything:
    """The laws hold for every holder, idle time, count and limit."""

    def test_what_a_live_owner_holds_is_never_taken(self) -> None:
        """Mine is renewed, a mate's is left alone, however idle and however often delivered."""
        for seen, owner, limits in EVERYTHING:
            if owner in LIVE:
                wanted = Fate.RENEW if owner is Owner.ME_RUNNING else Fate.LEAVE
                assert fate(seen, owner, limits, WATCHED) is wanted, (seen, owner, limits)

    def test_a_stranger_s_entry_is_left_until_its_time(self) -> None:
        """It may be alive: neither claimed nor buried before its idle time is reached."""
        for seen, owner, limits in EVERYTHING:
            if owner is Owner.STRANGER and seen.consumer:
                threshold = {PARKED: 4096, SUSPECT: 2}.get(seen.consumer, MIN_IDLE_MS)
                left = fate(seen, owner, limits, WATCHED) is Fate.LEAVE
                assert left == (seen.idle_ms < threshold), (seen, limits)

    def test_a_count_at_the_limit_is_never_handed_out_again(self) -> None:
        for seen, owner, limits in EVERYTHING:
            if seen.delivery_count >= limits.max_deliveries:
                assert fate(seen, owner, limits, WATCHED) not in HANDED_OUT, (seen, owner, limits)

    def test_what_a_dead_worker_ran_and_the_last_permitted_delivery_are_alone(self) -> None:
        """And every other one may travel with others."""
        for seen, owner, limits in EVERYTHING:
            decision = fate(seen, owner, limits, WATCHED)
            if decision in HANDED_OUT:
                last = seen.delivery_count + 1 == limits.max_deliveries and seen.delivery_count
                first_and_only = limits.max_deliveries == 1
                suspect = owner is Owner.DEAD_RUNNING or seen.consumer == SUSPECT
                if not first_and_only and seen.delivery_count:
                    alone = bool(last) or suspect
                    assert (decision is Fate.CLAIM_ALONE) == alone, (seen, owner, limits)

    def test_a_count_below_the_limit_is_never_buried(self) -> None:
        for seen, owner, limits in EVERYTHING:
            if seen.delivery_count < limits.max_deliveries:
                assert fate(seen, owner, limits, WATCHED) is not Fate.BURY, (seen, owner, limits)

    def test_what_reached_no_handler_is_handed_over_uncounted(self) -> None:
        """A delivery that was never started leaves the message that delivery, the last one too."""
        for seen, owner, limits in EVERYTHING:
            if owner in UNSTARTED:
                used_up = seen.delivery_count > limits.max_deliveries
                wanted = Fate.BURY if used_up else Fate.HAND_OVER
                assert fate(seen, owner, limits, WATCHED) is wanted, (seen, owner, limits)

    def test_nobody_s_entry_is_due_at_once(self) -> None:
        """XNACK leaves entries with no consumer and idle -1."""
        for seen, owner, limits in EVERYTHING:
            if owner is Owner.STRANGER and not seen.consumer:
                assert fate(seen, owner, limits, WATCHED) is not Fate.LEAVE


@pytest.mark.parametrize(
    ("owner", "count", "wanted"),
    [
        (Owner.STRANGER, 1, Fate.CLAIM),
        (Owner.STRANGER, 2, Fate.CLAIM_ALONE),
        (Owner.STRANGER, 3, Fate.BURY),
        (Owner.DEAD_RUNNING, 1, Fate.CLAIM_ALONE),
        (Owner.DEAD_RUNNING, 2, Fate.CLAIM_ALONE),
        (Owner.DEAD_RUNNING, 3, Fate.BURY),
        (Owner.DEAD_WAITING, 3, Fate.HAND_OVER),
        (Owner.DEAD_WAITING, 4, Fate.BURY),
        (Owner.ME_STRANDED, 3, Fate.HAND_OVER),
        (Owner.MATE, 9, Fate.LEAVE),
        (Owner.ME_RUNNING, 9, Fate.RENEW),
    ],
)
def test_the_table_of_recovery(owner: Owner, count: int, wanted: Fate) -> None:
    """max_deliveries=3, idle for long."""
    assert fate(entry(count=count), owner, policy(3), WATCHED) is wanted


def test_an_uncounted_entry_is_claimed_in_company_unless_two_are_permitted() -> None:
    """Given back unstarted (count 0): the next delivery is the first."""
    assert fate(entry(count=0), Owner.STRANGER, policy(3), WATCHED) is Fate.CLAIM
    assert fate(entry(count=0), Owner.STRANGER, policy(2), WATCHED) is Fate.CLAIM
    assert fate(entry(count=0), Owner.STRANGER, policy(1), WATCHED) in HANDED_OUT


@given(delay_ms=st.integers(0, 10**10), waited_ms=st.integers(0, 10**10))
def test_a_parked_retry_is_due_exactly_after_its_delay(delay_ms: int, waited_ms: int) -> None:
    name, idle_ms = parking_name(GROUP, delay_ms)
    seen = PendingEntry("1-0", name, idle_ms + waited_ms, 1)
    left = fate(seen, Owner.STRANGER, policy(), WATCHED) is Fate.LEAVE
    assert left == (waited_ms < max(delay_ms, 0))
    assert due_in_ms(seen, policy()) == max(delay_ms - waited_ms, 0)


@given(
    consumer=st.sampled_from(HOLDERS) | st.text(max_size=30),
    idle_ms=st.integers(-1, 10**12),
    count=st.integers(0, 100) | st.integers(0, NACKED),
    owner=st.sampled_from(Owner),
    min_idle_ms=st.integers(1, 10**10),
    limit=st.integers(1, 100),
)
def test_nothing_is_decided_against_a_living_holder(
    consumer: str, idle_ms: int, count: int, owner: Owner, min_idle_ms: int, limit: int
) -> None:
    """Whatever the numbers: a live owner keeps it, a stranger keeps it until it is due."""
    limits = Policy(GROUP, min_idle_ms, limit)
    seen = PendingEntry("1-0", consumer, idle_ms, count)
    decision = fate(seen, owner, limits, WATCHED)
    if owner in LIVE or (owner is Owner.STRANGER and idle_ms < due_idle_ms(seen, limits)):
        assert decision in (Fate.RENEW, Fate.LEAVE)
    if decision in HANDED_OUT:
        assert count < limit
        if limit > 1:
            suspect = owner is Owner.DEAD_RUNNING or consumer == SUSPECT
            assert (decision is Fate.CLAIM_ALONE) == (suspect or count + 1 == limit)
    if decision is Fate.BURY:
        assert count >= limit
