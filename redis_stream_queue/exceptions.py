"""Every error this package raises.

    Exception
    └── RedisStreamError
        ├── ConfigError            a setting is wrong (also a ValueError)
        ├── SerializationError     a payload cannot be encoded or decoded (also a TypeError)
        ├── DLQError               a dead letter could not be moved
        ├── ClusterSlotError       stream and dead-letter stream live in different slots
        ├── UnsupportedServer      the server is too old or forbids what we need
        ├── BacklogFull            the producer's max_backlog is reached
        ├── SoftTimeLimitExceeded  raised inside a handler that runs too long
        ├── Retry                  raised by a handler: deliver this message again
        └── Reject                 raised by a handler: this message is dead

Errors of the connection itself are redis-py's own (``redis.exceptions``).
"""

from __future__ import annotations


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


class BacklogFull(RedisStreamError):
    """More than ``max_backlog`` messages of the stream are unfinished."""


class SoftTimeLimitExceeded(RedisStreamError):
    """The soft time limit passed while the handler ran."""


class Retry(RedisStreamError):
    """Raise it in a ``@per_message`` handler to ask for another delivery.

    delay_ms: wait at least this long, in milliseconds; None = the configured retry delay.
    """

    def __init__(self, message: str = "retry requested", *, delay_ms: int | None = None) -> None:
        if delay_ms is not None and delay_ms < 0:
            raise ConfigError(f"Retry: delay_ms must be 0 or more, got {delay_ms!r}.")
        super().__init__(message)
        self.delay_ms = delay_ms


class Reject(RedisStreamError):
    """Raise it in a ``@per_message`` handler to send the message to the dead letters at once."""

    def __init__(self, why: str = "rejected by the handler") -> None:
        super().__init__(why)
