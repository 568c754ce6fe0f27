"""Periodic messages: how an app declares them, and the times (ticks) of each. Pure."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from hashlib import sha256
from typing import Any, Literal, NamedTuple

from .._validate import Choice, Maybe, Name, Number, Switch, Text, check
from ..exceptions import ConfigError, SerializationError

CatchUp = Literal["once", "skip", "all"]

IN_TIME_MS = 60_000  # a tick whose message is not pushed by then was missed
MOST_MISSED = 1000  # missed ticks that are counted
MOST_CAUGHT_UP = 100  # missed ticks that are pushed
MOST_PAYLOAD = 16_384  # bytes: it travels from the worker to the master
MOST_NAME = 200
MOST_S = 100 * 366 * 86_400.0
SECONDS = Number(0.1, most=MOST_S)
FAR_MS = 5 * 3600 * 1000  # more than twice the longest change to or from daylight saving time


@dataclass(frozen=True)
class Cron:
    """A message that is pushed at the times of a cron expression.

    name: no other periodic message of the stream has it. expression: five fields, as in
    ``"0 3 * * *"``. data: the payload. tz: time zone of the expression.
    catch_up: which of the ticks that were missed while no pool ran are pushed later: the newest
        (``"once"``), all (``"all"``, 100 at most) or none (``"skip"``).
    late_s: a tick that is later than this many seconds is left out, None = no limit.
    overlap: False = a tick is left out while the message of the tick before is unfinished.

    Needs the extra ``cron``. Raises ConfigError for wrong values.
    """

    name: str
    expression: str
    data: Any = None
    tz: str = "UTC"
    catch_up: CatchUp = "once"
    late_s: float | None = None
    overlap: bool = True

    def __post_init__(self) -> None:
        _check(self)
        ticks_of(_spec(self))


@dataclass(frozen=True)
class Every:
    """A message that is pushed at each multiple of ``seconds`` since the epoch, as on all hosts.

    name: no other periodic message of the stream has it. seconds: from 0.1 to 100 years. data: the
    payload. catch_up, late_s, overlap: see Cron.

    Raises ConfigError for wrong values.
    """

    name: str
    seconds: float
    data: Any = None
    catch_up: CatchUp = "once"
    late_s: float | None = None
    overlap: bool = True

    def __post_init__(self) -> None:
        _check(self)
        check(f"Every {self.name!r}: seconds", self.seconds, SECONDS)


Periodic = Cron | Every


def _check(periodic: Periodic) -> None:
    name, kind = periodic.name, type(periodic).__name__
    check(f"{kind}: name", name, Name(MOST_NAME, printable=True))
    check(f"{kind} {name!r}: catch_up", periodic.catch_up, Choice(("once", "skip", "all")))
    check(f"{kind} {name!r}: overlap", periodic.overlap, Switch())
    check(f"{kind} {name!r}: late_s", periodic.late_s, Maybe(Number(0, above=True, most=MOST_S)))
    check(f"{kind} {name!r}: overlap", periodic.overlap, Switch())


def checked(periodic: Iterable[Any]) -> tuple[Periodic, ...]:
    """The periodic messages as a tuple. Raises ConfigError for other types and equal names."""
    if isinstance(periodic, str) or not isinstance(periodic, Iterable):
        raise ConfigError(f"periodic must be a list of Cron and Every, got {periodic!r:.80}.")
    found = tuple(periodic)
    for one in found:
        if not isinstance(one, Cron | Every):
            raise ConfigError(f"periodic must be a list of Cron and Every, got {one!r:.80} in it.")
    names = [one.name for one in found]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise ConfigError(f"two periodic messages have the name {twice[0]!r}: give each its own.")
    return found


class Schedule(NamedTuple):
    """A periodic message as it travels from a worker to its master, and is declared in Redis.

    spec: its times, as JSON, with a hash of the payload; another spec is a new declaration.
    """

    name: str
    spec: str
    payload: bytes
    catch_up: str
    late_ms: int | None
    overlap: bool


def schedules_of(
    periodic: Sequence[Periodic], encode: Callable[[Any], bytes]
) -> tuple[Schedule, ...]:
    """Periodic messages with encoded payloads, ready to be declared.

    Raises ConfigError for a payload that is too large or cannot be encoded.
    """
    made = []
    for one in periodic:
        try:
            payload = encode(one.data)
        except SerializationError as error:
            raise ConfigError(f"periodic message {one.name!r}: {error}") from None
        if len(payload) > MOST_PAYLOAD:
            raise ConfigError(
                f"periodic message {one.name!r} has a payload of {len(payload):,} bytes; "
                f"{MOST_PAYLOAD:,} are allowed. Put its address there instead."
            )
        late_ms = None if one.late_s is None else int(one.late_s * 1000)
        spec = json.dumps({**_spec(one), "data": sha256(payload).hexdigest()[:8]}, sort_keys=True)
        made.append(Schedule(one.name, spec, payload, one.catch_up, late_ms, one.overlap))
    return tuple(made)


def _spec(one: Periodic) -> dict[str, Any]:
    if isinstance(one, Every):
        return {"every_s": one.seconds, "overlap": one.overlap}
    return {"cron": one.expression, "tz": one.tz, "overlap": one.overlap}


# -- ticks -----------------------------------------------------------------------------------------


class Ticks(ABC):
    """The times of one schedule, in ms since the epoch."""

    @abstractmethod
    def after(self, ms: int) -> int | None:
        """The first tick after this time, None if there is none."""

    @abstractmethod
    def missed(self, after_ms: int, until_ms: int) -> list[int]:
        """The ticks after ``after_ms`` up to ``until_ms``, newest first, MOST_MISSED at most."""


class _EveryTicks(Ticks):
    def __init__(self, seconds: float) -> None:
        self._every_ms = round(seconds * 1000)

    def after(self, ms: int) -> int | None:
        return (ms // self._every_ms + 1) * self._every_ms

    def missed(self, after_ms: int, until_ms: int) -> list[int]:
        newest = until_ms // self._every_ms * self._every_ms
        return list(range(newest, after_ms, -self._every_ms)[:MOST_MISSED])


class _CronTicks(Ticks):
    def __init__(self, expression: str, tz: str) -> None:
        try:
            from cronsim import CronSim, CronSimError
        except ImportError:
            raise ConfigError(
                "Cron needs the extra 'cron': pip install 'redis-stream-queue[cron]'."
            ) from None
        from zoneinfo import ZoneInfo, ZoneInfoNotFoundError  # a pool without Cron needs none

        try:
            self._zone = ZoneInfo(tz)
        except (ZoneInfoNotFoundError, ValueError, TypeError, OSError):
            raise ConfigError(
                f"there is no time zone {tz!r:.80} here. Write it as in 'Europe/Berlin'; where the "
                "system has no zones, pip install tzdata."
            ) from None
        self._expression = expression
        self._sim = CronSim
        try:
            CronSim(expression, datetime.now(self._zone))
            if len(expression.split()) != 5:  # cronsim would take a sixth field as seconds
                raise CronSimError("Wrong number of fields")
        except (CronSimError, AttributeError, TypeError) as error:
            raise ConfigError(
                f"{expression!r:.80} is no cron expression ({error}): five fields are wanted, "
                "minute, hour, day, month and weekday, as in '0 3 * * *'."
            ) from None

    def after(self, ms: int) -> int | None:
        # Begin before a repeated hour: from within it cronsim finds ticks that have passed.
        begin = self._date(ms - FAR_MS if self._date(ms).fold else ms)
        first = next((_ms(t) for t in self._sim(self._expression, begin) if _ms(t) > ms), None)
        if first is None or begin.utcoffset() == self._date(first).utcoffset():
            return first
        # Where clocks change by half an hour, cronsim leaves out the half hour after the change.
        return min([first, *self.missed(ms, first - 1000)])

    def missed(self, after_ms: int, until_ms: int) -> list[int]:
        behind = self._date(until_ms + 1000)
        if self._date(until_ms - FAR_MS).utcoffset() != self._date(until_ms + FAR_MS).utcoffset():
            # Begin later: from within an hour that is repeated cronsim leaves ticks out.
            behind = self._date(until_ms + FAR_MS)
        found: list[int] = []
        for tick in self._sim(self._expression, behind, reverse=True):
            if _ms(tick) <= after_ms or len(found) == MOST_MISSED:
                break
            if _ms(tick) <= until_ms:
                found.append(_ms(tick))
        return found

    def _date(self, ms: int) -> datetime:
        return datetime.fromtimestamp(ms / 1000, self._zone)


def _ms(date: datetime) -> int:
    return round(date.timestamp()) * 1000


def ticks_of(spec: dict[str, Any]) -> Ticks:
    """The ticks of a spec. Raises ConfigError for a wrong expression or time zone."""
    if "every_s" in spec:
        check("every_s", spec["every_s"], SECONDS)
        return _EveryTicks(spec["every_s"])
    check("a cron expression", spec.get("cron"), Text())
    return _CronTicks(spec["cron"], spec.get("tz", ""))


class Tick(NamedTuple):
    """A tick that is due. missed: how many earlier ticks it stands for.

    pushed: True = push its message, False = only note that the tick has passed.
    """

    at_ms: int
    missed: int
    pushed: bool


def due(schedule: Schedule, ticks: Ticks, last_ms: int, now_ms: int) -> list[Tick]:
    """The ticks that are due after ``last_ms``, the oldest first.

    last_ms: the last tick that was decided on. now_ms: both since the epoch.
    """
    missed = ticks.missed(last_ms, now_ms)
    if not missed:
        return []
    late_ms = schedule.late_ms
    if schedule.catch_up == "skip":
        late_ms = min(late_ms or IN_TIME_MS, IN_TIME_MS)
    wanted = [at for at in missed if late_ms is None or now_ms - at <= late_ms]
    if not wanted:
        return [Tick(missed[0], 0, pushed=False)]
    if schedule.catch_up == "all":
        return [Tick(at, 0, pushed=True) for at in reversed(wanted[:MOST_CAUGHT_UP])]
    return [Tick(wanted[0], len(missed) - 1, pushed=True)]
