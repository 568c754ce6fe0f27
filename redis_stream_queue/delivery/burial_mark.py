"""The delivery count of a message whose burial has begun.

The delivery count is the only field of a pending entry that can be set, so a burial that has begun
is noted there, for whoever finds the entry next: how often, why, and the deliveries so far:
``begun * 10**10 + reason * 10**9 + deliveries``. Pure.
"""

from __future__ import annotations

MAX_DELIVERIES = "max_deliveries"
REJECTED = "rejected"
DECODE_ERROR = "decode_error"
TOO_LARGE = "too_large"
EXPIRED = "expired"
UNKNOWN_TASK = "unknown_task"

# Their order is part of what stands in Redis: new ones come last, ten at most.
REASONS = (MAX_DELIVERIES, REJECTED, DECODE_ERROR, TOO_LARGE, EXPIRED, UNKNOWN_TASK)
MOST_DELIVERIES = 10**9 - 1  # that can be told apart from the rest
_REASON = 10**9
_BEGUN = 10**10
_MOST_BEGUN = 10**4  # a greater count is no mark: Redis' XNACK FATAL sets 2**63 - 1


def marked(count: int, reason: str) -> int:
    """The count that says so, once more, of a message with this count so far."""
    begun, earlier, deliveries = read_count(count)
    return (begun + 1) * _BEGUN + REASONS.index(earlier or reason) * _REASON + deliveries


def read_count(count: int) -> tuple[int, str, int]:
    """How often its burial has begun, why ("" if it has not), how often it was delivered."""
    begun, rest = divmod(count, _BEGUN)
    reason, deliveries = divmod(rest, _REASON)
    if 0 < begun <= _MOST_BEGUN and reason < len(REASONS):
        return begun, REASONS[reason], deliveries
    return 0, "", min(count, MOST_DELIVERIES)


def uncounted(count: int) -> int:
    """One delivery less; what is marked stays so."""
    return count if count >= _BEGUN else max(count - 1, 0)
