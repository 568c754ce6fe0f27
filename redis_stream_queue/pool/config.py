"""PoolConfig: what the command line says; Settings: that and what the handler declares."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from .._loading import TARGET
from .._names import default_dlq
from ..config import ConsumerConfig
from ..connection.endpoint import DEFAULT_URL
from ..exceptions import ConfigError
from ._linux import cpu_limit
from .protocol import Loaded
from .scoreboard import MAX_SLOTS

COMMAND_TIMEOUT_S = 1.2  # where the URL sets no socket_timeout: a dead connection is left behind
RETRY_DELAY_MS = 1000
RETRY_MAX_DELAY_MS = 60_000


def default_workers() -> int:
    """One worker per core that this process may use, a CPU limit of its container included."""
    cores = len(os.sched_getaffinity(0)) or 1
    limit = cpu_limit()
    return cores if limit is None else max(min(cores, math.ceil(limit)), 1)


@dataclass(frozen=True, kw_only=True)
class PoolConfig:
    """Settings of a pool; None = as the handler declares it, or the default.

    target: ``module:function``.
    workers: processes; by default one per core.
    url: where Redis is.
    stream, group, dlq_stream, prefix: names in Redis, as for ``rsq-pool``.
    serializer: ``json``, ``msgpack``, ``pickle`` or ``module:object``.
    batch_size: None = adaptive.
    max_deliveries, min_idle_claim_ms: as in ConsumerConfig.
    retry_delay_ms, retry_max_delay_ms: as in ConsumerConfig, but by default 1,000 up to 60,000.
    time_limit_s: the worker is killed and its message counts a delivery; soft_time_limit_s:
        SoftTimeLimitExceeded is raised in the handler. Seconds for one message, or for one call of
        a batch handler.
    max_messages_per_child, max_memory_per_child_mb: the worker is replaced between two batches.
    max_payload_bytes: a larger payload is a dead letter before it is decoded.
    graceful_timeout_s, connect_timeout_s: seconds that running messages have to finish after
        SIGTERM, and to wait for Redis at start.
    burst: handle all there is, then end.
    heartbeat: write down what runs, for ``rsq running``.
    log_level, log_format: ``debug`` to ``error``; ``text`` or ``json``.

    Raises ConfigError naming the option.
    """

    target: str
    workers: int = field(default_factory=default_workers)
    url: str = field(default=DEFAULT_URL, repr=False)  # it may hold a password
    stream: str | None = None
    group: str | None = None
    dlq_stream: str | None = None
    prefix: str = ""
    serializer: str | None = None
    batch_size: int | None = None
    max_deliveries: int | None = None
    min_idle_claim_ms: int | None = None
    retry_delay_ms: int | None = None
    retry_max_delay_ms: int | None = None
    time_limit_s: float | None = None
    soft_time_limit_s: float | None = None
    max_messages_per_child: int | None = None
    max_memory_per_child_mb: int | None = None
    max_payload_bytes: int | None = None
    graceful_timeout_s: float = 30.0
    connect_timeout_s: float = 10.0
    burst: bool = False
    heartbeat: bool = True
    log_level: str = "info"
    log_format: str = "text"

    def __post_init__(self) -> None:
        if not TARGET.match(self.target):
            raise ConfigError(
                f"the target must be module:function, as in app:handler, got {self.target!r}."
            )
        known = (None, "json", "msgpack", "pickle")
        if self.serializer not in known and not TARGET.match(self.serializer or ""):
            raise ConfigError(
                "serializer must be json, msgpack, pickle or module:object, "
                f"got {self.serializer!r}."
            )
        if not 1 <= self.workers <= MAX_SLOTS:
            raise ConfigError(f"workers must be 1 to {MAX_SLOTS}, got {self.workers}.")
        for name in ("time_limit_s", "soft_time_limit_s"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise ConfigError(f"{name} must be above 0 seconds, got {value}.")
        soft, hard = self.soft_time_limit_s, self.time_limit_s
        if soft is not None and hard is not None and soft >= hard:
            raise ConfigError(
                f"soft_time_limit_s ({soft:g}) must be below time_limit_s ({hard:g}), or the "
                "handler would be killed before it is asked."
            )
        for name in ("max_messages_per_child", "max_memory_per_child_mb", "max_payload_bytes"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ConfigError(f"{name} must be 1 or more, got {value}.")
        for name in ("graceful_timeout_s", "connect_timeout_s"):
            if not getattr(self, name) >= 0:
                raise ConfigError(f"{name} must be 0 or more, got {getattr(self, name)}.")


class Settings(NamedTuple):
    """Everything a pool runs by, once the handler is known.

    batch_size: None = adaptive.
    """

    stream: str
    consumer: ConsumerConfig
    batch_size: int | None
    dlq_handler: bool
    one_at_a_time: bool


def resolve(config: PoolConfig, loaded: Loaded, *, cluster: bool) -> Settings:
    """The command line over the decorator over the defaults; what is declared as None is None.

    Raises ConfigError, for example when nobody names a stream.
    """
    stream = config.stream or loaded.stream
    if not stream:
        raise ConfigError(
            f"no stream: pass --stream NAME, or decorate {config.target} with "
            '@stream_handler("NAME").'
        )
    given: dict[str, Any] = {
        "retry_delay_ms": RETRY_DELAY_MS,
        "group": f"{stream}_workers",
        "dlq_stream": default_dlq(stream, config.prefix, cluster=cluster),
        **loaded.settings,
    }
    for name in (
        "group",
        "dlq_stream",
        "batch_size",
        "max_deliveries",
        "min_idle_claim_ms",
        "retry_delay_ms",
        "retry_max_delay_ms",
        "max_payload_bytes",
    ):
        value = getattr(config, name)
        if value is not None:
            given[name] = value
    given.pop("worker_name", None)  # every worker life has a name of its own
    if config.retry_max_delay_ms is None:
        longest_ms = loaded.settings.get("retry_max_delay_ms", RETRY_MAX_DELAY_MS)
        first_ms = ConsumerConfig(**{**given, "retry_max_delay_ms": None}).first_retry_ms
        given["retry_max_delay_ms"] = None if longest_ms is None else max(longest_ms, first_ms)
    if given["dlq_stream"] == stream:
        raise ConfigError(f"the dead-letter stream must not be the stream itself ({stream!r}).")
    return Settings(
        stream=stream,
        consumer=ConsumerConfig(**given),
        batch_size=given.get("batch_size"),
        dlq_handler=loaded.dlq_handler,
        one_at_a_time=loaded.one_at_a_time,
    )
