"""What a task can ask about the message that it runs for."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from contextvars import ContextVar
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from time import monotonic
from typing import Any

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
        """When that is, by this machine's clock in UTC."""
        left_s = self.left_s
        return None if left_s is None else datetime.now(UTC) + timedelta(seconds=left_s)


_running: ContextVar[tuple[StreamMessage, Any, float] | None] = ContextVar(
    "rsq_running", default=None
)


@contextlib.contextmanager
def apart() -> Iterator[None]:
    """Whatever begins in here has ended behind it."""
    before = _running.get()
    try:
        yield
    finally:
        _running.set(before)


def begin(message: StreamMessage, task: Any) -> None:
    """In the context of a call: this is what it runs for, from now on."""
    _running.set((message, task, monotonic()))


def running_in(stream: Any) -> str:
    """Name of the task that calls this, if it is one whose calls go to this TaskStream; else ""."""
    found = _running.get()
    return found[1].name if found is not None and found[1].goes_to(stream) else ""


def current() -> Running:
    """The message that the task which calls this runs for.

    Raises ConfigError where no task runs (one that is called as a plain function, say).
    """
    found = _running.get()
    if found is None:
        raise ConfigError(
            "current() is for code that a task runs: no task is running here. (A task that is "
            "called as a function has no message.)"
        )
    message, task, started_s = found
    rules = task.rules
    limit_s = rules.soft_time_limit_s or rules.time_limit_s
    return Running(
        rules.name, message.id, message.delivery_count, dict(message.headers), started_s, limit_s
    )
