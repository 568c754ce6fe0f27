"""The master: one loop that watches workers, hands over what they leave, and answers signals.

It never imports the app and never handles a message. Nothing here may block: what talks to Redis is
a task of its own, and workers are told things through pipes that never block.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import signal
import socket
from collections.abc import Awaitable, Callable
from dataclasses import asdict, replace
from typing import Any

from redis.exceptions import AuthenticationError, NoPermissionError, RedisError, ResponseError

from .._clock import mono_ms
from .._keys import worker_name
from ..backoff import Backoff
from ..client import StreamClient
from ..exceptions import ClusterSlotError, ConfigError, UnsupportedServer
from ..group import ConsumerGroup, group_is_lost
from ..message import id_before, id_key
from ..metrics import RateWindow
from ..server_check import check_server, forbidden
from . import exits
from .burst import Burst
from .channel import Channel
from .config import PoolConfig, Settings, resolve
from .exits import Failure
from .metrics import PoolMetrics
from .notify import notify, watchdog_interval_s
from .protocol import (
    Declined,
    Drain,
    Fatal,
    Free,
    GroupLost,
    Loaded,
    LoadFailed,
    Message,
    Ready,
    Released,
    Retrying,
    Start,
)
from .recovery import Death, Recovery
from .roster import Slot, Worker, snapshot
from .rows import Field, Rows
from .spawner import Spawner, how_it_ended
from .states import WorkerState

log = logging.getLogger("redis_stream_queue")

SWEEP_S = 1.0
TRIM_S = 5.0
STATUS_S = 60.0
DEATHS_S = 0.1
RESTART_FIRST_S = 0.1
RESTART_LONGEST_S = 10.0
MOST_FAILED_STARTS = 5
LAST_WORDS_S = 2.0


class Master:
    """Runs one pool; see the module's text."""

    def __init__(self, config: PoolConfig, spawner: Spawner, rows: Rows) -> None:
        self.config = config
        self.client = StreamClient.from_url(config.url, prefix=config.prefix)
        self.settings: Settings | None = None
        self.recovery: Recovery | None = None
        self.slots = [Slot(number, rows.row(number)) for number in range(config.workers)]
        self._spawner = spawner
        self._rows = rows
        self._by_pid: dict[int, Worker] = {}
        self._early_exits: dict[int, int] = {}
        self._group: ConsumerGroup | None = None
        self._oldest_unfinished = ""
        self._replaced = 0
        self._ever_ready = False
        self._started_ms = mono_ms()
        self._acked = RateWindow()
        self._draining = False
        self._quits = False
        self._exit_code = exits.OK
        self._over: asyncio.Future[int]
        self._connected: asyncio.Event
        self._sweep_now: asyncio.Event
        self._deaths_now: asyncio.Event
        self._all_gone: asyncio.Event
        self._changed: asyncio.Event
        self._sweep_at_ms = 0
        self._tasks: set[asyncio.Task[Any]] = set()

    # -- life ----------------------------------------------------------------------------------

    async def run(self) -> int:
        """Until drained; returns the exit code. Raises Failure."""
        loop = asyncio.get_running_loop()
        self._over = loop.create_future()
        self._connected = asyncio.Event()
        self._sweep_now = asyncio.Event()
        self._deaths_now = asyncio.Event()
        self._all_gone = asyncio.Event()
        self._changed = asyncio.Event()
        self._spawner.on_forked = self._forked
        self._spawner.on_exit = self._exited
        self._spawner.on_template_death = self._template_died
        self._spawner.attach()
        self._listen_to_signals(loop)
        for slot in self.slots:
            self._start(slot)
        self._task(self._connect())
        try:
            return await self._over
        finally:
            await self._finish()

    def _listen_to_signals(self, loop: asyncio.AbstractEventLoop) -> None:
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._terminate, signal.Signals(number).name)
        loop.add_signal_handler(signal.SIGQUIT, self._quit)
        loop.add_signal_handler(signal.SIGUSR1, self._say_status)

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
            self._over.set_exception(error)

    async def _finish(self) -> None:
        """The order matters: no more ticks, no more workers, then the last words to Redis."""
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._draining = True
        for worker in list(self._by_pid.values()):
            self._spawner.kill(worker.pid)
        self._check_drained()
        await self._all_gone.wait()
        for slot in self.slots:
            if slot.worker and slot.worker.channel:
                slot.worker.channel.close()
        if self.recovery is not None and not self._quits:
            try:
                async with asyncio.timeout(LAST_WORDS_S):
                    await self.recovery.release_all()
                    await self.recovery.close()
            except (RedisError, OSError, TimeoutError) as error:
                log.warning("could not give everything back, others take it later: %s", error)
        await self.client.close()

    # -- start ---------------------------------------------------------------------------------

    async def _connect(self) -> None:
        """Wait for Redis; afterwards the pool waits for ever, here only so long."""
        deadline = mono_ms() + self.config.connect_timeout_s * 1000
        backoff = Backoff()
        while True:
            try:
                await self.client.link().call("", "PING")
                self._connected.set()
                return
            except (AuthenticationError, NoPermissionError) as error:
                raise Failure(
                    exits.REDIS,
                    f"{self.client.endpoint} refuses the user or password ({error}). Check "
                    "--url or REDIS_URL (form: redis://user:password@host:port/db).",
                ) from None
            except ResponseError as error:
                if "NOAUTH" in str(error) or "NOPERM" in str(error):
                    raise Failure(
                        exits.REDIS,
                        f"{self.client.endpoint} wants a password or permission ({error}). Check "
                        "--url or REDIS_URL (form: redis://user:password@host:port/db).",
                    ) from None
                last: Exception = error
            except (RedisError, OSError, TimeoutError) as error:
                last = error
            if mono_ms() >= deadline:
                raise Failure(
                    exits.REDIS,
                    f"cannot reach Redis at {self.client.endpoint} within "
                    f"{self.config.connect_timeout_s:g} s: {last or type(last).__name__}. Is it "
                    "running? Set --url or REDIS_URL.",
                )
            await asyncio.sleep(min(backoff.next_s(), max(deadline - mono_ms(), 0) / 1000))

    async def _set_up(self, loaded: Loaded) -> None:
        """The first worker has told what its handler wants: check the server, create the group."""
        try:
            settings = resolve(self.config, loaded, cluster=self.client.endpoint.cluster)
        except ConfigError as error:
            raise Failure(exits.USAGE, str(error)) from None
        await self._connected.wait()
        consumer = settings.consumer
        self._group = ConsumerGroup(self.client, settings.stream, consumer.group)
        try:
            await check_server(self.client, settings.stream)
            await self._group.ensure(consumer.dlq_stream, consumer.dlq_group)
        except UnsupportedServer as error:
            raise Failure(exits.REDIS, str(error)) from None
        except (ConfigError, ClusterSlotError) as error:
            raise Failure(exits.USAGE, str(error)) from None
        except NoPermissionError as error:
            raise Failure(exits.REDIS, str(forbidden(self.client, error))) from None
        self.recovery = Recovery(self.client, settings, self._rows, self._live)
        self.settings = settings
        log.info(
            "%s reads stream %s as group %s from %s with %d worker(s), dead letters go to %s",
            self.config.target,
            self.client.key(settings.stream),
            consumer.group,
            self.client.endpoint,
            len(self.slots),
            self.client.key(consumer.dlq_stream or ""),
        )
        for worker in self._live():
            if worker.loaded:
                self._task(self._let_start(worker))
        self._run_ticks()

    def _run_ticks(self) -> None:
        self._task(self._sweep_loop())
        self._task(self._deaths_loop())
        self._task(self._tick("renewing leases", self._lease_interval_ms() / 1000, self._renew))
        self._task(self._tick("trimming", TRIM_S, self._trim))
        self._task(self._tick("status", STATUS_S, self._status_tick))
        self._task(self._tick("metrics", 1.0, self._metrics_tick))
        if (interval_s := watchdog_interval_s()) is not None:
            self._task(self._tick("watchdog", interval_s, self._feed_watchdog))
        if self.config.burst:
            self._task(self._burst())

    def _start(self, slot: Slot) -> None:
        """Begin a new life in a slot."""
        slot.lives += 1
        config = self.config
        spec = {
            "target": config.target,
            "serializer": config.serializer,
            "log_level": config.log_level,
            "log_format": config.log_format,
        }
        sock = self._spawner.fork(slot.number, slot.lives, spec)
        if sock is None:  # no template now: its successor starts us
            slot.worker = None
            return
        worker = Worker(slot.number, slot.lives, slot.row, sock)
        slot.worker = worker
        worker.channel = Channel(
            sock,
            lambda message: self._heard(worker, message),
            lambda: self._pipe_ended(worker),
        )

    def _forked(self, slot: int, life: int, pid: int) -> None:
        worker = self.slots[slot].worker
        if worker is None or worker.life != life:
            return
        worker.pid = pid
        self._by_pid[pid] = worker
        if pid in self._early_exits:
            self._exited(pid, self._early_exits.pop(pid))

    async def _let_start(self, worker: Worker) -> None:
        """Give a loaded worker its name and its settings."""
        assert self.settings is not None
        assert self.recovery is not None
        backoff = Backoff()
        while worker.state is WorkerState.STARTING and not worker.consumer:
            name = worker_name(self.settings.consumer.group, socket.gethostname())
            try:
                if await self.recovery.pending.reserve(name):
                    worker.consumer = name
            except (RedisError, OSError, TimeoutError) as error:
                await self._survive("starting a worker", error, backoff)
        if worker.channel is None or worker.state is not WorkerState.STARTING:
            if worker.consumer:
                self._note_death(worker, "drained while starting")
            return
        worker.row[Field.BATCH] = self.settings.batch_size or 1
        consumer = replace(self.settings.consumer, worker_name=worker.consumer)
        worker.channel.send(
            Start(
                {
                    "url": self.config.url,
                    "prefix": self.config.prefix,
                    "stream": self.settings.stream,
                    "config": asdict(consumer),
                    "batch_size": self.settings.batch_size,
                }
            )
        )

    # -- what workers say ----------------------------------------------------------------------

    def _heard(self, worker: Worker, message: Message) -> None:
        if isinstance(message, Loaded):
            self._loaded(worker, message)
        elif isinstance(message, LoadFailed):
            self._load_failed(worker, message)
        elif isinstance(message, Ready):
            self._ready(worker)
        elif isinstance(message, Fatal):
            self._fail(Failure(exits.REDIS, message.error))
        elif isinstance(message, GroupLost):
            self._task(self._restore_group())
        elif self.recovery is None:
            return
        elif isinstance(message, Free):
            worker.offered_until_ms = 0
            self.recovery.answer(worker)
        elif isinstance(message, Declined):
            self.recovery.declined(worker, message.ids)
            self._sweep_soon(0)
            self._deaths_now.set()
        elif isinstance(message, Retrying):
            self.recovery.remember(message.id, message.error)
            self._sweep_soon(message.due_in_ms + 1)
        elif isinstance(message, Released):
            self._sweep_soon(0)

    def _loaded(self, worker: Worker, message: Loaded) -> None:
        first = not any(w.loaded for w in self._live()) and self.settings is None
        worker.loaded = True
        if self.settings is not None:
            self._task(self._let_start(worker))
        elif first:
            self._task(self._set_up(message))

    def _load_failed(self, worker: Worker, message: LoadFailed) -> None:
        text = f"cannot load {self.config.target!r}: {message.error}"
        if not self._ever_ready:
            self._fail(Failure(exits.LOAD_FAILED, text))
        else:
            worker.killed = "could not load the app"
            log.error("slot=%d %s", worker.slot, text)

    def _ready(self, worker: Worker) -> None:
        worker.go(WorkerState.READY)
        self._changed.set()
        slot = self.slots[worker.slot]
        slot.failed_starts = 0
        log.debug("slot=%d pid=%d ready as %s", worker.slot, worker.pid, worker.consumer)
        if not self._ever_ready:
            self._sweep_soon(0)
        if all(s.worker and s.worker.state is WorkerState.READY for s in self.slots):
            if not self._ever_ready:
                log.info("ready after %.2f s", (mono_ms() - self._started_ms) / 1000)
            notify("READY=1", f"STATUS={self.metrics()}")
        self._ever_ready = True
        if self._draining and worker.channel is not None:
            self._send_away(worker)
        elif self.recovery is not None:
            self.recovery.dispatch()

    # -- death ---------------------------------------------------------------------------------

    def _exited(self, pid: int, status: int) -> None:
        worker = self._by_pid.pop(pid, None)
        if worker is None:
            self._early_exits[pid] = status
            return
        was_ready = worker.state is not WorkerState.STARTING
        why = worker.killed or how_it_ended(status)
        worker.go(WorkerState.GONE)
        if worker.channel is not None:
            worker.channel.close()
        self._note_death(worker, why)
        slot = self.slots[worker.slot]
        slot.bury_life()
        slot.worker = None
        if self._draining:
            self._check_drained()
            return
        if not worker.told_to_go:
            self._replaced += 1
            log.warning("slot=%d pid=%d ended: %s", worker.slot, pid, why)
        if was_ready:
            slot.failed_starts = 0
            self._start(slot)
        else:
            self._start_later(slot, why)

    def _note_death(self, worker: Worker, why: str) -> None:
        if self.recovery is None or not worker.consumer:
            return
        one_at_a_time = bool(self.settings and self.settings.one_at_a_time)
        busy = worker.busy and not self._draining
        first, last = worker.row.id(Field.FIRST_MS), worker.row.id(Field.LAST_MS)
        current = worker.row.id(Field.CURRENT_MS)
        self.recovery.died(
            Death(
                worker.consumer,
                mono_ms(),
                _suspects(busy, one_at_a_time, first, last, current),
                why,
            )
        )
        self._deaths_now.set()

    def _start_later(self, slot: Slot, why: str) -> None:
        slot.failed_starts += 1
        if not self._ever_ready and slot.failed_starts >= MOST_FAILED_STARTS:
            self._fail(
                Failure(
                    exits.LOAD_FAILED,
                    f"workers end while they load {self.config.target!r} ({why}), "
                    f"{slot.failed_starts} times in a row.",
                )
            )
            return
        pause_s = min(RESTART_FIRST_S * 2 ** min(slot.failed_starts, 10), RESTART_LONGEST_S)
        asyncio.get_running_loop().call_later(pause_s, self._start_if_empty, slot)

    def _start_if_empty(self, slot: Slot) -> None:
        if slot.worker is None and not self._draining and not self._over.done():
            self._start(slot)

    def _pipe_ended(self, worker: Worker) -> None:
        if worker.pid == 0 and not self._spawner.template_pid:  # it was never forked
            slot = self.slots[worker.slot]
            if slot.worker is worker:
                slot.worker = None
                self._start_if_empty(slot)

    def _template_died(self) -> None:
        """Its workers live on; they finish what they run and are replaced one by one."""
        if self._draining or self._over.done():
            return
        log.warning("the template process has ended; starting a new one and replacing its workers")
        self._spawner.replace_template()
        for slot in self.slots:
            if slot.worker is not None and slot.worker.pid == 0:
                slot.worker = None
            self._start_if_empty(slot)
        self._task(self._replace([s.worker for s in self.slots if s.worker and s.worker.pid]))

    async def _replace(self, workers: list[Worker]) -> None:
        """Drain workers one by one, each after its predecessor's replacement is ready."""
        for worker in workers:
            if worker.state is WorkerState.GONE:
                continue
            self._send_away(worker)
            while not self._draining and not self._is_replaced(worker):
                self._changed.clear()
                await self._changed.wait()

    def _is_replaced(self, worker: Worker) -> bool:
        successor = self.slots[worker.slot].worker
        return (
            successor is not None
            and successor is not worker
            and successor.state is not WorkerState.STARTING
        )

    # -- ticks ---------------------------------------------------------------------------------

    async def _tick(
        self, what: str, interval_s: float, work: Callable[[], Awaitable[None]]
    ) -> None:
        backoff = Backoff()
        while True:
            await asyncio.sleep(interval_s * random.uniform(0.9, 1.1))
            try:
                await work()
                backoff.reset()
            except (RedisError, OSError, TimeoutError) as error:
                await self._survive(what, error, backoff)

    async def _survive(self, what: str, error: Exception, backoff: Backoff) -> None:
        pause_s = backoff.next_s()
        if group_is_lost(error):
            await self._restore_group()
        elif backoff.worth_a_line():
            log.error("%s: %s, trying again", what, error or type(error).__name__)
        await asyncio.sleep(pause_s)

    async def _sweep_loop(self) -> None:
        assert self.recovery is not None
        backoff = Backoff()
        while True:
            wait_s = max(self._sweep_at_ms - mono_ms(), 0) / 1000
            self._sweep_now.clear()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._sweep_now.wait(), wait_s)
                continue
            pause_ms = int(SWEEP_S * 1000 * random.uniform(0.9, 1.1))
            self._sweep_at_ms = mono_ms() + pause_ms
            try:
                next_due_ms = await self.recovery.sweep()
                backoff.reset()
            except (RedisError, OSError, TimeoutError) as error:
                await self._survive("sweeping", error, backoff)
            else:
                if next_due_ms is not None:
                    self._sweep_soon(next_due_ms)

    def _sweep_soon(self, in_ms: int) -> None:
        at_ms = mono_ms() + in_ms
        if at_ms < self._sweep_at_ms:
            self._sweep_at_ms = at_ms
            self._sweep_now.set()

    async def _deaths_loop(self) -> None:
        assert self.recovery is not None
        backoff = Backoff()
        while True:
            await self._deaths_now.wait()
            self._deaths_now.clear()
            try:
                await self.recovery.look_at_deaths()
                backoff.reset()
            except (RedisError, OSError, TimeoutError) as error:
                await self._survive("recovering", error, backoff)
                self._deaths_now.set()
            if self.recovery.has_deaths:
                asyncio.get_running_loop().call_later(DEATHS_S, self._deaths_now.set)

    def _lease_interval_ms(self) -> int:
        assert self.settings is not None
        return min(self.settings.consumer.min_idle_claim_ms // 3, 1000)

    async def _renew(self) -> None:
        assert self.recovery is not None
        await self.recovery.renew_leases(self._lease_interval_ms())

    async def _trim(self) -> None:
        assert self.recovery is not None
        assert self.settings is not None
        trimmed = await self.recovery.pending.trim(self.settings.consumer.max_stream_size)
        self._oldest_unfinished = trimmed.oldest_unfinished or self._oldest_unfinished

    async def _restore_group(self) -> None:
        """Create a lost group again behind what is known to be finished."""
        if self._group is None:
            return
        start_id = id_before(self._oldest_unfinished) if self._oldest_unfinished else "0"
        try:
            await self._group.recreate(start_id)
        except (RedisError, OSError, TimeoutError) as error:
            log.warning("cannot create the group again yet: %s", error)

    async def _feed_watchdog(self) -> None:
        notify("WATCHDOG=1")

    # -- metrics -------------------------------------------------------------------------------

    def metrics(self) -> PoolMetrics:
        """What the pool has done so far; no Redis call."""
        return snapshot(
            self.slots,
            started_ms=self._started_ms,
            replaced=self._replaced,
            buried=self.recovery.buried if self.recovery else 0,
            acked_per_s=self._acked.rate(),
        )

    async def _metrics_tick(self) -> None:
        self._acked.record(self.metrics().acked - self._acked.total)

    async def _status_tick(self) -> None:
        self._say_status()

    def _say_status(self) -> None:
        metrics = self.metrics()
        log.info("status: %s", metrics)
        for worker in metrics.workers:
            log.debug("slot=%d %s", worker.slot, worker)
        notify(f"STATUS={metrics}")

    # -- the end -------------------------------------------------------------------------------

    def _live(self) -> list[Worker]:
        return [slot.worker for slot in self.slots if slot.worker is not None]

    def _terminate(self, name: str) -> None:
        if self._draining:
            log.warning("%s again: giving back what runs and leaving at once", name)
            self._end()
        else:
            log.info("%s: draining, up to %g s", name, self.config.graceful_timeout_s)
            self.drain(exits.OK)

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
        for worker in self._live():
            self._send_away(worker)
        asyncio.get_running_loop().call_later(self.config.graceful_timeout_s, self._out_of_time)
        self._check_drained()

    def _send_away(self, worker: Worker) -> None:
        worker.told_to_go = True
        worker.go(WorkerState.DRAINING)
        if worker.channel is not None:
            worker.channel.send(Drain())

    def _out_of_time(self) -> None:
        if not self._over.done():
            busy = [str(w.slot) for w in self._live() if w.busy]
            log.warning(
                "graceful timeout: giving back what slots %s still run", ", ".join(busy) or "-"
            )
            self._end()

    def _check_drained(self) -> None:
        if not self._by_pid and not any(w.pid == 0 for w in self._live()):
            self._all_gone.set()
            self._end()

    def _end(self) -> None:
        if not self._over.done():
            self._draining = True
            self._over.set_result(self._exit_code)

    # -- burst ---------------------------------------------------------------------------------

    async def _burst(self) -> None:
        assert self.recovery is not None
        burst = Burst(self.client, self.recovery.pending, self.metrics)
        await burst.until_done()
        log.info("burst: all done: %s", self.metrics())
        self.drain(exits.FAILURE if self.metrics().dead else exits.OK)


def _suspects(
    busy: bool,
    one_at_a_time: bool,
    first: tuple[int, int],
    last: tuple[int, int],
    current: tuple[int, int],
) -> Callable[[str], bool]:
    def was_running(entry_id: str) -> bool:
        if not busy:
            return False
        key = id_key(entry_id)
        return key == current if one_at_a_time else first <= key <= last

    return was_running
