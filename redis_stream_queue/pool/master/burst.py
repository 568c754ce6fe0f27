"""``--burst``: watch the backlog until all of it is handled, with a progress bar on a terminal."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from ..._log import logger
from ...client import StreamClient
from ...connection.exchange import OUTAGES
from ...delivery.pending import PendingList
from ...later.mover import Mover
from ...message import GREATEST_ID
from ..metrics import PoolMetrics
from .progress import Progress

log = logger(__name__)

LOOK_S = 0.1  # between two looks


class Burst:
    """Waits until no message is undelivered or pending, and no scheduled message is due.

    backlogs: pending list and mover of each crew. metrics: returns those of the pool.
    """

    def __init__(
        self,
        client: StreamClient,
        backlogs: list[tuple[PendingList, Mover | None]],
        metrics: Callable[[], PoolMetrics],
    ) -> None:
        self._client = client
        self._backlogs = backlogs
        self._metrics = metrics
        self._found: list[str] = []  # the last ids of the streams, at the last look

    async def until_done(self) -> None:
        """Wait until all is done; shows progress on standard error if that is a terminal."""
        progress = Progress(await self._backlog())
        try:
            while not await self._all_done():
                progress.show(self._handled)
                await asyncio.sleep(LOOK_S)
            progress.show(self._handled)
        finally:
            progress.end()

    @property
    def _handled(self) -> int:
        metrics = self._metrics()
        return metrics.acked + metrics.dead

    async def _backlog(self) -> int:
        return sum([await self._waiting(pending) for pending, _ in self._backlogs])

    async def _waiting(self, pending: PendingList) -> int:
        for group in await self._client.group_info(pending.stream):
            if group["name"] == pending.group:
                return int(group.get("lag") or 0) + int(group["pending"])
        return 0

    async def _all_done(self) -> bool:
        """Is all done at the same moment?

        One crew is looked at after the other. The last message of one may push into a stream that
        was looked at before. So of several, two looks in a row must find all done and nothing read.
        """
        before, self._found = self._found, []
        for pending, mover in self._backlogs:
            if (last := await self._done_up_to(pending, mover)) is None:
                return False
            self._found.append(last)
        return len(self._backlogs) == 1 or self._found == before

    async def _done_up_to(self, pending: PendingList, mover: Mover | None) -> str | None:
        """The id up to which all was read, if there is nothing to be done; else None."""
        try:
            if mover is not None and await mover.move_some():
                return None
            groups = await self._client.group_info(pending.stream)
            for group in groups:
                if group["name"] == pending.group:
                    if group["pending"]:
                        return None
                    last = str(group["last-delivered-id"])
                    if last == GREATEST_ID:
                        return last
                    newer = await self._client.command(
                        "XRANGE", pending.stream, f"({last}", "+", "COUNT", 1
                    )
                    return None if newer else last
        except OUTAGES as error:
            log.debug("cannot look at the backlog: %s", error)
        return None
