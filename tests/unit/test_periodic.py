"""Ticks of cron expressions and intervals: nights of a clock change, what was missed."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from redis_stream_queue import ConfigError, Cron, Every, JsonSerializer
from redis_stream_queue.later.periodic import (
    MOST_MISSED,
    Periodic,
    Tick,
    checked,
    due,
    schedules_of,
    ticks_of,
)

HOUR_MS = 3_600_000


def ms(text: str, tz: str = "UTC") -> int:
    return round(datetime.fromisoformat(text).replace(tzinfo=ZoneInfo(tz)).timestamp()) * 1000


def decided(one: Periodic, last_ms: int, now_ms: int) -> list[Tick]:
    [schedule] = schedules_of([one], lambda data: json.dumps(data).encode())
    return due(schedule, ticks_of(json.loads(schedule.spec)), last_ms, now_ms)


def night(expression: str, tz: str, date: str) -> list[str]:
    """What runs between midnight and five."""
    ticks = ticks_of({"cron": expression, "tz": tz})
    at, end, found = ms(date, tz), ms(f"{date}T05:00", tz), []
    while (following := ticks.after(at)) is not None and following < end:
        at = following
        found.append(datetime.fromtimestamp(at / 1000, ZoneInfo(tz)).strftime("%H:%M%z"))
    return found


@pytest.mark.parametrize(
    ("tz", "date", "nightly"),
    [
        ("Europe/Berlin", "2026-03-29", ["03:00+0200"]),  # 02:30 does not exist
        ("Europe/Berlin", "2026-10-25", ["02:30+0200"]),  # it comes twice
        ("America/New_York", "2026-03-08", ["03:00-0400"]),
        ("America/New_York", "2026-11-01", ["02:30-0500"]),
        ("Australia/Lord_Howe", "2026-10-04", ["02:30+1100"]),  # half an hour
        ("Australia/Lord_Howe", "2026-04-05", ["02:30+1030"]),
    ],
)
def test_a_night_of_a_clock_change_has_one_run(tz: str, date: str, nightly: list[str]) -> None:
    """And what comes every half hour goes on through both."""
    assert night("30 2 * * *", tz, date) == nightly
    every_half_hour = night("*/30 * * * *", tz, date)
    assert len(set(every_half_hour)) == len(every_half_hour)
    start, end = ms(date, tz), ms(f"{date}T05:00", tz)
    assert len(every_half_hour) in ((end - start) // 1_800_000 - n for n in (1, 0))


@pytest.mark.parametrize(
    ("tz", "date"),
    [
        ("Europe/Berlin", "2026-10-25"),
        ("Australia/Lord_Howe", "2026-04-05"),
        ("Antarctica/Troll", "2026-10-25"),  # two hours
        ("Africa/Casablanca", "2026-03-22"),
    ],
)
@pytest.mark.parametrize("expression", ["30 2 * * *", "45 1 * * *", "10,50 2 * * *", "0 */2 * * *"])
def test_whenever_one_begins_in_that_night_the_same_ticks_follow(
    tz: str, date: str, expression: str
) -> None:
    """None that has passed, which would be looked for again and again; and none is left out."""
    ticks = ticks_of({"cron": expression, "tz": tz})
    start = ms(date, tz) - 4 * HOUR_MS
    all_of_them = [start]
    while all_of_them[-1] < start + 36 * HOUR_MS:
        following = ticks.after(all_of_them[-1])
        assert following is not None
        all_of_them.append(following)
    for at in range(start, start + 10 * HOUR_MS, 780_000):
        assert ticks.after(at) == next(tick for tick in all_of_them if tick > at)
        passed = [tick for tick in all_of_them[1:] if tick <= at]
        assert ticks.missed(start, at) == passed[::-1]


def test_an_outage_of_three_hours_is_one_run() -> None:
    """The newest tick, and how many it stands for; or all of them, or none."""
    last, now = ms("2026-05-01T01:00"), ms("2026-05-01T04:10")
    newest = ms("2026-05-01T04:00")
    hourly: dict[str, Any] = {"name": "h", "expression": "0 * * * *"}
    assert decided(Cron(**hourly), last, now) == [Tick(newest, 2, True)]
    assert decided(Cron(**hourly, catch_up="skip"), last, now) == [Tick(newest, 0, False)]
    assert decided(Cron(**hourly, catch_up="all"), last, now) == [
        Tick(newest - 2 * HOUR_MS, 0, True), Tick(newest - HOUR_MS, 0, True), Tick(newest, 0, True),
    ]  # fmt: skip
    assert decided(Cron(**hourly, late_s=60), last, now) == [Tick(newest, 0, False)]
    assert decided(Cron(**hourly, late_s=900), last, now) == [Tick(newest, 2, True)]
    assert decided(Cron(**hourly), last, last + HOUR_MS - 1) == []
    assert decided(Cron(**hourly, catch_up="skip"), last, last + HOUR_MS) == [
        Tick(last + HOUR_MS, 0, True)
    ]


def test_a_long_outage_costs_no_long_count() -> None:
    years = ms("2020-01-01T00:00"), ms("2026-01-01T00:00")
    for one in (Cron("m", "* * * * *"), Every("s", 1)):
        [tick] = decided(one, *years)
        assert tick == Tick(years[1], MOST_MISSED - 1, True)


@given(
    st.sampled_from(["* * * * *", "*/7 3-5 * * *", "30 2 * * *", "0 0 1 * *", "0 12 * * 1#2"]),
    st.sampled_from(["UTC", "Europe/Berlin", "Australia/Lord_Howe"]),
    st.integers(1_700_000_000, 1_800_000_000),
    st.integers(0, 500_000),
)
@example("*/7 3-5 * * *", "Australia/Lord_Howe", 1_759_093_600, 500_000)
def test_both_directions_agree(expression: str, tz: str, start_s: int, span_s: int) -> None:
    """What is missed is what would have followed, one after the other."""
    ticks, at, end = ticks_of({"cron": expression, "tz": tz}), start_s * 1000, 0
    end, found = at + span_s * 1000, []
    while (following := ticks.after(at)) is not None and following <= end:
        found.append(at := following)
        if len(found) > MOST_MISSED:
            return
    assert ticks.missed(start_s * 1000, end) == found[::-1]


def test_intervals_are_the_same_on_all_hosts() -> None:
    ticks = ticks_of({"every_s": 0.25})
    assert ticks.after(1000) == 1250
    assert ticks.after(1249) == 1250
    assert ticks.missed(1000, 1600) == [1500, 1250]


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: Cron("", "* * * * *"), "name"),
        (lambda: Cron("a\n", "* * * * *"), "name"),
        (lambda: Cron("a", "61 * * * *"), "five fields"),
        (lambda: Cron("a", "nightly"), "five fields"),
        (lambda: Cron("a", "0 0 3 * * *"), "five fields"),
        (lambda: Cron("a", None), "cron expression"),  # type: ignore[arg-type]
        (lambda: Cron("a", "* * * * *", tz="Europe/Atlantis"), "time zone"),
        (lambda: Cron("a", "* * * * *", catch_up="twice"), "catch_up"),  # type: ignore[arg-type]
        (lambda: Cron("a", "* * * * *", late_s=0), "late_s"),
        (lambda: Cron("a", "* * * * *", overlap="no"), "overlap"),  # type: ignore[arg-type]
        (lambda: Every("a", 0), "seconds"),
        (lambda: Every("a", "5"), "seconds"),  # type: ignore[arg-type]
        (lambda: Every("a", float("nan")), "seconds"),
        (lambda: checked([Every("a", 1), Cron("a", "* * * * *")]), "each its own"),
        (lambda: checked(["nightly"]), "Cron and Every"),
        (lambda: checked("nightly"), "a list of Cron and Every, got 'nightly'"),
        (lambda: checked(Every("a", 1)), "a list of Cron and Every"),  # type: ignore[arg-type]
        (lambda: checked(None), "a list of Cron and Every"),  # type: ignore[arg-type]
        (lambda: schedules_of([Every("a", 1, {1})], JsonSerializer().encode), "message 'a': "),
        (lambda: schedules_of([Every("a", 1, "x" * 20_000)], str.encode), "allowed"),
    ],
)
def test_what_cannot_be_is_refused(make: Any, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        make()


def test_the_newest_tick_is_never_ahead() -> None:
    """Also with milliseconds, just before a tick."""
    ticks = ticks_of({"cron": "0 3 * * *", "tz": "UTC"})
    three = ms("2026-05-01T03:00")
    day = round(timedelta(days=1).total_seconds()) * 1000
    assert ticks.missed(three - day, three - 1) == []
    assert ticks.missed(three - day, three) == [three]
    assert ticks.after(three - 1) == three
    assert ticks.after(three) == three + day
    assert datetime.fromtimestamp(three / 1000, UTC).hour == 3
