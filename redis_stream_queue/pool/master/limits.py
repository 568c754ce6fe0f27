"""When a worker has to go: pure decisions from its shared row and the limits.

| the worker | and | then |
|---|---|---|
| runs one message | for longer than the hard time limit | TIME_OUT |
| uses memory | more than the limit | RETIRE |
| uses memory | more than twice the limit, and its message took more than the limit | KILL |
| has left, but its threads or processes have not ended | within their time | KILL |
| neither reads nor handles | while the master's own Redis has answered all that time | KILL |
"""

from __future__ import annotations

from enum import Enum
from typing import NamedTuple

POLL_LIMIT_MS = 15_000  # a read lasts a second or two; this is silence
LONG_HANDLER_MS = 600_000  # a message that runs for longer is logged
OWN_AND_HALF = 1.5  # the least limit, as a multiple of the memory that the app takes by itself


class Action(Enum):
    """What is done with a worker."""

    RETIRE = "retire"  # a successor first, then drain
    KILL = "kill"  # at once
    TIME_OUT = "time_out"  # at once; only the message that runs is a suspect


class Limits(NamedTuple):
    """What a worker may use; None = no limit. leave_s: time for its threads after it has left."""

    time_limit_s: float | None = None
    memory_mb: float | None = None
    leave_s: float | None = None


class Vitals(NamedTuple):
    """What is known of a worker now.

    busy: does it handle a batch? message_ms: how long the current message has been running, 0 =
    none. poll_age_ms: time since the last finished read. redis_ok_ms: for how long the master's own
    commands have been answered without a break. memory_mb: resident size, None = not looked at.
    taken_mb: how much of that the running message has taken; 0 for the first batch of a life.
    leaving_ms: for how long it has been waiting for its threads and processes, 0 = it does not.
    """

    busy: bool
    message_ms: int
    poll_age_ms: int
    redis_ok_ms: int
    memory_mb: float | None = None
    taken_mb: float = 0
    leaving_ms: int = 0


def memory_limit_mb(limit_mb: float, own_mb: int) -> float:
    """The limit that holds for an app that takes ``own_mb`` by itself: it is above that."""
    return max(limit_mb, own_mb * OWN_AND_HALF) if own_mb > limit_mb else limit_mb


def judge(vitals: Vitals, limits: Limits) -> tuple[Action, str] | None:
    """What is to be done with a worker, and why; None = nothing."""
    limit_s, limit_mb = limits.time_limit_s, limits.memory_mb
    if vitals.leaving_ms:
        late = limits.leave_s is not None and vitals.leaving_ms > limits.leave_s * 1000
        return (Action.KILL, f"did not end within {limits.leave_s:g} s") if late else None
    if limit_s is not None and vitals.message_ms > limit_s * 1000:
        return Action.TIME_OUT, f"time limit {limit_s:g} s"
    if limit_mb is not None and vitals.memory_mb is not None and vitals.memory_mb > limit_mb:
        used = f"{vitals.memory_mb:.0f} MB in use, limit {limit_mb:.0f} MB"
        if vitals.memory_mb > 2 * limit_mb and vitals.taken_mb > limit_mb:
            return Action.KILL, f"memory limit: {used}"
        return Action.RETIRE, f"memory limit: {used}"
    silent = min(vitals.poll_age_ms, vitals.redis_ok_ms) > POLL_LIMIT_MS
    if silent and not vitals.busy:
        return Action.KILL, f"neither read nor handled anything for {vitals.poll_age_ms} ms"
    return None
