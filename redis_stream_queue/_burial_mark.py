"""The delivery count of a message whose burial has begun.

The delivery count is the only field of a pending entry that can be set. So a burial that has begun
is noted there, for the process that finds the entry next: how often it has begun, its reason, and
the deliveries so far: ``begun * 10**10 + reason * 10**9 + deliveries``. Pure.
"""

from __future__ import annotations

MAX_DELIVERIES = "max_deliveries"
REJECTED = "rejected"
DECODE_ERROR = "decode_error"
TOO_LARGE = "too_large"
EXPIRED = "expired"
UNKNOWN_TASK = "unknown_task"

# Redis has the place of a reason in this list: so new ones come last; there can be ten at most.
REASONS = (MAX_DELIVERIES, REJECTED, DECODE_ERROR, TOO_LARGE, EXPIRED, UNKNOWN_TASK)
MOST_DELIVERIES = 10**9 - 1  # the largest number of deliveries that can be noted
_REASON = 10**9
_BEGUN = 10**10
_MOST_BEGUN = 10**4  # a greater count is no mark: Redis' XNACK FATAL sets 2**63 - 1


def marked(count: int, reason: str) -> int:
    """The count that notes one more beginning of the burial. count: the count so far."""
    begun, earlier, deliveries = read_count(count)
    return (begun + 1) * _BEGUN + REASONS.index(earlier or reason) * _REASON + deliveries


def read_count(count: int) -> tuple[int, str, int]:
    """What a count means: how often a burial began, its reason ("" = none began), deliveries."""
    begun, rest = divmod(count, _BEGUN)
    reason, deliveries = divmod(rest, _REASON)
    if 0 < begun <= _MOST_BEGUN and reason < len(REASONS):
        return begun, REASONS[reason], deliveries
    return 0, "", min(count, MOST_DELIVERIES)


def uncounted(count: int) -> int:
    """The count with one delivery fewer; the count of a burial that has begun stays as it is."""
    return count if count >= _BEGUN else max(count - 1, 0)
