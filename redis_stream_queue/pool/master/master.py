"""The master: one loop that watches workers, hands over what they leave, and answers signals.

It never imports the app and never handles a message. Nothing here may block: what talks to Redis is
a task of its own, and workers are told things through pipes that never block.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import signal
import socket
import time
from collections.abc import Awaitable
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any, NoReturn

from ... import _exits
from ..._clock import mono_ms
from ..._exits import Failure
from ..._log import logger
from ..._names import worker_name
from ...client import StreamClient
from ...connection.backoff import Backoff
from ...connection.link import OUTAGES
from ...exceptions import ConfigError, RedisStreamError
from ...later.attending import mover_of
from ...later.lateness import LatenessMetrics
from ...later.mover import Listener, Mover
from ...later.periodic import Schedule
from ...later.ticker import Ticker
from ...metrics import RateWindow
from ..config import COMMAND_TIMEOUT_S, PoolConfig, Settings, resolve
from ..metrics import PoolMetrics
from ..protocol import (
    AskForWork,
    Cancel,
    Declined,
    Fatal,
    GroupLost,
    Leaving,
    Loaded,
    LoadFailed,
    Message,
    Pause,
    Periodic,
    Ready,
    Released,
    Resume,
    Retire,
    Retrying,
    Start,
    WorkerSpec,
)
from ..scoreboard import Field, Scoreboard
from ..totals import unconfirmed
from .burst import Burst
from .health import HealthCheck, watch_loading
from .heartbeat import HeartbeatWriter
from .limits import Limits, memory_limit_mb
from .maintenance import Maintenance
from .observation import Observation
from .recovery import Death, Recovery
from .slots import WorkerRecord, nobody, snapshot
from .spawner import Spawner
from .startup import connect, prepare
from .states import WorkerState
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
        self.settings: Settings | None = None
        self.recovery: Recovery | None = None
        self.maintenance: Maintenance | None = None
        self.mover: Mover | None = None
        self.heartbeat: HeartbeatWriter | None = None
        self._observation = Observation()
        self._http: HttpServer | None = None
        self._scoreboard = scoreboard
        self._started_ms = mono_ms()
        self._acked = RateWindow()
        self._draining = False
        self._quits = False
        self._announced = False
        self._paused = False
        self._schedules: tuple[Schedule, ...] = ()
        self._ticking: asyncio.Future[NoReturn] | None = None
        self._setting_up = False
        self._exit_code = _exits.OK
        self._load_error = ""
        self._limit_too_small = False
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
        if not _is_utf8(host := socket.gethostname()):
            log.warning("the host name %r is not UTF-8: consumer names show a '?' instead", host)
        self.supervisor.start()
        if self.config.http:
            self._task(self._serve_http(self.config.http))
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
        if self.recovery is not None and not self._quits:
            try:
                async with asyncio.timeout(LAST_WORDS_S):
                    await self.recovery.release_all()
                    await self.recovery.close()
                    if self.heartbeat is not None:
                        await self.heartbeat.erase()
            except OUTAGES as error:
                log.warning("could not give everything back, others take it later: %s", error)
        await self.client.close()

    # -- start ---------------------------------------------------------------------------------

    async def _serve_http(self, address: str) -> None:
        try:  # now: workers need none of it, and start meanwhile
            from .http.prometheus import Exposition
            from .http.server import HttpServer
        except ImportError as error:
            raise Failure(
                _exits.USAGE,
                f"--http needs the extra http ({error}): pip install 'redis-stream-queue[http]'",
            ) from None
        self._http = HttpServer(
            address, Exposition(self.metrics, self._observation), lambda: self._state() == "running"
        )
        await self._http.start()
        log.info("HTTP: probes and metrics on %s", address)

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
        self.recovery = Recovery(
            self.client,
            settings,
            self._scoreboard,
            self.supervisor.living,
            lone=self.config.workers == 1,
        )
        self.maintenance = Maintenance(settings, group, self.recovery)
        self.mover = mover_of(self.client, settings.stream)
        if self.mover is not None:
            changed = partial(self._control_changed, self.mover, settings)
            self.mover.listeners.append(Listener(changed, self._cancelled))
            with contextlib.suppress(*OUTAGES):  # then it is known a little later
                await self.mover.learn()
        self.settings = settings
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
        if loaded.settings.get("worker_name") is not None:
            log.warning(
                "worker_name is left out: in a pool each life of a worker has a name of its own"
            )
        for worker in self.supervisor.living():
            if worker.loaded:
                self._task(self._let_start(worker))
        self._start_clocks(settings, self.maintenance)

    def _start_clocks(self, settings: Settings, maintenance: Maintenance) -> None:
        for clock in maintenance.clocks():
            self._task(clock)
        limits = Limits(
            self.config.time_limit_s,
            self.config.max_memory_per_child_mb,
            self.config.graceful_timeout_s,
        )
        check = HealthCheck(self.supervisor, limits, maintenance.redis_ok_ms)
        self._task(maintenance.every(check.interval_s, "watching", check.look))
        self._task(maintenance.every(STATUS_S, "status", self._status_tick))
        self._task(maintenance.every(METRICS_S, "metrics", self._metrics_tick))
        if self.mover is not None:
            self._task(self.mover.run())
        if self.config.http:
            self._task(self._observation.watch(self.client, settings))
        if self.config.heartbeat:
            self.heartbeat = HeartbeatWriter(
                self.client,
                self.config.target,
                settings,
                self.supervisor.living,
                self.metrics,
                self._state,
            )
            self._task(self.heartbeat.beat())
        if (interval_s := watchdog_interval_s()) is not None:
            self._task(maintenance.every(interval_s, "watchdog", self._feed_watchdog))
        if self.config.burst:
            self._task(self._burst())

    async def _let_start(self, worker: WorkerRecord) -> None:
        """Give a loaded worker its name and its settings."""
        assert self.settings is not None
        assert self.recovery is not None
        backoff = Backoff()
        while worker.state is WorkerState.STARTING and not worker.consumer:
            name = worker_name(self.settings.consumer.group, socket.gethostname())
            try:
                if await self.recovery.pending.reserve(name):
                    worker.consumer = name
            except OUTAGES as error:
                log.debug("slot=%d waits for Redis: %s", worker.slot, error)
                await asyncio.sleep(backoff.next_s())
        if worker.channel is None or worker.state is not WorkerState.STARTING:
            if worker.consumer:
                self._died(worker, "drained while starting")
            return
        worker.row[Field.BATCH] = self.settings.batch_size or 1
        consumer = replace(self.settings.consumer, worker_name=worker.consumer)
        worker.channel.send(
            Start(
                self.config.url,
                self.config.prefix,
                self.settings.stream,
                consumer,
                self.settings.batch_size,
                self.config.soft_time_limit_s,
                self._most_messages(),
            )
        )
        if self._paused:
            worker.channel.send(Pause())

    def _most_messages(self) -> int | None:
        """How many messages a new life may handle: up to 10 % fewer, lest all end at once."""
        most = self.config.max_messages_per_child
        return None if most is None else most - random.randint(0, most // 10)

    # -- periodic messages ---------------------------------------------------------------------

    def _tick(self, schedules: list[list[Any]]) -> None:
        """A worker has said what its code wants to be pushed; the newest one counts."""
        wanted = tuple(Schedule(*fields) for fields in schedules)
        if self.settings is None or wanted == self._schedules:
            return
        self._schedules = wanted
        if self._ticking is not None:
            self._ticking.cancel()
        try:
            ticker = Ticker(self.client, self.settings.stream, self.settings.consumer.group, wanted)
        except RedisStreamError as error:
            self._fail(Failure(_exits.USAGE, str(error)))
            return
        self._ticking = asyncio.ensure_future(ticker.run())
        self._task(self._ticking)

    # -- pausing and cancelling ----------------------------------------------------------------

    def _control_changed(self, mover: Mover, settings: Settings) -> None:
        """The stream was paused or resumed for some group: does it concern us?"""
        paused = mover.paused(settings.consumer.group)
        if bool(paused) == self._paused:
            return
        self._paused = paused is not None
        if paused:
            self._say_paused(settings)
        else:
            log.info("stream %s goes on for group %s", settings.stream, settings.consumer.group)
        self._tell_workers(Pause() if paused else Resume())
        if self.recovery is not None:
            self.recovery.offers.paused = self._paused
            self.recovery.offers.dispatch()
            self.recovery.sweeping.soon()

    def _say_paused(self, settings: Settings) -> None:
        names = settings.stream, settings.consumer.group
        log.warning("stream %s is paused for group %s: nothing is started", *names)

    def _cancelled(self, entry_id: str) -> None:
        self._tell_workers(Cancel(entry_id))

    def _tell_workers(self, message: Pause | Resume | Cancel) -> None:
        for worker in self.supervisor.living():
            if worker.channel is not None and worker.consumer:
                worker.channel.send(message)

    # -- what workers say ----------------------------------------------------------------------

    def _heard(self, worker: WorkerRecord, message: Message) -> None:
        if isinstance(message, Loaded):
            self._loaded(worker, message)
        elif isinstance(message, LoadFailed):
            self._load_failed(worker, message)
        elif isinstance(message, Ready):
            self._ready(worker)
        elif isinstance(message, Retire):
            log.debug("slot=%d pid=%d is replaced: %s", worker.slot, worker.pid, message.why)
            self.supervisor.retire(worker)
        elif isinstance(message, Leaving):
            self.supervisor.leaving(worker, message.threads)
        elif isinstance(message, Fatal):
            self._fail(Failure(_exits.REDIS, message.error))
        elif isinstance(message, GroupLost):
            if self.maintenance is not None:
                self._task(self.maintenance.restore_group())
        elif self.recovery is None:
            return
        elif isinstance(message, Periodic):
            self._tick(message.schedules)
        elif isinstance(message, AskForWork):
            self.recovery.offers.answer(worker, message.taken, message.beside)
        elif isinstance(message, Declined):
            self.recovery.declined(worker, message.ids)
        elif isinstance(message, Retrying):
            self.recovery.retrying(message.id, message.error, message.due_in_ms)
        elif isinstance(message, Released):
            self.recovery.sweeping.soon()

    def _loaded(self, worker: WorkerRecord, message: Loaded) -> None:
        worker.loaded = True
        worker.own_mb = message.memory_mb
        self._check_memory_limit(message.memory_mb)
        self.supervisor.introduced(worker, message.pid)
        if self.settings is not None:
            self._task(self._let_start(worker))
        elif not self._setting_up:
            self._setting_up = True
            self._task(self._set_up(message))

    def _check_memory_limit(self, own_mb: int) -> None:
        limit_mb = self.config.max_memory_per_child_mb
        if limit_mb is None or own_mb <= limit_mb or self._limit_too_small:
            return
        self._limit_too_small = True
        log.warning(
            "--max-memory-per-child %d MB is less than the app takes by itself (%d MB): workers "
            "may use %.0f MB. Set it above that.",
            limit_mb,
            own_mb,
            memory_limit_mb(limit_mb, own_mb),
        )

    def _load_failed(self, worker: WorkerRecord, message: LoadFailed) -> None:
        text = f"cannot load {message.what!r}: {message.error}"
        worker.told_to_go = True
        if self.supervisor.ever_ready:
            if text != self._load_error:  # once: it is tried again and again
                self._load_error = text
                log.error("slot=%d %s", worker.slot, text)
        else:
            self._fail(Failure(_exits.LOAD_FAILED, text))

    def _ready(self, worker: WorkerRecord) -> None:
        first = not self.supervisor.ever_ready
        self._load_error = ""
        self.supervisor.ready(worker)
        log.debug("slot=%d pid=%d ready as %s", worker.slot, worker.pid, worker.consumer)
        if first and self.recovery is not None:
            self.recovery.sweeping.soon()
        if self.supervisor.all_ready and not self._announced:
            self._announced = True
            log.info("ready after %.2f s", (mono_ms() - self._started_ms) / 1000)
            notify("READY=1", f"STATUS={self.metrics()}")
        if self.recovery is not None:
            self.recovery.offers.dispatch()

    def _died(self, worker: WorkerRecord, why: str) -> None:
        """Note what was in its handler's hands while the row still says so."""
        if self.recovery is None or not worker.consumer:
            return
        interrupted = self._draining  # by us: what it ran is given back uncounted
        one_at_a_time = bool(self.settings and self.settings.one_at_a_time)
        suspects = nobody if interrupted else worker.suspects(one_at_a_time=one_at_a_time)
        reading = not interrupted and not worker.busy
        death = Death(worker.consumer, mono_ms(), suspects, why, reading)
        slot = self.supervisor.slots[worker.slot]
        if worker in slot.lives:  # else its row may be another one's by now
            death.unconfirmed, death.confirm = unconfirmed(worker.row), slot.confirm
        self.recovery.died(death)

    # -- metrics -------------------------------------------------------------------------------

    def metrics(self) -> PoolMetrics:
        """What the pool has done so far; no Redis call."""
        return snapshot(
            self.supervisor.slots,
            started_ms=self._started_ms,
            replaced=self.supervisor.replaced,
            paused=self._paused,
            buried=self.recovery.buried if self.recovery else 0,
            acked=self._acked,
            scheduled=self.mover.lateness.metrics() if self.mover else LatenessMetrics(),
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
        if self._paused and self.settings is not None:
            self._say_paused(self.settings)
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

    async def _burst(self) -> None:
        assert self.recovery is not None
        burst = Burst(self.client, self.recovery.pending, self.mover, self.metrics)
        await burst.until_done()
        log.info("burst: all done")
        self.drain(_exits.FAILURE if self.metrics().dead else _exits.OK)


def _is_utf8(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
