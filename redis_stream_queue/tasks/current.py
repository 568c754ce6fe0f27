"""The message that a task runs for, as the task can ask for it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from time import monotonic

from .._clock import mono_ms
from ..delivery.current import handled
from ..delivery.rules import Rules
from ..exceptions import ConfigError
from ..message import StreamMessage


@dataclass(frozen=True, slots=True)
class Running:
    """The message that a task runs for.

    task: its name. id: of the message. delivery: how often it was handed out, this time included.
    headers: what was pushed beside the arguments. started_s: when it was started, by
        time.monotonic().
    limit_s: seconds that it may run; None = any number.
    """

    task: str
    id: str
    delivery: int
    headers: dict[str, str]
    started_s: float
    limit_s: float | None

    @property
    def left_s(self) -> float | None:
        """Seconds until its time limit, the soft one if it has one; None = it has none."""
        if self.limit_s is None:
            return None
        return self.limit_s - (monotonic() - self.started_s)

    @property
    def deadline(self) -> datetime | None:
        """The time of that limit, by this machine's clock in UTC; None = it has none."""
        left_s = self.left_s
        return None if left_s is None else datetime.now(UTC) + timedelta(seconds=left_s)


@contextlib.contextmanager
def apart() -> Iterator[None]:
    """Whatever begins in here has ended behind it."""
    before = handled.get()
    try:
        yield
    finally:
        handled.set(before)


def begin(message: StreamMessage, rules: Rules) -> None:
    """In the context of a call: this is what it runs for; where no pool has noted that."""
    handled.set((message, rules, mono_ms()))


def running() -> tuple[StreamMessage, Rules, int] | None:
    """What the task that calls this runs for, as in ``handled``, if one calls it."""
    found = handled.get()
    return found if isinstance(found, tuple) and found[1].number else None


def current() -> Running:
    """The message that the task which calls this runs for.

    Raises ConfigError if no task runs, for example in a task that is called as a plain function.
    """
    found = running()
    if found is None:
        raise ConfigError(
            "current() is for code that a task runs: no task is running here. (A task that is "
            "called as a function has no message.)"
        )
    message, rules, started_ms = found
    return Running(
        rules.name,
        message.id,
        message.delivery_count,
        dict(message.headers),
        monotonic() - (mono_ms() - started_ms) / 1000,
        rules.soft_time_limit_s or rules.time_limit_s,
    )
