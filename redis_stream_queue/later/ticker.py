"""Ticker: pushes periodic messages at their times; many hosts may do so, each tick is pushed once.

There is no leader, and nothing is scheduled ahead. Each process that declares a message knows its
next tick and calls a script then; the script pushes the message unless another process has.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import NoReturn

from redis.exceptions import ResponseError

from .._log import logger
from ..client import StreamClient
from ..connection.replies import text
from ..connection.shapes import of_length
from .cron_scripts import DECLARE, TICK
from .forever import Forever
from .keys import companions
from .periodic import Schedule, Tick, Ticks, due, ticks_of
from .timer import Timer

log = logger(__name__)

REFUSED_MS = 1000.0  # a message whose tick was refused is tried again after this time
LOOK_S = 60.0  # how often the messages are declared anew, which also asks for the server's time


class _Declared:
    """One message and its next tick."""

    def __init__(self, schedule: Schedule) -> None:
        self.schedule = schedule
        self.ticks: Ticks = ticks_of(json.loads(schedule.spec))
        self.timer = Timer()
        self.last_ms = 0
        self.is_current = False  # False: another process has declared a newer spec

    def decided_up_to(self, last_ms: int) -> None:
        """Note the newest tick that was decided on."""
        self.last_ms = last_ms
        self.timer.due_ms = self.ticks.after(last_ms) if self.is_current else None


class Ticker:
    """Pushes ``schedules`` of ``stream``, whose messages ``group`` handles."""

    def __init__(
        self, client: StreamClient, stream: str, group: str, schedules: Sequence[Schedule]
    ) -> None:
        self.schedules = tuple(schedules)
        self._client = client
        self._stream = stream
        self._group = group
        self._beside = companions(client.key(stream))
        self._declared = [_Declared(schedule) for schedule in schedules]
        self._trouble = Forever(f"periodic messages of {stream} are not pushed here")
        self._new = True
        self._offset_ms = 0.0
        self._look_at_s = 0.0

    async def run(self) -> NoReturn:
        """Push messages until cancelled. After an error of Redis it tries again."""
        await self._trouble.repeat(self._step)

    async def _step(self) -> None:
        now_s = _loop_s()
        if now_s >= self._look_at_s:
            await self._declare()
            self._look_at_s = now_s + LOOK_S
        for one in self._declared:
            at_ms = one.timer.call_at_ms
            if at_ms is not None and at_ms <= self._server_ms():
                try:
                    await self._tick(one)
                except ResponseError as error:  # of the others each has its turn
                    self._trouble.say(error)
                    one.timer.due_ms = self._server_ms() + REFUSED_MS
        times = [at for one in self._declared if (at := one.timer.call_at_ms) is not None]
        wait_s = self._look_at_s - _loop_s()
        if times:
            wait_s = min(wait_s, (min(times) - self._server_ms()) / 1000)
        await asyncio.sleep(max(wait_s, 0))

    def _server_ms(self) -> float:
        return _loop_s() * 1000 + self._offset_ms

    def _note_server_time(self, server_ms: int) -> None:
        self._offset_ms = server_ms - _loop_s() * 1000

    async def _declare(self) -> None:
        args = [
            part
            for one in self._declared
            for part in (one.schedule.name, one.schedule.spec, one.schedule.payload)
        ]
        now_ms, *found = await self._client.link().script(
            DECLARE, [self._beside.cron], int(self._new), *args
        )
        of_length(3 * len(self._declared), found)
        self._new = False
        self._note_server_time(now_ms)
        for one, is_current, last_ms, declared_ms in zip(
            self._declared, found[::3], found[1::3], found[2::3], strict=True
        ):
            if one.is_current and not is_current:
                self._say_superseded(one)
            one.is_current = bool(is_current)
            one.decided_up_to(max(int(last_ms), int(declared_ms)))

    def _say_superseded(self, one: _Declared) -> None:
        log.info(
            "periodic message %s of %s is declared otherwise by a newer process: not pushed here",
            one.schedule.name,
            self._stream,
        )

    async def _tick(self, one: _Declared) -> None:
        now_ms = int(self._server_ms())
        wanted = due(one.schedule, one.ticks, one.last_ms, now_ms)
        if not wanted:
            one.decided_up_to(one.last_ms)
        for tick in wanted:
            if not await self._decide(one, tick):
                break

    async def _decide(self, one: _Declared, tick: Tick) -> bool:
        """Decide on one tick; returns False if the message's later ticks have to wait."""
        schedule, beside = one.schedule, self._beside
        unique = "" if schedule.overlap else f"cron:{schedule.name}"
        if unique:
            unique = f"{len(self._group.encode())}:{self._group}:{unique}"
        at = datetime.fromtimestamp(tick.at_ms / 1000, UTC).isoformat()
        now_ms, said, last_ms = await self._client.link().script(
            TICK,
            [beside.stream, beside.later, beside.unique, beside.cron],
            *(schedule.name, self._group, schedule.spec, tick.at_ms, at, tick.missed),
            *(schedule.payload, int(tick.pushed), unique, one.last_ms),
        )
        self._note_server_time(now_ms)
        what = text(said)
        one.timer.answered(now_ms, int(what == "pushed"), None)
        if what == "unknown":  # FLUSHALL
            self._look_at_s = 0.0
            return False
        if what == "superseded":
            self._say_superseded(one)
            one.is_current = False
        one.decided_up_to(max(int(last_ms), one.last_ms))
        if what == "overlap":
            log.info("%s of %s is left out: the one before still runs", schedule.name, self._stream)
        return what not in ("early", "superseded", "changed")


def _loop_s() -> float:
    return asyncio.get_running_loop().time()
