"""The master: one loop that watches workers, hands over what they leave, and answers signals.

It never imports the app and never handles a message. Nothing here may block: what talks to Redis is
a task of its own, and workers are told things through pipes that never block.
"""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import Awaitable
from typing import TYPE_CHECKING, Any

from ... import _exits
from ..._clock import mono_ms
from ..._exits import Failure
from ..._log import logger
from ...client import StreamClient
from ...connection.link import OUTAGES
from ...exceptions import ConfigError
from ...later.lateness import LatenessMetrics
from ...metrics import RateWindow
from ..config import COMMAND_TIMEOUT_S, PoolConfig, resolve
from ..metrics import PoolMetrics
from ..protocol import (
    Fatal,
    Leaving,
    Loaded,
    LoadFailed,
    Message,
    Ready,
    Retire,
    WorkerSpec,
)
from ..scoreboard import Scoreboard
from .burst import Burst
from .health import HealthCheck, watch_loading
from .heartbeat import HeartbeatWriter
from .limits import Limits
from .loading import Loading
from .maintenance import Maintenance
from .observation import Observation
from .recovery import Recovery
from .running import RunningPool
from .serving import http_server
from .slots import WorkerRecord, snapshot
from .spawner import Spawner
from .startup import connect, look_at_host_name, prepare
from .supervisor import Supervisor
from .systemd import notify, watchdog_interval_s

log = logger(__name__)

if TYPE_CHECKING:
    from .http.server import HttpServer

STATUS_S = 60.0
METRICS_S = 1.0
LAST_WORDS_S = 2.0
CANCEL_AGAIN_S = 0.5


class Master:
    """Runs one pool; see the module's text."""

    def __init__(self, config: PoolConfig, spawner: Spawner, scoreboard: Scoreboard) -> None:
        self.config = config
        self.client = StreamClient.from_url(
            config.url, prefix=config.prefix, socket_timeout=COMMAND_TIMEOUT_S
        )
        self.supervisor = Supervisor(
            config.workers,
            scoreboard,
            spawner,
            WorkerSpec(
                config.target,
                config.serializer,
                config.log_level,
                config.log_format,
                config.graceful_timeout_s,
            ),
        )
        self.running: RunningPool | None = None
        self._heartbeat: HeartbeatWriter | None = None
        self.observation = Observation(config.target)
        self._http: HttpServer | None = None
        self._scoreboard = scoreboard
        self._started_ms = mono_ms()
        self._acked = RateWindow()
        self._draining = False
        self._quits = False
        self._announced = False
        self._setting_up = False
        self._exit_code = _exits.OK
        self._loading = Loading(config, self.supervisor, self._fail)
        self._connected = asyncio.Event()
        self._over: asyncio.Future[int]
        self._tasks: set[asyncio.Task[Any]] = set()

    # -- life ----------------------------------------------------------------------------------

    async def run(self) -> int:
        """Until drained; returns the exit code. Raises Failure."""
        loop = asyncio.get_running_loop()
        self._over = loop.create_future()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._terminate, signal.Signals(number).name)
        loop.add_signal_handler(signal.SIGQUIT, self._quit)
        loop.add_signal_handler(signal.SIGUSR1, self._say_status)
        loop.add_signal_handler(signal.SIGHUP, self._reload)
        self.supervisor.on_message = self._heard
        self.supervisor.on_death = self._died
        self.supervisor.on_failure = self._fail
        look_at_host_name()
        self.supervisor.start()
        if self.config.http:
            self._task(self._serve_http())
        self._task(watch_loading(self.supervisor, self.config.target))
        self._task(self._connect())
        try:
            code = await self._over
        finally:
            await self._finish()
        log.info("ended: %s", self.metrics())
        return code

    def _task(self, work: Awaitable[Any]) -> None:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._task_ended)

    def _task_ended(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            self._fail(error)

    def _fail(self, error: BaseException) -> None:
        if not self._over.done():
            self.supervisor.freeze()
            self._over.set_exception(error)

    async def _finish(self) -> None:
        """The order matters: no more clocks, no more workers, then the last words to Redis."""
        tasks = set(self._tasks)
        while tasks:  # again, should a library swallow a cancellation
            for task in tasks:
                task.cancel()
            _, tasks = await asyncio.wait(tasks, timeout=CANCEL_AGAIN_S)
        self._draining = True
        await self.supervisor.kill_all()
        if self._http is not None:
            await self._http.close()
        if self.running is not None and not self._quits:
            try:
                async with asyncio.timeout(LAST_WORDS_S):
                    await self.running.recovery.release_all()
                    await self.running.recovery.close()
                    if self._heartbeat is not None:
                        await self._heartbeat.erase()
            except OUTAGES as error:
                log.warning("could not give everything back, others take it later: %s", error)
        await self.client.close()

    # -- start ---------------------------------------------------------------------------------

    async def _serve_http(self) -> None:
        self._http = http_server(self.config, lambda: [self], self._state)
        await self._http.serve()

    async def _connect(self) -> None:
        await connect(self.client, self.config.connect_timeout_s)
        self._connected.set()

    async def _set_up(self, loaded: Loaded) -> None:
        """The first worker has told what its handler wants: check the server, create the group."""
        try:
            settings = resolve(self.config, loaded, cluster=self.client.endpoint.cluster)
        except ConfigError as error:
            raise Failure(_exits.USAGE, str(error)) from None
        await self._connected.wait()
        group = await prepare(self.client, settings, self.config.connect_timeout_s)
        recovery = Recovery(
            self.client,
            settings,
            self._scoreboard,
            self.supervisor.living,
            lone=self.config.workers == 1,
        )
        running = RunningPool(
            self.config,
            self.client,
            self.supervisor,
            settings,
            recovery,
            Maintenance(settings, group, recovery),
            task=self._task,
            fail=self._fail,
        )
        await running.attend()
        self.running = running
        dlq_stream = settings.consumer.dlq_stream
        log.info(
            "%s reads stream %s as group %s from %s with %d worker(s), dead letters go to %s",
            self.config.target,
            self.client.key(settings.stream),
            settings.consumer.group,
            self.client.endpoint,
            len(self.supervisor.slots),
            "no stream" if dlq_stream is None else self.client.key(dlq_stream),
        )
        for worker in self.supervisor.living():
            if worker.loaded:
                self._task(running.let_start(worker))
        self._start_clocks(running)

    def _start_clocks(self, running: RunningPool) -> None:
        settings, maintenance = running.settings, running.maintenance
        for clock in maintenance.clocks():
            self._task(clock)
        limits = Limits(
            self.config.time_limit_s,
            self.config.max_memory_per_child_mb,
            self.config.graceful_timeout_s,
        )
        redis_ok_ms, limited = maintenance.redis_ok_ms, settings.limited
        check = HealthCheck(self.supervisor, limits, redis_ok_ms, limited=limited)
        self._task(maintenance.every(check.interval_s, "watching", check.look))
        self._task(maintenance.every(STATUS_S, "status", self._status_tick))
        self._task(maintenance.every(METRICS_S, "metrics", self._metrics_tick))
        if running.mover is not None:
            self._task(running.mover.run())
        if self.config.http:
            self._task(self.observation.watch(self.client, settings))
        if self.config.heartbeat:
            self._heartbeat = HeartbeatWriter(
                self.client,
                self.config.target,
                settings,
                self.supervisor.living,
                self.metrics,
                self._state,
            )
            self._task(self._heartbeat.beat())
        if (interval_s := watchdog_interval_s()) is not None:
            self._task(maintenance.every(interval_s, "watchdog", self._feed_watchdog))
        if self.config.burst:
            self._task(self._burst(running))

    # -- what workers say ----------------------------------------------------------------------

    def _heard(self, worker: WorkerRecord, message: Message) -> None:
        if isinstance(message, Loaded):
            self._loaded(worker, message)
        elif isinstance(message, LoadFailed):
            self._loading.failed(worker, message)
        elif isinstance(message, Ready):
            self._ready(worker)
        elif isinstance(message, Retire):
            log.debug("slot=%d pid=%d is replaced: %s", worker.slot, worker.pid, message.why)
            self.supervisor.retire(worker)
        elif isinstance(message, Leaving):
            self.supervisor.leaving(worker, message.threads)
        elif isinstance(message, Fatal):
            self._fail(Failure(_exits.REDIS, message.error))
        elif self.running is not None:
            self.running.heard(worker, message)

    def _loaded(self, worker: WorkerRecord, message: Loaded) -> None:
        self._loading.loaded(worker, message)
        if self.running is not None:
            self._task(self.running.let_start(worker))
        elif not self._setting_up:
            self._setting_up = True
            self._task(self._set_up(message))

    def _ready(self, worker: WorkerRecord) -> None:
        first = not self.supervisor.ever_ready
        self._loading.ready()
        self.supervisor.ready(worker)
        log.debug("slot=%d pid=%d ready as %s", worker.slot, worker.pid, worker.consumer)
        if first and self.running is not None:
            self.running.recovery.sweeping.soon()
        if self.supervisor.all_ready and not self._announced:
            self._announced = True
            log.info("ready after %.2f s", (mono_ms() - self._started_ms) / 1000)
            notify("READY=1", f"STATUS={self.metrics()}")
        if self.running is not None:
            self.running.recovery.offers.dispatch()

    def _died(self, worker: WorkerRecord, why: str) -> None:
        if self.running is not None:
            self.running.died(worker, why, interrupted=self._draining)

    # -- metrics -------------------------------------------------------------------------------

    def metrics(self) -> PoolMetrics:
        """What the pool has done so far; no Redis call."""
        running = self.running
        mover = running.mover if running else None
        return snapshot(
            self.supervisor.slots,
            started_ms=self._started_ms,
            replaced=self.supervisor.replaced,
            paused=running.paused if running else False,
            buried=running.recovery.buried if running else 0,
            acked=self._acked,
            failures=running.failures.all() if running else [],
            scheduled=mover.lateness.metrics() if mover else LatenessMetrics(),
        )

    def _state(self) -> str:
        """How the pool is, in one word."""
        if self._draining:
            return "draining"
        return "running" if self.supervisor.ever_ready else "starting"

    async def _metrics_tick(self) -> None:
        self.supervisor.note_background()
        self.metrics()

    async def _status_tick(self) -> None:
        if self.running is not None and self.running.paused:
            self.running.say_paused()
        self._say_status()

    def _say_status(self) -> None:
        metrics = self.metrics()
        log.info("status: %s", metrics)
        for worker in metrics.workers:
            log.debug("slot=%d %s", worker.slot, worker)
        notify(f"STATUS={metrics}")

    async def _feed_watchdog(self) -> None:
        notify("WATCHDOG=1")

    # -- the end -------------------------------------------------------------------------------

    def _terminate(self, name: str) -> None:
        if self._draining:
            log.warning("%s again: giving back what runs and leaving at once", name)
            self._end()
        else:
            log.info("%s: draining, up to %g s", name, self.config.graceful_timeout_s)
            self.drain(_exits.OK)

    def _reload(self) -> None:
        if self._draining or not self.supervisor.ever_ready:
            log.warning("SIGHUP: ignored, the pool is not running")
            return
        log.info(
            "SIGHUP: replacing the workers with fresh code, one by one once the first is ready"
        )
        notify("RELOADING=1", f"MONOTONIC_USEC={time.monotonic_ns() // 1000}")
        self.supervisor.reload()
        notify("READY=1")

    def _quit(self) -> None:
        log.warning("SIGQUIT: leaving at once")
        self._quits = True
        self._end()

    def drain(self, exit_code: int) -> None:
        """Let running messages finish, start nothing new, then end with this code."""
        if self._draining:
            return
        self._draining = True
        self._exit_code = exit_code
        notify("STOPPING=1", "STATUS=draining")
        self.supervisor.send_all_away()
        self._task(self._until_drained())

    async def _until_drained(self) -> None:
        try:
            async with asyncio.timeout(self.config.graceful_timeout_s):
                await self.supervisor.until_all_gone()
        except TimeoutError:
            busy = [str(w.slot) for w in self.supervisor.living() if w.busy]
            if busy:
                log.warning("graceful timeout: giving back what slots %s run", ", ".join(busy))
            for worker in self.supervisor.living():
                if worker.leaving_since_ms:
                    log.warning(
                        "graceful timeout: slot=%d waits for %s", worker.slot, worker.waits_for
                    )
        self._end()

    def _end(self) -> None:
        self._draining = True
        if not self._over.done():
            self._over.set_result(self._exit_code)

    # -- burst ---------------------------------------------------------------------------------

    async def _burst(self, running: RunningPool) -> None:
        burst = Burst(self.client, running.recovery.pending, running.mover, self.metrics)
        await burst.until_done()
        log.info("burst: all done")
        self.drain(_exits.FAILURE if self.metrics().dead else _exits.OK)
