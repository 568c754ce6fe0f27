"""How long a failed message waits before it is delivered again. Pure."""

from __future__ import annotations

JITTER = 0.25
MAX_EXPONENT = 40


def retry_delay_ms(failures: int, first_ms: int, max_ms: int | None, random_share: float) -> int:
    """Delay before the next delivery, in ms.

    failures: deliveries so far (1 = the first just failed).
    max_ms: ceiling of the exponential growth; None = no growth.
    random_share: 0.0 to 1.0, how much of the 25 % jitter is taken off.
    """
    delay_ms = first_ms
    if max_ms is not None:
        delay_ms = min(first_ms << min(max(failures - 1, 0), MAX_EXPONENT), max_ms)
    return int(delay_ms * (1 - JITTER * random_share))
