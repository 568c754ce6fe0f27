"""Results of jobs: waits for them on connections of their own; makes values or errors of them."""

from __future__ import annotations

import asyncio
import json
import weakref
from typing import Any

from redis.exceptions import ResponseError

from ..client import StreamClient
from ..connection.backoff import Backoff
from ..connection.exchange import OUTAGES, first_error
from ..connection.link import DedicatedConnection, Link
from ..connection.refusals import passes
from ..connection.replies import text
from ..delivery.answers import VALUE
from ..exceptions import TaskFailed
from ..later.keys import companions

FIRST_LOOK_S, LAST_LOOK_S = 1.0, 60.0  # whether the job has ended without a result, more rarely
MARGIN_S = 2.0  # how much longer than it blocks a wait may take before it counts as dead
MOST_KEPT = 50  # connections that nobody waits on
MOST_LOOKS = 50  # at once; a thousand connections that are opened together may all take too long


class Waiting:
    """Connections for waiting for results; each is used again and again."""

    def __init__(self) -> None:
        self._free: list[DedicatedConnection] = []
        self._turns: weakref.WeakKeyDictionary[Link, asyncio.Semaphore] = (
            weakref.WeakKeyDictionary()
        )

    async def value(
        self, client: StreamClient, stream: str, group: str, job_id: str, timeout_s: float | None
    ) -> bytes | None:
        """The answer to a job; None = it has ended and there is none (any more).

        Raises TimeoutError, and what redis-py raises where Redis refuses us.
        """
        backoff, look_s = Backoff(), FIRST_LOOK_S
        async with asyncio.timeout(timeout_s):
            while True:
                try:
                    link, key = client.link(), companions(client.key(stream)).result(job_id)
                    async with self._turns.setdefault(link, asyncio.Semaphore(MOST_LOOKS)):
                        if found := await link.call(key, "LINDEX", key, 0):
                            return bytes(found)
                        if await _ended(client, stream, group, job_id):
                            found = await link.call(key, "LINDEX", key, 0)
                            return bytes(found) if found else None
                        own = await self._connection(link, key)
                    if found := await self._moved(own, key, look_s):
                        return bytes(found)
                    look_s = min(look_s * 2, LAST_LOOK_S)
                except OUTAGES as error:
                    if isinstance(error, ResponseError) and not passes(error):
                        raise
                    await asyncio.sleep(backoff.next_s())

    async def _connection(self, link: Link, key: str) -> DedicatedConnection:
        """An open connection: one on which nobody waits, or a new one."""
        free = [one for one in self._free if one.link is link]
        own = free[-1] if free else link.dedicated(key)
        if free:
            self._free.remove(own)
        try:
            await own.connect()
        except BaseException:
            await link.drop(own)
            raise
        return own

    async def _moved(self, own: DedicatedConnection, key: str, longest_s: float) -> Any:
        """Wait for a result and leave it there for others; None after the time is over.

        Source: https://redis.io/docs/latest/commands/blmove/
        """
        link, wait = own.link, ("BLMOVE", key, key, "LEFT", "LEFT", longest_s)
        try:
            [found] = first_error(
                await own.run([wait], link.endpoint.socket_timeout, last_s=longest_s + MARGIN_S)
            )
        except BaseException:  # its answer may still be on the way
            await link.drop(own)
            raise
        # On a cluster a connection leads to one node, which need not be the next key's.
        if len(self._free) < MOST_KEPT and not link.endpoint.cluster and not link.closed:
            self._free.append(own)
        else:
            await link.drop(own)
        return found

    async def close(self) -> None:
        """Close the connections of this loop on which no task waits."""
        loop = asyncio.get_running_loop()
        mine = [one for one in self._free if one.link.loop is loop]
        self._free = [one for one in self._free if one.link.loop is not loop]
        for one in mine:
            await one.link.drop(one)


async def _ended(client: StreamClient, stream: str, group: str, job_id: str) -> bool:
    """Has the job ended, so that its result will never be written?"""
    found = await client.find(stream, job_id)
    if found is None:
        return True
    states = [one.state for one in found.groups if one.group == group]
    return states == ["done"]


def failed(task: str, job_id: str, answer: bytes) -> TaskFailed:
    """The error in the answer of a task that has failed."""
    try:
        reason, error = json.loads(text(answer[len(VALUE) :]))
    except (ValueError, TypeError):
        reason, error = "unreadable", repr(answer[:200])
    return TaskFailed(task, job_id, str(reason), str(error))
