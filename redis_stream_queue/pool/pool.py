"""Pool: a master and its workers, run by the calling process."""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import replace
from typing import TYPE_CHECKING

from .. import _exits
from .._exits import Failure
from .._log import logger
from .._pool_config import PoolConfig
from . import logs, standard_streams
from .master.spawner import Spawner
from .master.systemd import notify
from .metrics import PoolMetrics
from .scoreboard import Scoreboard

log = logger(__name__)

if TYPE_CHECKING:
    from .master.master import Master


class Pool:
    """Run a handler in N worker processes; the library's way to do what ``rsq-pool`` does.

    >>> Pool(PoolConfig(target="app:handler", workers=4)).run()

    config: its settings.

    Linux only. Call it in the main thread of a process of its own: it handles signals and waits
    for all child processes.
    """

    def __init__(self, config: PoolConfig) -> None:
        self.config = config
        self._master: Master | None = None

    def run(self) -> int:
        """Run until drained (SIGTERM), or until all is handled (burst); returns the exit code."""
        standard_streams.open_those_closed()
        logs.set_up(self.config.log_level, self.config.log_format, "master")
        config = self.config
        if config.url.startswith("embedded://"):
            from ..embedded.server import start_or_join

            server = start_or_join(config.url.removeprefix("embedded://") or None)
            config = replace(config, url=server.url)
        with contextlib.ExitStack() as stack:
            try:
                crews = [(crew, Scoreboard()) for crew in config.crews()]
                spawner = stack.enter_context(contextlib.closing(Spawner()))
                spawner.start_before_loop()
            except OSError as error:
                log.error("cannot start: %s", error)
                return _exits.FAILURE
            from .master.master import Master  # now: workers need none of it, and start meanwhile

            self._master = Master(config, crews, spawner)
            return self._run(self._master)

    def _run(self, master: Master) -> int:
        try:
            return asyncio.run(master.run())
        except Failure as failure:
            log.error("%s", failure)
            notify("STOPPING=1", f"STATUS={failure}")
            return failure.code
        except Exception:  # a defect of ours: say what it was, and let the service manager decide
            log.exception("the pool failed")
            return _exits.FAILURE

    def drain(self) -> None:
        """Finish what runs, then end ``run()``; call it in the pool's own loop."""
        if self._master is not None:
            self._master.drain(_exits.OK)

    def metrics(self) -> PoolMetrics:
        """What the pool has done so far."""
        return self._master.metrics() if self._master is not None else PoolMetrics()
