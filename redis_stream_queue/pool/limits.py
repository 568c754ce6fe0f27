"""When a worker has to go: pure decisions from its shared row and the limits.

| the worker | and | then |
|---|---|---|
| runs one message | for longer than the hard time limit | KILL |
| uses memory | more than twice the limit | KILL |
| uses memory | more than the limit | RETIRE |
| neither reads nor handles | while the master's own Redis has answered all that time | KILL |
"""

from __future__ import annotations

from enum import Enum
from typing import NamedTuple

POLL_LIMIT_MS = 15_000  # a read lasts a second or two; this is silence
LONG_HANDLER_MS = 600_000  # named in the log


class Action(Enum):
    RETIRE = "retire"  # a successor first, then drain
    KILL = "kill"  # at once


class Limits(NamedTuple):
    """What a worker may use; None = no limit."""

    time_limit_s: float | None = None
    memory_mb: int | None = None


class Vitals(NamedTuple):
    """What is known of a worker now. Times in ms.

    message_ms: how long the current message has been running, 0 = none.
    poll_age_ms: since the last finished read. memory_mb: resident size, None = not looked at.
    redis_ok_ms: for how long the master's own commands have been answered without a break.
    """

    busy: bool
    message_ms: int
    poll_age_ms: int
    redis_ok_ms: int
    memory_mb: float | None = None


def judge(vitals: Vitals, limits: Limits) -> tuple[Action, str] | None:
    """What has to be done with a worker, and why; None = nothing."""
    limit_s, limit_mb = limits.time_limit_s, limits.memory_mb
    if limit_s is not None and vitals.message_ms > limit_s * 1000:
        return Action.KILL, f"time limit {limit_s:g} s"
    if limit_mb is not None and vitals.memory_mb is not None and vitals.memory_mb > limit_mb:
        used = f"{vitals.memory_mb:.0f} MB in use, limit {limit_mb} MB"
        if vitals.memory_mb > 2 * limit_mb:
            return Action.KILL, f"memory limit: {used}"
        return Action.RETIRE, f"memory limit: {used}"
    silent = min(vitals.poll_age_ms, vitals.redis_ok_ms) > POLL_LIMIT_MS
    if silent and not vitals.busy:
        return Action.KILL, f"neither read nor handled anything for {vitals.poll_age_ms} ms"
    return None
