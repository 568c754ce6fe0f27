"""One crew, from the first worker that has loaded the app to the end of the pool."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

from ... import _exits
from ..._exits import Failure
from ..._log import logger
from ..._pool_config import MAX_WORKERS, PoolConfig
from ...client import StreamClient
from ...exceptions import ConfigError
from ...later.lateness import LatenessMetrics
from ...metrics import RateWindow
from .._linux import usable_cores
from ..metrics import PoolMetrics
from ..protocol import Loaded, Message
from ..scoreboard import Field
from ..settings import Settings, resolve
from .health import HealthCheck
from .limits import Limits
from .loading import Loading
from .maintenance import Maintenance
from .observation import Observation
from .outage import Outage
from .recovery import Recovery
from .running import RunningCrew
from .slots import Crew, WorkerRecord, crew_metrics
from .startup import prepare
from .succession import Succession
from .supervisor import Supervisor

log = logger(__name__)

CLOCKS_AFTER_S = 0.05  # the clocks start after the first reads of workers, which are more urgent

if TYPE_CHECKING:
    from .heartbeat import HeartbeatWriter


class CrewLife:
    """Sets up and runs the workers of one target.

    config: that of the pool, with this target. connected: is set once Redis has answered. outage:
    that of the pool. state: returns the pool's state in one word. on_set_up: called once this crew
    could start. task: runs an awaitable in the background; its failure ends the pool. fail: ends
    the pool. running: None until the crew is set up.
    """

    def __init__(
        self,
        config: PoolConfig,
        crew: Crew,
        client: StreamClient,
        supervisor: Supervisor,
        succession: Succession,
        *,
        connected: asyncio.Event,
        outage: Outage,
        state: Callable[[], str],
        on_set_up: Callable[[], None],
        task: Callable[[Awaitable[Any]], None],
        fail: Callable[[BaseException], None],
    ) -> None:
        self.config = config
        self.crew = crew
        self.loading = Loading(config, crew, supervisor, fail)
        self.running: RunningCrew | None = None
        self.observation = Observation(crew.name)
        self._client = client
        self._supervisor = supervisor
        self._succession = succession
        self._connected = connected
        self._outage = outage
        self._state = state
        self._on_set_up = on_set_up
        self._task = task
        self._fail = fail
        self._heartbeat: HeartbeatWriter | None = None
        self._setting_up = self._started = False
        self._declared: int | None = None  # how many workers its code asks for
        self._acked = RateWindow()
        self._acked_seen: list[int] = []

    # -- start ---------------------------------------------------------------------------------

    def loaded(self, worker: WorkerRecord, message: Loaded) -> None:
        """A worker has loaded the app; what the first one tells sets the crew up."""
        self.loading.loaded(worker, message)
        if self._started and self.running is not None:
            self._task(self.running.let_start(worker))
        elif not self._setting_up:
            self._setting_up = True
            self._task(self._set_up(message))

    async def _set_up(self, loaded: Loaded) -> None:
        """Check the settings and the server, and create the group. Raises Failure."""
        try:
            settings = resolve(self.config, loaded, cluster=self._client.endpoint.cluster)
        except ConfigError as error:
            raise Failure(_exits.USAGE, str(error)) from None
        if wrong := self._adopt_size(loaded.workers):
            raise Failure(_exits.USAGE, wrong)
        await self._connected.wait()
        group = await prepare(self._client, settings, self.config.connect_timeout_s)
        recovery = Recovery(
            self._client,
            settings,
            self.crew.scoreboard,
            self.crew.living,
            lone=len(self.crew.wanted) == 1,
        )
        running = RunningCrew(
            self.config,
            self._client,
            self.crew,
            settings,
            recovery,
            Maintenance(settings, group, recovery, self._outage),
            task=self._task,
            fail=self._fail,
        )
        await running.attend()
        self.running = running
        self._on_set_up()

    def _adopt_size(self, declared: int | None) -> str:
        """Take over the number of workers that the code asks for, unless an option says it.

        declared: what it asks for now, None = nothing. Returns what is wrong with it, "" = nothing.
        """
        if declared == self._declared or self.config.workers is not None:
            return ""
        if declared is not None and declared > MAX_WORKERS:
            return (
                f"{self.crew.name} wants workers={declared}, but a crew has {MAX_WORKERS} at most."
            )
        self._declared = declared
        self.crew.configured = self._supervisor.resize(self.crew, declared or usable_cores())
        return ""

    def reloaded(self, canary: WorkerRecord) -> None:
        """Note that fresh code is kept: it may have other tasks, and ask for more workers."""
        loaded, running = canary.loaded, self.running
        if loaded is None or running is None:
            return
        if wrong := self._adopt_size(loaded.workers):
            log.error("%s It keeps those it has.", wrong)
        running.adopt(canary, loaded)
        if others := self._other_settings(loaded, running.settings):
            log.warning(
                "%s: the fresh code declares other settings (%s), which count when the pool is "
                "started again",
                self.crew.name,
                others,
            )

    def _other_settings(self, loaded: Loaded, now: Settings) -> str:
        """Names of the settings that this code would have if the pool started with it now."""
        try:
            new = resolve(self.config, loaded, cluster=self._client.endpoint.cluster)
        except ConfigError as error:
            return str(error)
        stream = ["stream"] if new.stream != now.stream else []
        names = (field.name for field in dataclasses.fields(new.consumer))
        return ", ".join(
            stream + [n for n in names if getattr(new.consumer, n) != getattr(now.consumer, n)]
        )

    @property
    def serves(self) -> tuple[str, str]:
        """Names of its stream and group; "" until they are known."""
        settings = self.running.settings if self.running else None
        return (settings.stream, settings.consumer.group) if settings else ("", "")

    def start(self) -> None:
        """Let the workers read, and start the clocks."""
        running = self.running
        assert running is not None
        self._started = True
        settings, key = running.settings, self._client.key
        dlq_stream = settings.consumer.dlq_stream
        log.info(
            "%s reads stream %s as group %s from %s with %d worker(s), dead letters go to %s",
            self.crew.name,
            key(settings.stream),
            settings.consumer.group,
            self._client.endpoint,
            len(self.crew.wanted),
            "no stream" if dlq_stream is None else key(dlq_stream),
        )
        for worker in self.crew.living():
            if worker.loaded:
                self._task(running.let_start(worker))
        self._task(self._start_clocks(running))

    async def _start_clocks(self, running: RunningCrew) -> None:
        await asyncio.sleep(CLOCKS_AFTER_S)
        config, settings, maintenance = self.config, running.settings, running.maintenance
        for clock in maintenance.clocks():
            self._task(clock)
        limits = Limits(
            config.time_limit_s, config.max_memory_per_child_mb, config.graceful_timeout_s
        )
        check = HealthCheck(
            self.crew.living,
            limits,
            maintenance.redis_ok_ms,
            limited=settings.limited,
            kill=self._supervisor.kill,
            retire=self._succession.retire,
        )
        self._task(maintenance.every(check.interval_s, "watching", check.look))
        if running.mover is not None:
            self._task(running.mover.run())
        if config.http:
            self._task(self.observation.watch(self._client, settings))
        if config.heartbeat:
            from .heartbeat import HeartbeatWriter  # now: the workers read meanwhile

            self._heartbeat = HeartbeatWriter(
                self._client,
                self.crew.name,
                settings,
                self.crew.living,
                self.metrics,
                self._state,
                maintenance,
                config.max_memory_per_child_mb,
            )
            self._task(self._heartbeat.beat())

    # -- life ----------------------------------------------------------------------------------

    def heard(self, worker: WorkerRecord, message: Message) -> None:
        """Act on a message from a worker."""
        if self.running is not None:
            self.running.heard(worker, message)

    def ready(self, *, first: bool) -> None:
        """Note that a worker reads. first: it is the first one of this crew."""
        self.loading.ready()
        if self.running is not None:
            if first:
                self.running.recovery.sweeping.soon()
            self.running.recovery.offers.dispatch()

    def died(self, worker: WorkerRecord, why: str, *, interrupted: bool) -> None:
        """Note that a worker has ended. interrupted: the pool itself has ended it."""
        if self.running is not None:
            self.running.died(worker, why, interrupted=interrupted)

    def metrics(self) -> PoolMetrics:
        """The metrics of this crew so far; asks nothing of Redis."""
        running = self.running
        mover = running.mover if running else None
        return crew_metrics(
            self.crew,
            paused=running.paused if running else False,
            buried=running.recovery.buried if running else 0,
            redis_errors=running.maintenance.redis_errors if running else 0,
            dead_for=running.recovery.letters.by_reason if running else {},
            acked=self._acked,
            failures=running.failures.all() if running else [],
            scheduled=mover.lateness.metrics() if mover else LatenessMetrics(),
        )

    def note_progress(self) -> None:
        """Note when messages were acknowledged, for the rate in metrics(); call it each second."""
        acked = [worker.row[Field.ACKED] for worker in self.crew.living()]
        if acked != self._acked_seen:
            self._acked_seen = acked
            self.metrics()

    async def release(self) -> None:
        """At the end of the pool: give back what dead workers held. Raises what Redis raises."""
        if self.running is not None:
            await self.running.recovery.release_all()
            await self.running.recovery.close()
            if self._heartbeat is not None:
                await self._heartbeat.erase()
