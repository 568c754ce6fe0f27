"""Rules: settings of one message (of its task) that differ from those of its group. Pure."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from .._burial_mark import MAX_DELIVERIES
from ..message import StreamMessage

Errors = tuple[type[BaseException], ...]


@dataclass(frozen=True)
class Rules:
    """Settings of one message, known before it runs; None = the setting of its group holds.

    name: of the task that it calls; number: of that task in its handler, from 1 on; "" and 0 = no
    task.
    max_deliveries, retry_delay_ms, retry_max_delay_ms: as in ConsumerConfig. retry_on: only these
    errors are tried again; no_retry_on: these are not.
    time_limit_s, soft_time_limit_s: seconds that it may run.
    alone: nothing runs beside it, so a death of its worker is its own.
    dead_for: the reason of its letter once its deliveries are used up.
    """

    name: str = ""
    number: int = 0
    max_deliveries: int | None = None
    retry_delay_ms: int | None = None
    retry_max_delay_ms: int | None = None
    retry_on: Errors = (BaseException,)
    no_retry_on: Errors = ()
    time_limit_s: float | None = None
    soft_time_limit_s: float | None = None
    alone: bool = False
    dead_for: str = MAX_DELIVERIES

    def most(self, group_most: int) -> int:
        """How often the message may be delivered. group_most: the setting of its group."""
        return self.max_deliveries or group_most

    def delays(self, first_ms: int, longest_ms: int | None) -> tuple[int, int | None]:
        """The first delay before a retry and the longest one (None = no growth), where its group
        has these."""
        first_ms = first_ms if self.retry_delay_ms is None else self.retry_delay_ms
        longest_ms = longest_ms if self.retry_max_delay_ms is None else self.retry_max_delay_ms
        return first_ms, None if longest_ms is None else max(longest_ms, first_ms)

    def retries(self, error: BaseException) -> bool:
        """Is a message that failed with it tried again?"""
        return isinstance(error, self.retry_on) and not isinstance(error, self.no_retry_on)


AS_CONFIGURED = Rules()
RulesOf = Callable[[StreamMessage], Rules]


def as_configured(_: StreamMessage) -> Rules:
    """The rules of a handler whose messages have no settings of their own."""
    return AS_CONFIGURED
