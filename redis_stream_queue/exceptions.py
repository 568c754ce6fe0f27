"""Every error this package raises.

    Exception
    └── RedisStreamError
        ├── ConfigError            a setting is wrong (also a ValueError)
        ├── SerializationError     a payload cannot be encoded or decoded (also a TypeError)
        ├── DLQError               a dead letter could not be moved
        ├── ClusterSlotError       stream and dead-letter stream live in different slots
        ├── UnsupportedServer      the server is too old or forbids what we need
        ├── NotDurable             too few replicas have confirmed a push
        ├── BacklogFull            the producer's max_backlog or max_scheduled is reached
        ├── TaskFailed             a task failed for good; Job.result() raises it
        ├── ResultGone             a job has ended, and its result is not kept any more
        ├── TaskUnknown            a worker got a task that its code does not know
        ├── SoftTimeLimitExceeded  raised inside a handler that runs too long
        ├── Cancelled              raised inside a handler whose message was taken back
        ├── Retry                  raised by a handler: deliver this message again
        └── Reject                 raised by a handler: this message is dead

Errors of the connection itself are redis-py's own (``redis.exceptions``).
"""

from __future__ import annotations

import math
from datetime import timedelta
from decimal import Decimal
from numbers import Real
from typing import Any

MOST_DELAY_MS = 366 * 24 * 3600 * 1000

Delay = float | Decimal | Real | timedelta


class RedisStreamError(Exception):
    """Base of all errors of this package."""


class ConfigError(RedisStreamError, ValueError):
    """A setting is wrong; the text names it, what was expected and what came."""


class SerializationError(RedisStreamError, TypeError):
    """A payload could not be encoded or decoded."""


class DLQError(RedisStreamError):
    """A dead letter could not be moved; the message is still pending."""


class ClusterSlotError(RedisStreamError):
    """Two keys that must be changed in one step live in different cluster slots."""


class UnsupportedServer(RedisStreamError):
    """The server is too old, or its ACL forbids a command that we cannot do without."""


class NotDurable(RedisStreamError):
    """Too few replicas have confirmed a push in time. The messages are in the stream of the master,
    and a failover may lose them.

    ids: theirs. confirmed: how many replicas have them all. wanted: how many should.
    """

    def __init__(self, ids: list[str], confirmed: int, wanted: int) -> None:
        shown = ", ".join(ids[:5]) + (", ..." if len(ids) > 5 else "")
        super().__init__(
            f"{confirmed} of {wanted} replicas have confirmed {len(ids)} message(s) in time: "
            f"{shown}. They are in the stream, and a failover may lose them."
        )
        self.ids = ids
        self.confirmed = confirmed
        self.wanted = wanted


class BacklogFull(RedisStreamError):
    """More than ``max_backlog`` messages are unfinished, or ``max_scheduled`` are scheduled."""


class TaskFailed(RedisStreamError):
    """A task failed for good: its call is a dead letter, has expired or was cancelled.

    task, job_id: which one. reason: as of its letter, ``expired`` or ``cancelled``.
    type, text: of the error that it failed with last. traceback: the end of it.
    """

    def __init__(self, task: str, job_id: str, reason: str, error: str) -> None:
        head, _, trace = error.partition("\n")
        super().__init__(f"task {task!r} ({job_id}) failed for good ({reason}): {head}")
        self.task, self.job_id, self.reason, self.traceback = task, job_id, reason, trace
        kind, found, said = head.partition(": ")
        self.type, self.text = (kind, said) if found and kind.isidentifier() else ("", head)


class ResultGone(RedisStreamError):
    """The job has ended, and its result is not there: its time is over, or it never kept one."""


class TaskUnknown(RedisStreamError):
    """The code of this worker has no task of this name; another deploy may have."""


class SoftTimeLimitExceeded(RedisStreamError):
    """The soft time limit passed while the handler ran, or while its payload was decoded."""


class Cancelled(RedisStreamError):
    """The message was taken back while a plain handler ran for it; the pool raises it in there."""


class Retry(RedisStreamError):
    """Raise it in a ``@per_message`` handler to ask for another delivery.

    message: why, as the log shows it.
    delay_ms: wait at least this long: milliseconds as any real number, or a ``timedelta``; at most
        366 days. None = the configured retry delay.
    counted: False = this delivery uses up none of ``max_deliveries`` (waiting for a rate limit).

    Raises ConfigError for a delay that cannot be one.
    """

    def __init__(
        self,
        message: str = "retry requested",
        *,
        delay_ms: Delay | None = None,
        counted: bool = True,
    ) -> None:
        super().__init__(message)
        self.delay_ms = None if delay_ms is None else whole_ms(delay_ms)
        self.counted = counted


class Reject(RedisStreamError):
    """Raise it in a ``@per_message`` handler to send the message to the dead letters at once.

    why: what the dead letter shows as ``last_error``.
    """

    def __init__(self, why: str = "rejected by the handler") -> None:
        super().__init__(why)


def whole_ms(delay: object, name: str = "Retry: delay_ms") -> int:
    """A delay in whole milliseconds, rounded up. Raises ConfigError, with its name, for what is
    none."""
    ms: Any = delay / timedelta(milliseconds=1) if isinstance(delay, timedelta) else delay
    try:
        is_number = isinstance(ms, Real | Decimal) and not isinstance(ms, bool)
        # A number that is none (nan) is neither below nor above, or cannot be compared.
        if is_number and 0 <= ms <= MOST_DELAY_MS:
            return int(math.ceil(ms))  # noqa: RUF046 - Any for mypy
        shown = f"{delay!r:.80}"
    except Exception:  # nor can an integer of 5,000 digits be shown
        shown = f"a {type(delay).__name__}"
    raise ConfigError(
        f"{name} must be a number of milliseconds or a timedelta, from 0 to {MOST_DELAY_MS} (366 "
        f"days), got {shown}."
    )
