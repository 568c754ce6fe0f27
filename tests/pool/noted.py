"""What the tasks of a pool have noted in its output, and what became dead letters."""

from __future__ import annotations

from collections import Counter
from typing import Any

import redis

from tests.support.pool import PoolProcess


def letters(url: str) -> dict[str, tuple[str, str, str]]:
    """Reason, deliveries and last error of each, by the name of its task."""
    with redis.Redis.from_url(url, decode_responses=True) as server:
        found: Any = server.xrange("work_dlq")
    fields = "reason", "delivery_count", "last_error"
    return {entry["rsq:task"]: tuple(entry[name] for name in fields) for _, entry in found}


def noted(pool: PoolProcess) -> list[list[str]]:
    """What its tasks have noted; the last line may not be whole yet."""
    whole = pool.stdout.rpartition("\n")[0]
    return [line.split()[1:] for line in whole.splitlines() if line.startswith("did ")]


def did(pool: PoolProcess) -> Counter[str]:
    return Counter(words[0] for words in noted(pool))
