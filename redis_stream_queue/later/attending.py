"""One mover for all consumers of a stream in an event loop, as long as any of them runs."""

from __future__ import annotations

import asyncio
import weakref

from ..client import StreamClient
from ..connection.link import Link
from ..exceptions import ClusterSlotError
from .control import Pause
from .mover import Listener, Mover

ENDS_WITHIN_S = 1.0


def mover_of(client: StreamClient, stream: str) -> Mover | None:
    """None for a name that leaves no room for keys beside it: nothing is scheduled there."""
    try:
        return Mover(client, stream)
    except ClusterSlotError:
        return None


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
    """A running consumer's part in moving what is scheduled for its stream."""

    def __init__(self, client: StreamClient, stream: str, listener: Listener) -> None:
        self._listener = listener
        self._of_link = _shared.setdefault(client.link(), {})
        self._key = client.key(stream)
        self._mine: _Shared | None = None
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

    def paused(self, group: str) -> Pause | None:
        """What keeps this group from starting anything now."""
        return None if self._mine is None else self._mine.mover.paused(group)

    async def end(self) -> None:
        """The last one ends the mover."""
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
