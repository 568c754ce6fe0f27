"""What a running consumer does and hears beside its stream; one mover for all consumers of a stream
in an event loop, as long as any of them runs."""

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
    """A mover that runs on a client of its own: who came first may leave first."""

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
    """A running consumer's part in what stands beside its stream: what is scheduled is moved, what
    is periodic is pushed, and it hears of pauses and cancellations.

    on_pause: called when its group may start nothing any more. on_cancelled: called with the id of
    a message that was taken back while somebody had it. changed: is set when there is news.
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
        self._learned = False

    async def learn(self) -> None:
        """Know what is paused, before anything is started. Raises what Redis raises."""
        if self._mine is not None and not self._learned:
            await self._mine.mover.learn()
            self._learned = True

    @property
    def paused(self) -> bool:
        """May its group start nothing now?"""
        return self._mine is not None and self._mine.mover.paused(self._group) is not None

    def _control_changed(self) -> None:
        self.changed.set()
        if self.paused:
            self._on_pause()

    async def end(self) -> None:
        """The last one ends the mover."""
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
