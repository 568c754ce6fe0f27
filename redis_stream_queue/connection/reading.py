"""XREADGROUP: the command, how long its reply may take, and the entries in it. Pure."""

from __future__ import annotations

from typing import Any

READ_MARGIN_S = 5.0  # how much longer than block_ms a healthy server may take to answer


def read_command(key: str, group: str, consumer: str, count: int, block_ms: int) -> tuple[Any, ...]:
    """XREADGROUP for new entries. Redis takes BLOCK 0 as 'for ever', so 0 leaves it out."""
    block = ("BLOCK", block_ms) if block_ms > 0 else ()
    return ("XREADGROUP", "GROUP", group, consumer, "COUNT", count, *block, "STREAMS", key, ">")


# 1 = the consumer was not there, 0 = it was; an error = that cannot be told; None = not asked
Made = int | Exception | None


def make_name_command(key: str, group: str, consumer: str) -> tuple[Any, ...]:
    """XGROUP CREATECONSUMER, to go just before a read: that would create a consumer that is not
    there without a word. The reply is Made."""
    return ("XGROUP", "CREATECONSUMER", key, group, consumer)


def read_timeout_s(socket_timeout: float | None, block_ms: int) -> float | None:
    """How long to wait for the reply of a blocking read before the connection counts as dead."""
    if socket_timeout is None:
        return None
    return block_ms / 1000 + min(socket_timeout, READ_MARGIN_S)


def read_entries(reply: Any) -> list[Any]:
    """Entries ``[id, fields]`` of a reply to XREADGROUP or XREAD of one stream; nil = none."""
    return list(reply[0][1]) if reply else []
