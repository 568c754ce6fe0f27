"""Ids of scheduled messages, and when they are due. Pure."""

from __future__ import annotations

from datetime import UTC, datetime

from .._validate import Form, Moment, check
from ..exceptions import ConfigError, Delay, whole_ms

_SCHEDULED = Form(
    r"@[0-9]{13}-[0-9]{12}",
    "the id of a scheduled message, as in '@1767225660000-000000000042'",
)
MOST_DUE_MS = 9_999_999_999_999  # what fits into an id: the year 2286


def is_scheduled(message_id: object) -> bool:
    """Is this the id of a scheduled message, ``@<due ms>-<number>``?"""
    return _SCHEDULED.fits(message_id)


def due_ms(scheduled_id: str) -> int:
    """When a scheduled message is due, in ms since the epoch. Raises ConfigError for another id."""
    check("id", scheduled_id, _SCHEDULED)
    return int(scheduled_id[1:14])


def as_datetime(ms: float) -> datetime:
    """Milliseconds since the epoch as a datetime in UTC."""
    return datetime.fromtimestamp(ms / 1000, UTC)


def when(delay_ms: Delay | None, at: datetime | None) -> str:
    """When to add a message, as scripts read it: ``""`` = now, ``+<ms from now>``, ``=<epoch ms>``.

    Raises ConfigError for a wrong delay or date, also for a date without a time zone or one beyond
    the year 2286.
    """
    if at is None:
        if delay_ms is None:
            return ""
        ms = whole_ms(delay_ms, "delay_ms")
        return f"+{ms}" if ms else ""
    if delay_ms is not None:
        raise ConfigError("delay_ms and at say both when: give one of them.")
    check("at", at, Moment())
    if (due := epoch_ms(at)) > MOST_DUE_MS:
        raise ConfigError(f"at must be before 2286-11-20T17:46:40Z, not {at.isoformat()}.")
    return f"={max(due, 0)}"


def epoch_ms(at: datetime) -> int:
    """A datetime with a zone in ms since the epoch, rounded up."""
    since = at - datetime(1970, 1, 1, tzinfo=UTC)
    return (since.days * 86_400 + since.seconds) * 1000 - (-since.microseconds // 1000)
