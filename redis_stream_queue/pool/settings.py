"""Settings: what holds in a pool, out of its options and what its handler declares."""

from __future__ import annotations

from typing import Any, NamedTuple

from .._names import default_dlq
from .._pool_config import RETRY_DELAY_MS, RETRY_MAX_DELAY_MS, PoolConfig
from ..config import ConsumerConfig
from ..delivery.fate import Policy
from ..exceptions import ConfigError
from .protocol import Loaded

COMMAND_TIMEOUT_S = 1.2  # socket_timeout where the URL sets none; after it a connection is dead


class Settings(NamedTuple):
    """All settings of a pool, once the handler is known.

    batch_size: None = adaptive. dlq_handler: does the handler declare one? policy: for recovery; it
    permits as many deliveries as the task that has the most. limited: is there a time limit, of the
    pool or of a task?
    """

    stream: str
    consumer: ConsumerConfig
    batch_size: int | None
    dlq_handler: bool
    policy: Policy
    limited: bool


def resolve(config: PoolConfig, loaded: Loaded, *, cluster: bool) -> Settings:
    """The settings of a pool: an option wins over the decorator, the decorator over the defaults.

    A None in the decorator is a value, too. Raises ConfigError for settings that do not go
    together, for example when nobody names a stream.
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
    consumer = ConsumerConfig(**given)
    most = max(consumer.max_deliveries, loaded.most_deliveries)
    return Settings(
        stream=stream,
        consumer=consumer,
        batch_size=given.get("batch_size"),
        dlq_handler=loaded.dlq_handler,
        policy=consumer.policy._replace(max_deliveries=most),
        limited=config.time_limit_s is not None or loaded.limited,
    )
