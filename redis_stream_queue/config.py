"""ConsumerConfig: every setting of a consumer, checked at construction."""

from __future__ import annotations

import socket
from dataclasses import dataclass
from typing import TypedDict

from ._burial_mark import MOST_DELIVERIES
from ._names import worker_name
from ._validate import Maybe, Rule, Text, Whole, check_fields
from .delivery.fate import Policy
from .exceptions import ConfigError

_RULES: dict[str, Rule] = {
    "group": Text(),
    **dict.fromkeys(("worker_name", "dlq_stream", "dlq_group", "payload_field"), Maybe(Text())),
    **dict.fromkeys(("batch_size", "max_stream_size"), Whole(1)),
    "max_deliveries": Whole(1, MOST_DELIVERIES),
    **dict.fromkeys(("block_ms", "min_idle_claim_ms"), Whole(0)),
    **dict.fromkeys(("max_claim_passes", "max_payload_bytes", "dlq_max_len"), Maybe(Whole(1))),
    **dict.fromkeys(("retry_delay_ms", "retry_max_delay_ms"), Maybe(Whole(0))),
}


@dataclass
class ConsumerConfig:
    """Settings of a consumer group member; times in milliseconds.

    group: consumer group.
    worker_name: consumer name; None = a new unique one (`<group>_<hostname>_<rand4>`).
    dlq_stream, dlq_group, dlq_max_len: stream for dead letters, a group to create on it, and the
        approximate length it is cut to (None = keep all).
    batch_size: most messages per read or claim.
    block_ms: how long a read waits; 0 = not at all.
    min_idle_claim_ms: idle time after which a message counts as abandoned; 0 = whatever another
        consumer holds is due at once, also what it is just running.
    max_deliveries: deliveries before a message is dead.
    max_stream_size: approximate length the stream is cut to; unfinished messages always stay.
    max_claim_passes: most pages of `batch_size` pending entries that one iteration (`run_once`, a
        round of `run`, of a pool's master) looks at; None = all.
    retry_delay_ms, retry_max_delay_ms: the n-th retry waits `retry_delay_ms * 2**(n-1)` up to the
        maximum, minus up to 25 % jitter; delay None = min_idle_claim_ms, maximum None = no growth.
    max_payload_bytes: a larger payload is a dead letter (`too_large`) before it is decoded; None =
        any size.
    payload_field: entry field with the payload; None = the whole entry as `dict[str, str]`.

    Raises ConfigError naming the field.
    """

    group: str
    worker_name: str | None = None
    dlq_stream: str | None = None
    dlq_group: str | None = None
    batch_size: int = 100
    block_ms: int = 5000
    min_idle_claim_ms: int = 10_000
    max_deliveries: int = 3
    max_stream_size: int = 100_000
    max_claim_passes: int | None = None
    dlq_max_len: int | None = None
    retry_delay_ms: int | None = None
    retry_max_delay_ms: int | None = None
    payload_field: str | None = "data"
    max_payload_bytes: int | None = None

    def __post_init__(self) -> None:
        check_fields(self, _RULES)
        if self.retry_max_delay_ms is not None and self.retry_max_delay_ms < self.first_retry_ms:
            first = "retry_delay_ms"
            if self.retry_delay_ms is None:
                first = "min_idle_claim_ms, the first delay without retry_delay_ms"
            raise ConfigError(
                f"retry_max_delay_ms must be at least {first} ({self.first_retry_ms}), "
                f"got {self.retry_max_delay_ms}."
            )

    def resolved_worker_name(self) -> str:
        """``worker_name``, or a newly drawn one."""
        return self.worker_name or worker_name(self.group, socket.gethostname())

    @property
    def first_retry_ms(self) -> int:
        """Delay before the first retry, in ms."""
        return self.min_idle_claim_ms if self.retry_delay_ms is None else self.retry_delay_ms

    @property
    def policy(self) -> Policy:
        """The limits that fate() needs."""
        return Policy(self.group, self.min_idle_claim_ms, self.max_deliveries)


class SettingsOfTasks(TypedDict, total=False):
    """Fields of ConsumerConfig that a Queue takes beside its group; see there."""

    worker_name: str | None
    dlq_stream: str | None
    dlq_group: str | None
    batch_size: int
    block_ms: int
    min_idle_claim_ms: int
    max_deliveries: int
    max_stream_size: int
    max_claim_passes: int | None
    dlq_max_len: int | None
    retry_delay_ms: int | None
    retry_max_delay_ms: int | None
    max_payload_bytes: int | None


class Settings(SettingsOfTasks, total=False):
    """All fields of ConsumerConfig, none of them required."""

    group: str
    payload_field: str | None


def check_config(config: object) -> None:
    """Raise ConfigError for what is no ConsumerConfig, and for wrong fields of one."""
    if not isinstance(config, ConsumerConfig):
        raise ConfigError(
            f"config must be a ConsumerConfig, got {config!r:.80}. It holds the group and all "
            "settings: StreamConsumer(client, 'orders', ConsumerConfig(group='workers'), handler)."
        )
    config.__post_init__()  # for what was assigned since it was made
