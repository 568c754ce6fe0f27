"""Pool: a master and its workers, run by the calling process."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Coroutine
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from .. import _exits
from .._exits import Failure
from .._log import logger
from .._pool_config import PoolConfig
from ..client import StreamClient
from . import logs, signals, standard_streams
from .master.slots import Crew
from .master.spawner import Spawner
from .master.supervisor import Supervisor
from .master.systemd import notify
from .metrics import PoolMetrics
from .protocol import WorkerSpec
from .scoreboard import Scoreboard
from .settings import COMMAND_TIMEOUT_S

log = logger(__name__)

if TYPE_CHECKING:
    from .master.master import Master


class Pool:
    """Run a handler in N worker processes; the library's way to do what ``rsq-pool`` does.

    >>> Pool(PoolConfig(target="app:handler", workers=4)).run()

    config: the settings of the pool.

    Linux only. Call ``run()`` in the main thread of a process of its own: the pool handles signals
    and waits for all child processes.
    """

    def __init__(self, config: PoolConfig) -> None:
        self.config = config
        self._master: Master | None = None

    def run(self) -> int:
        """Run until drained (SIGTERM), or until all is handled (burst); returns the exit code.

        What prevents the start is logged as one sentence and becomes an exit code.
        """
        standard_streams.open_those_closed()
        logs.set_up(self.config.log_level, self.config.log_format, "master")
        config = self.config
        if config.url.startswith("embedded://"):
            from ..embedded.server import start_or_join

            server = start_or_join(config.url.removeprefix("embedded://") or None)
            config = replace(config, url=server.url)
        client = StreamClient.from_url(
            config.url, prefix=config.prefix, socket_timeout=COMMAND_TIMEOUT_S
        )
        with contextlib.ExitStack() as stack:
            stack.callback(signals.forget_ends)
            try:
                crews = [
                    (each, Crew(_spec(each), Scoreboard(), each.workers)) for each in config.crews()
                ]
                spawner = stack.enter_context(contextlib.closing(Spawner()))
                spawner.start_before_loop()
            except OSError as error:
                log.error("cannot start: %s", error)
                return _exits.FAILURE
            return self._run(self._serve(config, client, crews, spawner))

    async def _serve(
        self,
        config: PoolConfig,
        client: StreamClient,
        crews: list[tuple[PoolConfig, Crew]],
        spawner: Spawner,
    ) -> int:
        supervisor = Supervisor([crew for _, crew in crews], spawner)
        with signals.held():  # there are workers to be ended from now on
            supervisor.start()
            from .master.master import Master  # now: the workers load the app meanwhile

            self._master = Master(config, client, crews, supervisor, spawner)
            self._master.listen()
        return await self._master.run()

    def _run(self, serving: Coroutine[Any, Any, int]) -> int:
        try:
            return asyncio.run(serving)
        except Failure as failure:
            log.error("%s", failure)
            notify("STOPPING=1", f"STATUS={failure}")
            return failure.code
        except Exception:  # a defect of ours: say what it was, and let the service manager decide
            log.exception("the pool failed")
            return _exits.FAILURE

    def drain(self) -> None:
        """Finish the messages that run, then end ``run()``; call this in the pool's event loop."""
        if self._master is not None:
            self._master.drain(_exits.OK)

    def metrics(self) -> PoolMetrics:
        """The totals of the pool so far; all 0 before ``run()``."""
        return self._master.metrics() if self._master is not None else PoolMetrics()


def _spec(config: PoolConfig) -> WorkerSpec:
    """What a worker of this target is told at its fork."""
    return WorkerSpec(
        str(config.target),
        config.serializer,
        config.log_level,
        config.log_format,
        config.graceful_timeout_s,
        preload=config.preload,
    )
