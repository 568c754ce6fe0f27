"""Mover: moves scheduled messages into their stream when they are due.

Every pool and every running consumer of a stream has one. None of them is a leader: each calls a
script that moves what is due by the server's clock, or finds that another mover has.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple, NoReturn

from redis.exceptions import ResponseError

from .._validate import Text, check
from ..client import StreamClient, check_client
from ..connection.exchange import OUTAGES
from ..connection.packing import Command
from ..connection.refusals import is_forbidden, of_key
from ..exceptions import ClusterSlotError
from .bell import Bell
from .control import Pause, pause_of, pauses
from .forever import REFUSED_S, Forever
from .keys import companions
from .lateness import Lateness
from .scripts import MOVE
from .timer import Timer

AT_ONCE, AT_ONCE_BYTES, AT_ONCE_S = 100, 1 << 20, 0.001  # the most of one call; s: Redis' time
IN_FLIGHT = 2  # calls at a time: Redis works on one while the answer of the other travels
LEAD_MS = 50  # how long others keep away from a mover that has more to move
SYNC_MS = 60_000.0  # after this time the difference between two clocks is measured anew
RIGHTS = "+time +xread +xrevrange +zcount +zrange +zremrangebyrank +hget +hset +hdel +hgetall"
CALL_EVERY_MS = 50.0  # how often move_some() calls the script at most
OVER_S = 0.002  # looked so long after the end of a pause, as clocks are not exact


class Listener(NamedTuple):
    """Functions that are called when something happens to a stream.

    changed: the stream was paused or resumed, for one group or all. cancelled: the message with
    this id was cancelled while a consumer held it.
    """

    changed: Callable[[], None]
    cancelled: Callable[[str], None]


class Mover:
    """Moves the scheduled messages of one stream into the stream when they are due.

    >>> await Mover(client, "orders").run()

    It is for programs whose consumers are not of this package: pools and StreamConsumers do it by
    themselves. Any number may run at the same time, on any number of hosts.
    lateness: how late messages were moved. listeners: told of pauses and cancellations.
    Raises ConfigError for wrong arguments, and ClusterSlotError for a name of a stream to which no
    other key in its slot can be made.
    """

    def __init__(self, client: StreamClient, stream: str) -> None:
        check("stream", stream, Text())
        check_client(client)
        self.client = client
        self.stream = stream
        self.lateness = Lateness()
        self._name = secrets.token_hex(8)
        self._beside = companions(client.key(stream))
        self._bell = Bell(client, stream, self._beside.bell)
        self._timer = Timer()
        self._changed = asyncio.Event()
        self._offset_ms: float | None = None  # the server's clock minus the loop's
        self._synced_ms = 0.0
        self._rung_ms = -1.0  # when we last heard of a message; this and the next: the loop's time
        self._control_asked_ms = -1.0  # when the pauses that we know were asked for
        self._pauses: dict[str, Pause] = {}
        self._end: asyncio.TimerHandle | None = None  # of the next pause that ends
        self.listeners: list[Listener] = []
        self._next_call_ms = 0.0
        keys = f"~{self._beside.later.removesuffix('later')}*"
        self._trouble = Forever(
            f"scheduled messages of {stream} are not moved here", f"{keys} {RIGHTS}"
        )
        self._deaf = self._trouble.beside(f"what happens beside {stream} is noticed late here")

    async def run(self) -> NoReturn:
        """Move messages until cancelled. After an error of Redis it tries again."""
        self._changed = asyncio.Event()
        listening = asyncio.create_task(self._deaf.repeat(self._listen))
        try:
            await self._trouble.repeat(self._move_in_time)
        finally:
            listening.cancel()
            await asyncio.gather(listening, return_exceptions=True)
            with contextlib.suppress(*OUTAGES):
                await self._bell.close()
        raise AssertionError

    async def move(self) -> int:
        """Move messages that are due, AT_ONCE at most; returns how many were moved.

        Raises what Redis raises. Source: https://redis.io/docs/latest/commands/zrange/
        """
        moved, _ = await self._call(0)
        return moved

    async def _call(self, lead_ms: int) -> tuple[int, bool]:
        """Call the script once; returns how many messages it has moved, and are more due for us?

        lead_ms: if more are due, other movers keep away for this time; 0 = they do not.
        """
        beside = self._beside
        keys = [beside.stream, beside.later, beside.unique, beside.control, beside.retried]
        args = (AT_ONCE, AT_ONCE_BYTES, self._name, lead_ms, AT_ONCE_S)
        asked_ms = _loop_ms()
        reply = await self.client.link().script(MOVE, keys, *args)
        now_ms, wait_ms, late = int(reply[0]), int(reply[1]), reply[2]
        self._sync(now_ms, asked_ms)
        self._note_control(asked_ms, reply[3])
        moved = 0
        for late_ms, count in zip(late[::2], late[1::2], strict=True):
            self.lateness.record(late_ms, count)
            moved += count
        next_ms = None if wait_ms < 0 else now_ms + wait_ms
        self._timer.answered(now_ms, moved, next_ms, crossed=self._rung_ms >= asked_ms)
        return moved, moved > 0 and wait_ms == 0

    async def load_pauses(self) -> None:
        """Ask Redis what is paused now; the bell tells of all changes from now on.

        Errors of the server are logged; raises what Redis raises in an outage.
        """
        control, limit_s = self._beside.control, self.client.endpoint.socket_timeout
        looks: list[Command] = [("TIME",), ("HGETALL", control), self._bell.newest]
        asked_ms = _loop_ms()
        notes: Sequence[Callable[[Any], None]] = (
            partial(self._note_time, asked_ms),
            partial(self._note_control, asked_ms),
            self._bell.begin_behind,
        )
        replies = await self.client.link().run(control, looks, limit_s)
        keys = "", control, self._beside.bell
        for reply, note, key in zip(replies, notes, keys, strict=True):
            if isinstance(reply, ResponseError):
                self._deaf.say(of_key(reply, key))
            else:
                note(reply)

    async def move_some(self) -> int:
        """As move(), for callers that call this again and again.

        The script is called every CALL_EVERY_MS at most. Errors of the server are logged once.
        """
        now_ms = _loop_ms()
        if now_ms < self._next_call_ms:
            return 0
        self._next_call_ms = now_ms + CALL_EVERY_MS
        try:
            moved, more = await self._call(0)
            if more:
                self._next_call_ms = now_ms
            return moved
        except ResponseError as error:
            if is_forbidden(error):
                self._next_call_ms = now_ms + REFUSED_S * 1000
            self._trouble.say(error)
            return 0

    # -- two loops -------------------------------------------------------------------------------

    async def _move_in_time(self) -> None:
        await self._until_due()
        _, more = await self._call(LEAD_MS)
        if more:  # one mover that goes on is as fast as several, and costs Redis less
            calls = [asyncio.create_task(self._move_many()) for _ in range(IN_FLIGHT)]
            try:
                await asyncio.gather(*calls)  # a TaskGroup would raise an ExceptionGroup
            finally:
                for call in calls:
                    call.cancel()
                await asyncio.wait(calls)

    async def _move_many(self) -> None:
        more = True
        while more:
            _, more = await self._call(LEAD_MS)

    async def _until_due(self) -> None:
        while (wait_s := self._wait_s()) is None or wait_s > 0:
            self._changed.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(wait_s):
                    await self._changed.wait()

    def _wait_s(self) -> float | None:
        at_ms = self._timer.call_at_ms
        if at_ms is None:
            return None
        if self._offset_ms is None:
            return 0.0
        return (at_ms - _loop_ms() - self._offset_ms) / 1000

    async def _listen(self) -> None:
        beside, known_ms = self._beside, self._timer.due_ms
        before = "+inf" if known_ms is None else f"({known_ms:.0f}"
        looks: list[Command] = [
            ("TIME",),
            ("ZCOUNT", beside.later, "-inf", before),
            ("HGETALL", beside.control),  # a ring of "control" leads to the next look
        ]
        for ring in await self._bell.wait(looks, partial(self._looked, _loop_ms())):
            if (due := str(ring.get("due", ""))).isdecimal():
                self._scheduled(float(due))
            for listener in list(self.listeners) if "cancel" in ring else ():
                listener.cancelled(str(ring["cancel"]))

    def _looked(self, asked_ms: float, index: int, reply: Any) -> None:
        if isinstance(reply, Exception):
            self._deaf.say(of_key(reply, (self._beside.later, self._beside.control)[index == 2]))
        elif index == 0:
            self._note_time(asked_ms, reply)
        elif index == 2:
            self._note_control(asked_ms, reply)
        elif reply > 0:  # messages are due earlier than we know
            self._bell.begin_anew()
            self._scheduled(0.0)

    def _note_control(self, asked_ms: float, control: Any) -> None:
        """Note the pauses in a reply to HGETALL; tells the listeners if they have changed.

        Replies of two connections may come in another order than they were asked for: one that was
        asked for earlier than what is known may be older.
        """
        if asked_ms < self._control_asked_ms:
            return
        self._control_asked_ms = asked_ms
        found = pauses(control)
        if found == self._pauses:
            return
        self._pauses = found
        self._tell()

    def _wait_for_end(self) -> None:
        """Tell the listeners when the next pause ends."""
        if self._end is not None:
            self._end.cancel()
        if self._offset_ms is None:
            if self._pauses:
                self._scheduled(0.0)  # the answer tells the server's time
            return
        now_ms = _loop_ms() + self._offset_ms
        ends = [at for made in self._pauses.values() if (at := made.until_ms) and at > now_ms]
        if ends:
            left_s = (min(ends) - now_ms) / 1000
            self._end = asyncio.get_running_loop().call_later(left_s + OVER_S, self._tell)

    def _tell(self) -> None:
        for listener in list(self.listeners):
            listener.changed()
        self._wait_for_end()

    def paused(self, group: str) -> Pause | None:
        """The pause that holds for this group now, as far as this mover knows; None = none."""
        if not self._pauses:
            return None
        now_ms = _loop_ms() + (self._offset_ms or 0.0)
        return pause_of(self._pauses, group, now_ms if self._offset_ms is not None else 0.0)

    def _scheduled(self, due_ms: float) -> None:
        self._timer.scheduled(due_ms)
        self._rung_ms = _loop_ms()
        self._changed.set()

    def _note_time(self, asked_ms: float, reply: Any) -> None:
        """Note a reply to TIME. asked_ms: the loop's time when it was asked for."""
        self._sync(int(reply[0]) * 1000 + int(reply[1]) // 1000, asked_ms)

    def _sync(self, server_ms: int, asked_ms: float) -> None:
        """Note the server's time in an answer that has just come.

        The answer was made between asked_ms and now, both by the loop's clock. An answer that took
        longer tells less, so the largest offset is kept. An offset that is larger than the answer
        allows shows that the server's clock was set back.
        """
        loop_ms, before = _loop_ms(), self._offset_ms
        offset_ms = server_ms - loop_ms
        old = loop_ms - self._synced_ms > SYNC_MS
        was_set = before is not None and before > server_ms + 1 - asked_ms
        if before is None or old or was_set or offset_ms > before:
            self._offset_ms, self._synced_ms = offset_ms, loop_ms
            self._changed.set()  # how long to wait was reckoned by the old one
            if self._pauses:
                self._tell()


def mover_of(client: StreamClient, stream: str) -> Mover | None:
    """A mover; None if no key can be made beside this stream, so that nothing is scheduled."""
    try:
        return Mover(client, stream)
    except ClusterSlotError:
        return None


def _loop_ms() -> float:
    return asyncio.get_running_loop().time() * 1000
