"""When a stranger's hold counts as watched, and how old an entry is when the clock went back."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from redis_stream_queue.delivery.fate import Fate, Owner, Policy, fate
from redis_stream_queue.delivery.sightings import (
    LEASE_MS,
    LOOK_MS,
    MOST_REMEMBERED,
    NOT_WATCHED_MS,
    WATCH_MS,
    Sightings,
    lease_interval_ms,
)
from redis_stream_queue.message import PendingEntry

START_MS = 5_000_000
AHEAD_MS = 1_700_000_000_000  # the server's clock


class Seer:
    """Sightings in a simple world: one server, one clock of ours."""

    def __init__(self) -> None:
        self.sightings = Sightings()
        self.now_ms = START_MS
        self.ahead_ms = AHEAD_MS

    def look(self, after_ms: int = LOOK_MS, took_ms: int = 1, *, tells_time: bool = True) -> int:
        """The next answer comes after so many ms; returns what counts as watched."""
        self.now_ms += after_ms
        server_ms = self.now_ms + self.ahead_ms if tells_time else None
        self.sightings.answered(self.now_ms - took_ms, self.now_ms, server_ms)
        return self.sightings.watched_ms

    def look_until_watched(self) -> int:
        """Returns how long that took, in ms."""
        began_ms = self.now_ms
        while self.look() == NOT_WATCHED_MS:
            assert self.now_ms - began_ms < 60_000
        return self.now_ms - began_ms


def test_nothing_is_watched_on_one_look_nor_before_several_lease_intervals() -> None:
    seer = Seer()
    assert seer.look() == NOT_WATCHED_MS
    assert WATCH_MS <= seer.look_until_watched() <= WATCH_MS + LOOK_MS
    assert WATCH_MS >= 3 * LEASE_MS


@pytest.mark.parametrize("away_ms", [1500, 4000, 600_000])
def test_an_outage_begins_the_watching_anew(away_ms: int) -> None:
    """However long all was well before: nobody could renew, and now everybody needs the time."""
    seer = Seer()
    for _ in range(100):
        seer.look()
    assert seer.look(away_ms) == NOT_WATCHED_MS
    assert seer.look_until_watched() >= WATCH_MS - LOOK_MS


@pytest.mark.parametrize("step_ms", [60_000, -600_000, 400, -400])
def test_a_step_of_the_servers_clock_begins_the_watching_anew(step_ms: int) -> None:
    seer = Seer()
    for _ in range(100):
        seer.look()
    seer.ahead_ms += step_ms
    assert seer.look() == NOT_WATCHED_MS


def test_a_step_is_seen_across_answers_that_do_not_tell_the_time() -> None:
    """Renewals are answers, too."""
    seer = Seer()
    for _ in range(100):
        seer.look()
    seer.ahead_ms += 60_000
    assert seer.look(tells_time=False) != NOT_WATCHED_MS
    assert seer.look() == NOT_WATCHED_MS


def test_without_the_servers_time_the_watching_goes_on() -> None:
    """An ACL forbids TIME."""
    seer = Seer()
    for _ in range(100):
        seer.look(tells_time=False)
    assert seer.sightings.watched_ms != NOT_WATCHED_MS


def test_a_clock_that_drifts_is_no_step() -> None:
    seer = Seer()
    for _ in range(1000):
        seer.ahead_ms += 1  # 3 ms a second
        seer.look()
    assert seer.sightings.watched_ms != NOT_WATCHED_MS


@pytest.mark.parametrize("round_trip_ms", [80, 900, 3000])
def test_a_slow_line_is_no_outage(round_trip_ms: int) -> None:
    """Watching takes longer there, and comes to an end."""
    seer = Seer()
    watched = [seer.look(round_trip_ms + 170, took_ms=round_trip_ms) for _ in range(12)]
    assert watched[-1] != NOT_WATCHED_MS


def test_it_remembers_no_more_than_it_needs() -> None:
    """An hour of looks, 20 a second."""
    seer = Seer()
    for _ in range(72_000):
        seer.look(50)
    assert len(seer.sightings._marks) <= WATCH_MS // 50 + 2


@given(
    phases=st.lists(st.tuples(st.integers(1, 6000), st.integers(1, 6000)), min_size=1, max_size=8),
    look_ms=st.integers(20, LOOK_MS),
    min_idle_ms=st.integers(1, 20_000),
)
def test_a_living_strangers_message_is_never_taken(
    phases: list[tuple[int, int]], look_ms: int, min_idle_ms: int
) -> None:
    """The server is there and away in turns, for any time. While it is there, we look again and
    again. The stranger renews every LEASE_MS; what it asks while the server is away is answered
    afterwards, or, after a second, given up and asked again LEASE_MS after the server is back."""
    seer = Seer()
    policy = Policy("workers", min_idle_ms, 1)
    renewed_ms = seer.now_ms
    renews_ms = renewed_ms + LEASE_MS
    for there_ms, away_ms in phases:
        until_ms = seer.now_ms + there_ms
        while seer.now_ms < until_ms:
            watched_ms = seer.look(look_ms)
            while renews_ms <= seer.now_ms:
                renewed_ms, renews_ms = renews_ms, renews_ms + LEASE_MS
            entry = PendingEntry("1-0", "somebody", seer.now_ms - renewed_ms, 1)
            assert fate(entry, Owner.STRANGER, policy, watched_ms) is Fate.LEAVE
        seer.now_ms += away_ms
        if renews_ms < seer.now_ms:
            renews_ms = seer.now_ms + (LEASE_MS if away_ms > 1000 else 0)


def test_who_is_dead_is_taken_when_the_idle_time_says_so() -> None:
    """Watching that began in time costs no time."""
    seer = Seer()
    policy = Policy("workers", 10_000, 3)
    died_ms = seer.now_ms
    while True:
        watched_ms = seer.look()
        entry = PendingEntry("1-0", "somebody", seer.now_ms - died_ms, 1)
        if fate(entry, Owner.STRANGER, policy, watched_ms) is Fate.CLAIM:
            break
    assert seer.now_ms - died_ms <= 10_000 + LOOK_MS


def test_with_an_idle_time_of_0_everything_is_due_at_once() -> None:
    policy = Policy("workers", 0, 3)
    entry = PendingEntry("1-0", "somebody", 0, 1)
    assert fate(entry, Owner.STRANGER, policy, NOT_WATCHED_MS) is Fate.CLAIM


@pytest.mark.parametrize("consumer", ["", "workers:retry:64"])
def test_what_nobody_renews_is_not_watched(consumer: str) -> None:
    policy = Policy("workers", 10_000, 3)
    entry = PendingEntry("1-0", consumer, 64, 1)
    assert fate(entry, Owner.STRANGER, policy, NOT_WATCHED_MS) is Fate.CLAIM


class TestClockThatWentBack:
    """The server says 0 until its clock has caught up."""

    def test_a_retry_that_was_seen_before_is_due_in_its_time(self) -> None:
        """Also across walks through the list, in each of which it is seen once."""
        sightings = Sightings()
        for told_ms, passed_ms, idle_ms in ((100, 0, 100), (0, 500, 600), (0, 924, 1024)):
            seen = sightings.as_seen(_parked(told_ms), START_MS + passed_ms, parked=True)
            assert seen.idle_ms == idle_ms
            sightings.walked()

    def test_one_that_was_not_grows_from_the_first_look(self) -> None:
        seen = Sightings().as_seen
        assert seen(_parked(0), START_MS, parked=True).idle_ms == 0
        assert seen(_parked(0), START_MS + 700, parked=True).idle_ms == 700

    def test_the_same_name_later_is_another_wait(self) -> None:
        """Another delivery, or one whose idle time began again."""
        seen = Sightings().as_seen
        seen(_parked(900), START_MS, parked=True)
        assert seen(_parked(0, count=2), START_MS + 100, parked=True).idle_ms == 0
        assert seen(_parked(5, count=2), START_MS + 200, parked=True).idle_ms == 5
        assert seen(_parked(0, count=2), START_MS + 201, parked=True).idle_ms == 6

    def test_a_stranger_that_renews_is_as_young_as_it_says(self) -> None:
        """A dead one is not."""
        seen = Sightings().as_seen
        dead = PendingEntry("1-0", "dead", 0, 1)
        for at_ms in range(0, 3000, 100):
            alive = PendingEntry("2-0", "alive", at_ms % 500, 1)
            assert seen(alive, START_MS + at_ms, parked=False).idle_ms == alive.idle_ms
            assert seen(dead, START_MS + at_ms, parked=False).idle_ms == at_ms

    def test_what_is_gone_is_forgotten_and_no_more_than_so_much_is_kept(self) -> None:
        sightings = Sightings()
        for number in range(MOST_REMEMBERED + 100):
            entry = PendingEntry(f"{number}-0", "workers:retry:64", 10, 1)
            assert sightings.as_seen(entry, START_MS, parked=True) == entry
        assert len(sightings._seen) == MOST_REMEMBERED
        sightings.walked()
        sightings.walked()
        assert not sightings._seen
        assert not sightings._seen_before


def _parked(idle_ms: int, count: int = 1) -> PendingEntry:
    return PendingEntry("1-0", "workers:retry:1024", idle_ms, count)


@pytest.mark.parametrize(
    ("min_idle_ms", "expected"), [(0, LEASE_MS), (10_000, LEASE_MS), (300, 100)]
)
def test_leases_are_renewed_in_time_for_all_who_may_take_over(
    min_idle_ms: int, expected: int
) -> None:
    assert lease_interval_ms(min_idle_ms) == expected
