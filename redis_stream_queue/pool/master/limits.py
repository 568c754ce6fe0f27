"""When a worker has to go: pure decisions from its shared row and the limits.

| the worker | and | then |
|---|---|---|
| runs one message | for longer than the hard time limit | TIME_OUT |
| uses memory | more than the limit | RETIRE |
| uses memory | more than twice the limit, more than one of it taken by what runs | KILL |
| has left, but its threads or processes have not ended | within the time they have | KILL |
| neither reads nor handles | while the master's own Redis has answered all that time | KILL |
"""

from __future__ import annotations

from enum import Enum
from typing import NamedTuple

POLL_LIMIT_MS = 15_000  # a read lasts a second or two; this is silence
LONG_HANDLER_MS = 600_000  # named in the log
OWN_AND_HALF = 1.5


class Action(Enum):
    RETIRE = "retire"  # a successor first, then drain
    KILL = "kill"  # at once
    TIME_OUT = "time_out"  # the same, and nothing but the message that runs is to blame


class Limits(NamedTuple):
    """What a worker may use; None = no limit. leave_s: for its threads when it leaves."""

    time_limit_s: float | None = None
    memory_mb: float | None = None
    leave_s: float | None = None


class Vitals(NamedTuple):
    """What is known of a worker now. Times in ms.

    message_ms: how long the current message has been running, 0 = none.
    poll_age_ms: since the last finished read. memory_mb: resident size, None = not looked at.
    taken_mb: how much of that the running message has taken; what the first batch of a life takes
    may be the app's own.
    redis_ok_ms: for how long the master's own commands have been answered without a break.
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
    """The limit to go by where the app takes ``own_mb`` by itself: less cannot be kept."""
    return max(limit_mb, own_mb * OWN_AND_HALF) if own_mb > limit_mb else limit_mb


def judge(vitals: Vitals, limits: Limits) -> tuple[Action, str] | None:
    """What has to be done with a worker, and why; None = nothing."""
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
