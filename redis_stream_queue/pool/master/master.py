"""The master: one event loop that watches workers, hands over what they leave, answers signals.

It never imports the app and never handles a message. Nothing here may block: all that talks to
Redis is a task of its own, and the pipes to the workers never block.
"""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import Awaitable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from ... import _exits
from ..._clock import mono_ms
from ..._exits import Failure
from ..._log import logger
from ..._pool_config import PoolConfig
from ...client import StreamClient
from ...connection.exchange import OUTAGES
from .. import signals
from ..metrics import PoolMetrics, added
from ..protocol import Fatal, Leaving, Loaded, LoadFailed, Message, Ready, Retire
from .alarm import every
from .burst import Burst
from .changes import watch_changes
from .crew import CrewLife
from .health import watch_loading
from .http.snapshot import Part, Snapshot
from .outage import Outage
from .serving import http_server
from .slots import Crew, WorkerRecord
from .spawner import Spawner
from .startup import connect, look_at_host_name
from .steering import Steering
from .succession import Succession
from .supervisor import ORPHANS_S, Supervisor
from .systemd import notify, watchdog_interval_s

log = logger(__name__)

if TYPE_CHECKING:
    from .http.server import HttpServer

STATUS_S = 60.0  # how often the status is logged
LOOK_S = 1.0  # how often the pool is looked at; with HTTP a snapshot is made of it
LAST_WORDS_S = 2.0  # how long Redis has to answer when the pool ends
MARGIN_S = 5.0  # that systemd waits beyond the longest time that our end may take
CANCEL_AGAIN_S = 0.5  # a task that has not ended by then is cancelled again


class Master:
    """Runs one pool. supervisor: has begun to start workers already."""

    def __init__(
        self,
        config: PoolConfig,
        client: StreamClient,
        crews: list[tuple[PoolConfig, Crew]],
        supervisor: Supervisor,
        spawner: Spawner,
    ) -> None:
        self.config = config
        self.client = client
        self.supervisor = supervisor
        self.succession = Succession(self.supervisor, spawner)
        self._connected = asyncio.Event()
        self._outage = Outage()
        self.crews = {
            crew.name: CrewLife(
                each,
                crew,
                self.client,
                self.supervisor,
                self.succession,
                connected=self._connected,
                outage=self._outage,
                state=self._state,
                on_set_up=self._start_if_all_can,
                task=self._task,
                fail=self._fail,
            )
            for each, crew in crews
        }
        self.steering = Steering(
            self.supervisor,
            self.succession,
            list(self.crews.values()),
            self.metrics,
            self._task,
        )
        self._spawner = spawner
        self._http: HttpServer | None = None
        self._snapshot: Snapshot
        self._started_ms = mono_ms()
        self._draining = False
        self._quits = False
        self._announced = False
        self._exit_code = _exits.OK
        self._over: asyncio.Future[int]
        self._tasks: set[asyncio.Task[Any]] = set()

    # -- life ----------------------------------------------------------------------------------

    def listen(self) -> None:
        """Take the signals from now on; what they ask for is done in run()."""
        loop = asyncio.get_running_loop()
        self._over = loop.create_future()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._terminate, signal.Signals(number).name)
        loop.add_signal_handler(signal.SIGQUIT, self._quit)
        loop.add_signal_handler(signal.SIGUSR1, self._say_status)
        self.steering.listen(loop)

    async def run(self) -> int:
        """Run until drained; returns the exit code. Raises Failure."""
        self.supervisor.on_message = self._heard
        self.supervisor.on_death = self._died
        self.supervisor.on_failure = self._fail
        self.succession.on_fresh_code = lambda canary: self.crews[canary.crew].reloaded(canary)
        look_at_host_name()
        self._look_around()
        self._task(every(LOOK_S, "metrics", self._look_around))
        if self.config.http:
            self._task(self._serve_http())
        if self.config.reload:
            watch_changes(self._spawner, self.steering.reload)
        self._task(watch_loading(self.supervisor.living, ", ".join(self.crews)))
        self._task(self._connect())
        try:
            code = await self._over
        finally:
            await self._finish()
        signals.hold_ends()
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
            self.supervisor.ending = True
            self._over.set_exception(error)

    async def _finish(self) -> None:
        """End tasks, then workers, then give back what they held: the order matters."""
        tasks = set(self._tasks)
        while tasks:  # once more if a library has swallowed the cancellation
            for task in tasks:
                task.cancel()
            _, tasks = await asyncio.wait(tasks, timeout=CANCEL_AGAIN_S)
        self._draining = True
        self.succession.stop()
        await self.supervisor.kill_all()
        if self._http is not None:
            self._http.close()
        if not self._quits:
            try:
                async with asyncio.timeout(LAST_WORDS_S):
                    await asyncio.gather(*(crew.release() for crew in self.crews.values()))
            except OUTAGES as error:
                log.warning("could not give everything back, others take it later: %s", error)
        await self.client.close()

    # -- start ---------------------------------------------------------------------------------

    async def _serve_http(self) -> None:
        self._http = http_server(
            self.config, lambda: self._snapshot, lambda: self._state() in ("running", "quiet")
        )
        await self._http.serve()

    async def _connect(self) -> None:
        await connect(self.client, self.config.connect_timeout_s)
        self._connected.set()

    def _start_if_all_can(self) -> None:
        """Start all crews if each of them can start; one that cannot start ends the pool."""
        crews = list(self.crews.values())
        if any(crew.running is None for crew in crews):
            return
        serves = [crew.serves for crew in crews]
        if twice := [names for names in serves if serves.count(names) > 1]:
            both = [c.crew.name for c in crews if c.serves == twice[0]]
            self._fail(
                Failure(
                    _exits.USAGE,
                    f"{' and '.join(both)} read the same stream {twice[0][0]!r} as the same group "
                    f"{twice[0][1]!r}: give each a stream or a group of its own.",
                )
            )
            return
        for crew in crews:
            crew.start()
        self._task(every(STATUS_S, "status", self._status_tick))
        if (interval_s := watchdog_interval_s()) is not None:
            self._task(every(interval_s, "watchdog", lambda: notify("WATCHDOG=1")))
        if self.config.burst:
            self._task(self._burst())

    # -- what workers say ----------------------------------------------------------------------

    def _heard(self, worker: WorkerRecord, message: Message) -> None:
        crew = self.crews[worker.crew]
        if isinstance(message, Loaded):
            crew.loaded(worker, message)
        elif isinstance(message, LoadFailed):
            crew.loading.failed(worker, message)
        elif isinstance(message, Ready):
            self._ready(worker, crew)
        elif isinstance(message, Retire):
            log.debug("slot=%d pid=%d is replaced: %s", worker.slot, worker.pid, message.why)
            self.succession.retire(worker)
        elif isinstance(message, Leaving):
            self.supervisor.leaving(worker, message.threads)
        elif isinstance(message, Fatal):
            self._fail(Failure(_exits.REDIS, message.error))
        else:
            crew.heard(worker, message)

    def _ready(self, worker: WorkerRecord, crew: CrewLife) -> None:
        first = not crew.crew.ever_ready
        self.supervisor.ready(worker)
        self.succession.worked()
        log.debug("slot=%d pid=%d ready as %s", worker.slot, worker.pid, worker.consumer)
        crew.ready(first=first)
        if self.supervisor.all_ready and not self._announced:
            self._announced = True
            log.info("ready after %.2f s", (mono_ms() - self._started_ms) / 1000)
            notify("READY=1", f"STATUS={self.metrics()}")
            self.steering.started()

    def _died(self, worker: WorkerRecord, why: str) -> None:
        self.crews[worker.crew].died(worker, why, interrupted=self._draining)

    # -- metrics -------------------------------------------------------------------------------

    def metrics(self) -> PoolMetrics:
        """The metrics of the pool so far; asks nothing of Redis."""
        metrics = added([crew.metrics() for crew in self.crews.values()])
        return replace(metrics, quiet=self.steering.quiet, redis_error=self._outage.error)

    def _state(self) -> str:
        """The state of the pool in one word."""
        if self._draining:
            return "draining"
        if self.steering.quiet:
            return "quiet"
        return "running" if self.supervisor.ever_ready else "starting"

    def _look_around(self) -> None:
        self._spawner.orphans.note_background()
        if not self.config.http:  # nobody asks for a snapshot
            for crew in self.crews.values():
                crew.note_progress()
            return
        parts = [Part(crew.observation, crew.metrics()) for crew in self.crews.values()]
        steering = self.steering
        self._snapshot = Snapshot(
            time.time(),
            self._state(),
            parts,
            dict(steering.reloads),
            steering.reload_failed,
            steering.reload_failed_s,
            self._outage.error,
        )

    def _status_tick(self) -> None:
        for crew in self.crews.values():
            if crew.running is not None and crew.running.paused:
                crew.running.say_paused()
        self._say_status()

    def _say_status(self) -> None:
        metrics = self.metrics()
        log.info("status: %s", metrics)
        for worker in metrics.workers:
            log.debug("slot=%d %s", worker.slot, worker)
        notify(self.steering.status_line())

    # -- the end -------------------------------------------------------------------------------

    def _terminate(self, name: str) -> None:
        if self._over.done():
            return  # it ends already
        if self._draining:
            log.warning("%s again: giving back what runs and leaving at once", name)
            self._end()
        else:
            log.info("%s: draining, up to %g s", name, self.config.graceful_timeout_s)
            self.drain(_exits.OK)

    def _quit(self) -> None:
        log.warning("SIGQUIT: leaving at once")
        self._quits = True
        self._end()

    def drain(self, exit_code: int) -> None:
        """Let running messages finish, start nothing new, then end with this exit code."""
        if self._draining:
            return
        self._draining = True
        self._exit_code = exit_code
        self.steering.stop()
        most_s = self.config.graceful_timeout_s + ORPHANS_S + LAST_WORDS_S + MARGIN_S
        notify("STOPPING=1", "STATUS=draining", f"EXTEND_TIMEOUT_USEC={round(most_s * 1e6)}")
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
        backlogs = [
            (crew.running.recovery.pending, crew.running.mover)
            for crew in self.crews.values()
            if crew.running is not None
        ]
        await Burst(self.client, backlogs, self.metrics).until_done()
        log.info("burst: all done")
        self.drain(_exits.FAILURE if self.metrics().dead else _exits.OK)
