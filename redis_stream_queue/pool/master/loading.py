"""Notes what workers tell of the app: that they have loaded it, or why they could not."""

from __future__ import annotations

from collections.abc import Callable

from ... import _exits
from ..._exits import Failure
from ..._log import logger
from ..._pool_config import PoolConfig
from ..protocol import Loaded, LoadFailed
from .limits import memory_limit_mb
from .slots import Crew, WorkerRecord
from .supervisor import Supervisor

log = logger(__name__)


class Loading:
    """Notes what the workers of a crew tell of the app. fail: ends the pool."""

    def __init__(
        self,
        config: PoolConfig,
        crew: Crew,
        supervisor: Supervisor,
        fail: Callable[[BaseException], None],
    ) -> None:
        self._config = config
        self._crew = crew
        self._supervisor = supervisor
        self._fail = fail
        self._error = ""
        self._limit_too_small = self._said_name = False

    def loaded(self, worker: WorkerRecord, message: Loaded) -> None:
        """A worker has loaded the app."""
        worker.loaded = message
        worker.own_mb = message.memory_mb
        worker.tasks = message.tasks
        worker.labels = [self._crew.labels.of(name) for name in message.tasks]
        self._check_memory_limit(message.memory_mb)
        self._supervisor.introduced(worker, message.pid)
        if message.settings.get("worker_name") is not None and not self._said_name:
            self._said_name = True
            log.warning(
                "worker_name is left out: in a pool each life of a worker has a name of its own"
            )

    def ready(self) -> None:
        """A worker reads, so that the next error is logged even if it is the same as the last."""
        self._error = ""

    def _check_memory_limit(self, own_mb: int) -> None:
        limit_mb = self._config.max_memory_per_child_mb
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

    def failed(self, worker: WorkerRecord, message: LoadFailed) -> None:
        """A worker cannot load the app: that ends the pool, unless workers could load it before."""
        text = f"cannot load {message.what!r}: {message.error}"
        worker.told_to_go = True
        worker.refused = text
        if self._crew.ever_ready:
            if text != self._error:  # each start is tried again and again: log an error once
                self._error = text
                log.error("slot=%d %s", worker.slot, text)
        else:
            self._fail(Failure(_exits.LOAD_FAILED, text))
