"""What a running consumer does beside its stream: a mover, periodic messages, pauses.

All consumers of a stream in one event loop share one mover, which runs as long as any of them.
"""

from __future__ import annotations

import asyncio
import weakref
from collections.abc import Callable, Sequence

from ..client import StreamClient
from ..connection.link import Link
from .mover import Listener, Mover, mover_of
from .periodic import Schedule
from .ticker import Ticker

ENDS_WITHIN_S = 1.0


class _Shared:
    """A running mover with a client of its own, as any of its users may close its client first."""

    def __init__(self, mover: Mover) -> None:
        self.users = 0
        self.mover = mover
        self.task = asyncio.create_task(self._run())

    async def _run(self) -> None:
        try:
            await self.mover.run()
        finally:
            await self.mover.client.close()


_shared: weakref.WeakKeyDictionary[Link, dict[str, _Shared]] = weakref.WeakKeyDictionary()


class Attendance:
    """Runs beside a consumer: moves scheduled messages, pushes periodic ones, tells of pauses.

    schedules: the periodic messages. on_pause: called when the group is paused. on_cancelled:
    called with the id of a message that was cancelled while a consumer held it. changed: set when
    a pause begins or ends.
    """

    def __init__(
        self,
        client: StreamClient,
        stream: str,
        group: str,
        schedules: Sequence[Schedule],
        *,
        on_pause: Callable[[], None],
        on_cancelled: Callable[[str], None],
    ) -> None:
        self.changed = asyncio.Event()
        self._group = group
        self._on_pause = on_pause
        self._listener = listener = Listener(self._control_changed, on_cancelled)
        self._of_link = _shared.setdefault(client.link(), {})
        self._key = client.key(stream)
        self._mine: _Shared | None = None
        self._ticking: asyncio.Task[None] | None = None
        if schedules:
            ticker = Ticker(client, stream, group, schedules)
            self._ticking = asyncio.create_task(ticker.run())
        here = self._of_link.get(self._key)
        if here is None or here.task.done() or here.task.cancelling():
            if (mover := mover_of(client.twin(), stream)) is None:
                return
            here = self._of_link[self._key] = _Shared(mover)
        here.users += 1
        here.mover.listeners.append(listener)
        self._mine = here
        self._loaded = False

    async def load_pauses(self) -> None:
        """Ask Redis what is paused, before any message is started. Raises what Redis raises."""
        if self._mine is not None and not self._loaded:
            await self._mine.mover.load_pauses()
            self._loaded = True

    @property
    def paused(self) -> bool:
        """Is the group paused now?"""
        return self._mine is not None and self._mine.mover.paused(self._group) is not None

    def _control_changed(self) -> None:
        self.changed.set()
        if self.paused:
            self._on_pause()

    async def end(self) -> None:
        """Leave the shared mover; the last consumer that leaves ends it."""
        if self._ticking is not None:
            self._ticking.cancel()
            await asyncio.wait([self._ticking])
        mine, self._mine = self._mine, None
        if mine is None:
            return
        mine.users -= 1
        mine.mover.listeners.remove(self._listener)
        if mine.users == 0:
            if self._of_link.get(self._key) is mine:
                del self._of_link[self._key]
            mine.task.cancel()
            await asyncio.wait([mine.task], timeout=ENDS_WITHIN_S)
