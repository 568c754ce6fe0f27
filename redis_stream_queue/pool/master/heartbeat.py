"""Writes the heartbeat of a crew into Redis, where ``rsq running`` and other commands read it."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import os
import socket
from collections.abc import Callable
from typing import NoReturn

from redis.exceptions import ResponseError

from ..._clock import mono_ms
from ..._log import logger
from ..._version import version
from ...client import StreamClient
from ...connection.exchange import OUTAGES
from ...connection.refusals import is_forbidden
from ...operations import heartbeat
from ...operations.heartbeat import Heartbeat, WorkerLine
from ...operations.readings import server_ms
from .._linux import memory_mb
from ..metrics import PoolMetrics
from ..scoreboard import Field
from ..settings import Settings
from .alarm import Alarm
from .maintenance import Maintenance
from .slots import BUSY, WorkerRecord

log = logger(__name__)

LOOK_S = 1.0  # how often it is looked whether something has changed
BEAT_MS = 5000  # after this time it is written even if nothing has changed
MOMENT_MS = 500  # a message that has been running for less is no change
TIDY_MS = 60_000  # between two looks at the server's clock; also after a try that was forbidden
RIGHTS = "~rsq:* +time +set +del +zadd +zrem +zremrangebyscore"

Running = frozenset[tuple[int, str]]  # pid and message


class HeartbeatWriter:
    """Writes the heartbeat of one crew. A missing right is logged once and does no other harm.

    living, metrics, state: return the workers, the metrics and the state of the pool in one word.
    maintenance: hears of refusals: the heartbeat may be all that a pool writes for a while.
    memory_limit_mb: of a worker, None = none.
    """

    def __init__(
        self,
        client: StreamClient,
        target: str,
        settings: Settings,
        living: Callable[[], list[WorkerRecord]],
        metrics: Callable[[], PoolMetrics],
        state: Callable[[], str],
        maintenance: Maintenance,
        memory_limit_mb: float | None,
    ) -> None:
        self._client = client
        self._target = target
        self._settings = settings
        self._living = living
        self._metrics = metrics
        self._state = state
        self._maintenance = maintenance
        self._memory_limit_mb = memory_limit_mb
        self._host = socket.gethostname().encode(errors="replace").decode()
        self._name = heartbeat.new_name(self._host, os.getpid())
        self._ahead_ms = 0  # the server's time minus mono_ms()
        self._beat_at_ms = self._tidy_at_ms = -TIDY_MS
        self._written: tuple[str, Running] = "", frozenset()

    async def beat(self) -> NoReturn:
        """Write the heartbeat again and again."""
        alarm = Alarm(LOOK_S)
        while True:
            try:
                await self._look(mono_ms())
            except OUTAGES as error:  # the clocks of maintenance.py tell when nothing answers
                log.debug("no heartbeat: %s", error)
                if is_forbidden(error):
                    await self._wait_for_rights()
                elif isinstance(error, ResponseError):
                    self._maintenance.failed("heartbeat", error)
            except Exception as error:  # a defect here must cost nothing but the heartbeat
                log.exception("no heartbeat", exc_info=error)
                await asyncio.sleep(TIDY_MS / 1000)
            await alarm.wait()

    async def _wait_for_rights(self) -> None:
        _say_forbidden(str(self._client.endpoint))
        await asyncio.sleep(TIDY_MS / 1000)

    async def _look(self, now_ms: int) -> None:
        living = [worker for worker in self._living() if worker.pid]
        messages = [(worker.pid, *worker.running()) for worker in living]
        moment_ms = now_ms - MOMENT_MS
        running = frozenset((pid, entry_id) for pid, entry_id, at in messages if 0 < at < moment_ms)
        what = self._state(), running
        if what == self._written and now_ms - self._beat_at_ms < BEAT_MS:
            return
        tidy = now_ms - self._tidy_at_ms >= TIDY_MS
        if tidy:
            self._ahead_ms = await server_ms(self._client, heartbeat.INDEX) - mono_ms()
        beat = self._heartbeat(now_ms, [self._line(worker) for worker in living])
        await heartbeat.write(self._client, self._name, beat, tidy=tidy)
        self._written, self._beat_at_ms = what, now_ms
        self._maintenance.worked("heartbeat")
        if tidy:
            self._tidy_at_ms = now_ms

    def _heartbeat(self, now_ms: int, lines: list[WorkerLine]) -> Heartbeat:
        metrics, consumer, key = self._metrics(), self._settings.consumer, self._client.key
        return Heartbeat(
            host=self._host,
            pid=os.getpid(),
            version=version(),
            target=self._target,
            stream=key(self._settings.stream),
            group=consumer.group,
            dlq_stream=key(consumer.dlq_stream) if consumer.dlq_stream else "",
            max_deliveries=consumer.max_deliveries,
            min_idle_claim_ms=consumer.min_idle_claim_ms,
            state=self._state(),
            started_ms=now_ms + self._ahead_ms - round(metrics.uptime_s * 1000),
            beat_ms=now_ms + self._ahead_ms,
            acked=metrics.acked,
            errors=metrics.errors,
            dead=metrics.dead,
            replaced=metrics.replaced,
            acked_per_s=metrics.acked_per_s,
            workers=tuple(lines),
            memory_limit_mb=self._memory_limit_mb or 0,
        )

    def _line(self, worker: WorkerRecord) -> WorkerLine:
        row, busy = worker.row, worker.busy
        message_id, since_ms = worker.running()
        return WorkerLine(
            slot=worker.slot,
            pid=worker.pid,
            state=BUSY if busy else worker.state.value,
            message_id=message_id,
            since_ms=since_ms + self._ahead_ms if since_ms else 0,
            held=row[Field.HELD] if busy else 0,
            acked=worker.totals()["acked"],
            memory_mb=round(memory_mb(worker.pid) or 0),
            task=worker.task if message_id else "",
        )

    async def erase(self) -> None:
        """Remove the heartbeat at the end of the pool; in an outage it expires by itself."""
        with contextlib.suppress(*OUTAGES):
            await heartbeat.erase(self._client, self._name)


@functools.cache  # once, however many crews there are
def _say_forbidden(where: str) -> None:
    log.info(
        "no heartbeat: %s does not let this user write it, so rsq running does not show this pool. "
        "Allow it (ACL SETUSER name %s), or start with --no-heartbeat",
        where,
        RIGHTS,
    )
