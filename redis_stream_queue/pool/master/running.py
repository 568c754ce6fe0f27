"""A crew once its first worker has loaded the app: answers what its workers say and ask for."""

from __future__ import annotations

import asyncio
import contextlib
import random
import socket
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NoReturn

from ... import _exits
from ..._clock import mono_ms
from ..._exits import Failure
from ..._log import logger
from ..._names import worker_name
from ..._pool_config import PoolConfig
from ...client import StreamClient
from ...connection.backoff import Backoff
from ...connection.exchange import OUTAGES
from ...exceptions import RedisStreamError
from ...later.mover import Listener, mover_of
from ..failures import DEATH, Failures
from ..protocol import (
    AskForWork,
    Buried,
    Cancel,
    Declined,
    Failed,
    GroupLost,
    Loaded,
    Message,
    MorePeriodic,
    Pause,
    Periodic,
    Released,
    Resume,
    Retrying,
    Start,
)
from ..scoreboard import Field
from ..settings import Settings
from ..totals import unconfirmed
from .maintenance import Maintenance
from .recovery import Death, Recovery
from .slots import Crew, WorkerRecord, nobody
from .states import WorkerState

log = logger(__name__)

if TYPE_CHECKING:
    from ...later.periodic import Schedule


class RunningCrew:
    """Answers the workers of a crew. It is made once the server is checked and the group exists.

    task: runs an awaitable in the background; its failure ends the pool. fail: ends the pool.
    paused: is the stream paused for this group?
    """

    def __init__(
        self,
        config: PoolConfig,
        client: StreamClient,
        crew: Crew,
        settings: Settings,
        recovery: Recovery,
        maintenance: Maintenance,
        *,
        task: Callable[[Awaitable[Any]], None],
        fail: Callable[[BaseException], None],
    ) -> None:
        self.settings = settings
        self.recovery = recovery
        self.maintenance = maintenance
        self.mover = mover_of(client, settings.stream)
        self.paused = False
        self._quiet = False  # does this pool start nothing new (SIGTSTP)?
        self.failures = Failures()
        self._config = config
        self._client = client
        self._crew = crew
        self._task = task
        self._fail = fail
        self._schedules: tuple[Schedule, ...] = ()
        self._code = 0  # number of the code that was kept last
        self._ticking: asyncio.Future[NoReturn] | None = None
        # A new kind of message from workers needs a line here.
        self._said: dict[type[Message], Callable[[WorkerRecord, Any], None]] = {
            GroupLost: lambda worker, message: task(maintenance.restore_group()),
            MorePeriodic: lambda worker, message: worker.periodic.extend(message.schedules),
            Periodic: self._told_periodic,
            AskForWork: lambda worker, message: recovery.offers.answer(
                worker, message.taken, message.beside
            ),
            Declined: lambda worker, message: recovery.declined(worker, message.ids),
            Retrying: lambda worker, message: recovery.retrying(
                message.id, message.error, message.due_in_ms
            ),
            Failed: lambda worker, message: self.failures.note_all(message.errors),
            Buried: lambda worker, message: recovery.letters.buried(message.reason),
            Released: lambda worker, message: recovery.sweeping.soon(),
        }

    def heard(self, worker: WorkerRecord, message: Message) -> None:
        """Act on a message from a worker."""
        if (act := self._said.get(type(message))) is not None:
            act(worker, message)

    def adopt(self, canary: WorkerRecord, loaded: Loaded) -> None:
        """Take over what fresh code says of its handler, tasks and times; the settings stay.

        No task gets fewer deliveries by that: messages of the old code may still be retried.
        """
        policy = self.settings.policy
        most = max(policy.max_deliveries, loaded.most_deliveries)
        self.settings = self.settings._replace(
            dlq_handler=loaded.dlq_handler,
            policy=policy._replace(max_deliveries=most),
        )
        self.recovery.adopt(self.settings)
        self._code = canary.code
        self._tick(canary)

    async def attend(self) -> None:
        """Ask whether the stream is paused, and listen to changes of that from now on."""
        if self.mover is not None:
            self.mover.listeners.append(Listener(self._control_changed, self._cancelled))
            with contextlib.suppress(*OUTAGES):  # the running mover asks again
                await self.mover.load_pauses()

    async def let_start(self, worker: WorkerRecord) -> None:
        """Give a loaded worker its name and its settings."""
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
                self.died(worker, "drained while starting", interrupted=False)
            return
        worker.row[Field.BATCH] = self.settings.batch_size or 1
        consumer = replace(self.settings.consumer, worker_name=worker.consumer)
        worker.channel.send(
            Start(
                self._config.url,
                self._config.prefix,
                self.settings.stream,
                consumer,
                self.settings.batch_size,
                self._config.soft_time_limit_s,
                self._most_messages(),
                self._config.time_limit_s,
            )
        )
        if self._holds_still:
            worker.channel.send(Pause())

    def _most_messages(self) -> int | None:
        """How many messages a new life may handle: up to 10 % fewer, lest all end at once."""
        most = self._config.max_messages_per_child
        return None if most is None else most - random.randint(0, most // 10)

    # -- periodic messages ---------------------------------------------------------------------

    def _told_periodic(self, worker: WorkerRecord, message: Periodic) -> None:
        """A worker has told the periodic messages of its code.

        Those of code on trial count once that is kept; those of older code not at all any more.
        """
        worker.periodic.extend(message.schedules)
        if worker.code == self._code:
            self._tick(worker)

    def _tick(self, worker: WorkerRecord) -> None:
        """Push from now on the periodic messages that this worker has told."""
        said, worker.periodic = worker.periodic, []
        if not (said or self._schedules):
            return
        from ...later.periodic import Schedule  # now: most pools need none
        from ...later.ticker import Ticker

        wanted = tuple(Schedule(*fields) for fields in said)
        if wanted == self._schedules:
            return
        self._schedules = wanted
        if self._ticking is not None:
            self._ticking.cancel()
        try:
            ticker = Ticker(
                self._client, self.settings.stream, self.settings.consumer.group, wanted
            )
        except RedisStreamError as error:
            self._fail(Failure(_exits.USAGE, str(error)))
            return
        self._ticking = asyncio.ensure_future(ticker.run())
        self._task(self._ticking)

    # -- pausing and cancelling ----------------------------------------------------------------

    def _control_changed(self) -> None:
        """The stream was paused or resumed for some group: tell the workers if it is theirs."""
        settings, mover = self.settings, self.mover
        paused = mover.paused(settings.consumer.group) if mover else None
        if bool(paused) == self.paused:
            return
        self.paused = paused is not None
        if paused:
            self.say_paused()
        else:
            log.info("stream %s goes on for group %s", settings.stream, settings.consumer.group)
        self._tell_whether_to_start()

    def be_quiet(self, quiet: bool) -> None:
        """Start nothing new in this pool (True), or start messages again (False)."""
        self._quiet = quiet
        self._tell_whether_to_start()

    @property
    def _holds_still(self) -> bool:
        return self.paused or self._quiet

    def _tell_whether_to_start(self) -> None:
        self._tell_workers(Pause() if self._holds_still else Resume())
        self.recovery.offers.paused = self._holds_still
        self.recovery.offers.dispatch()
        self.recovery.sweeping.soon()

    def say_paused(self) -> None:
        """Log that the stream is paused."""
        names = self.settings.stream, self.settings.consumer.group
        log.warning("stream %s is paused for group %s: nothing is started", *names)

    def _cancelled(self, entry_id: str) -> None:
        self._tell_workers(Cancel(entry_id))

    def _tell_workers(self, message: Pause | Resume | Cancel) -> None:
        for worker in self._crew.living():
            if worker.channel is not None and worker.consumer:
                worker.channel.send(message)

    def died(self, worker: WorkerRecord, why: str, *, interrupted: bool) -> None:
        """Note which messages a dead worker ran, as long as its row still shows it.

        interrupted: the pool itself has ended the worker, so its messages are given back and this
        delivery does not count.
        """
        if not worker.consumer:
            return
        if worker.busy and not interrupted:
            self.failures.note(DEATH, why, worker.running()[0])
        one_at_a_time = worker.loaded is not None and worker.loaded.one_at_a_time
        suspects = nobody if interrupted else worker.suspects(one_at_a_time=one_at_a_time)
        reading = not interrupted and not worker.busy
        death = Death(worker.consumer, mono_ms(), suspects, why, reading)
        death.own_most = worker.own_most()
        slot = self._crew.slot_of(worker)
        if worker.running()[0] and not interrupted and worker.task_errors:
            slot.confirm(worker.task_errors, 1)
        if worker in slot.lives:  # else another life may have its row by now
            death.unconfirmed, death.confirm = unconfirmed(worker.row), slot.confirm
        self.recovery.died(death)
