"""How long a push may take."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from math import inf
from typing import Any

from .._validate import Maybe, Number, check

_SECONDS = Maybe(Number(-inf, unit="seconds"), "no limit")
LONGEST_S = 20 * 24 * 3600.0  # a socket's timeout must fit into 2**31 ms


def limit_s(timeout_s: float | None) -> float | None:
    """A push's ``timeout_s``, as long as a socket can wait at most.

    Raises ConfigError for what is no number: NaN would upset the order of the loop's timers.
    """
    if timeout_s is None:
        return None
    check("timeout_s", timeout_s, _SECONDS)
    return min(timeout_s, LONGEST_S)


async def within(timeout_s: float | None, stream: str, send: Coroutine[Any, Any, Any]) -> Any:
    """Wait for a push, so long at most. Raises TimeoutError."""
    if timeout_s is None:
        return await send
    try:
        async with asyncio.timeout(timeout_s):
            return await send
    except TimeoutError:
        raise late(timeout_s, stream) from None


def late(timeout_s: float, stream: str) -> TimeoutError:
    """What to raise of a push that took longer."""
    return TimeoutError(
        f"the push to {stream!r} was not confirmed within {timeout_s:g} s: the message "
        "may or may not be in the stream"
    )
