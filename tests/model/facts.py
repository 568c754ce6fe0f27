"""Redis in one look: stream, groups, pending lists, dead letters, what is for later."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import redis

from redis_stream_queue.later.keys import companions
from redis_stream_queue.message import id_key

from .ages import rewind

STREAM, GROUP, SLOW, DLQ = "orders", "workers", "slow", "orders_dlq"
BESIDE = companions(STREAM)
REWIND = rewind(STREAM, GROUP, SLOW)


@dataclass
class Pending:
    consumer: str
    idle_ms: int
    count: int


@dataclass
class Facts:
    """Redis as it is now."""

    stream: dict[str, str]  # id -> payload
    delivered: dict[str, str]  # group -> last delivered id
    pending: dict[str, dict[str, Pending]]  # group -> id -> line
    letters: list[tuple[str, dict[str, str]]]
    scheduled: dict[str, int] = field(default_factory=dict)  # id -> uid
    headers: dict[str, dict[str, str]] = field(default_factory=dict)  # id -> what is beside it

    def unread(self, group: str, entry_id: str) -> bool:
        return id_key(entry_id) > id_key(self.delivered[group]) and entry_id in self.stream

    def unfinished(self, group: str, entry_id: str) -> bool:
        """Pending or unread; where the group is lost, all that is in the stream."""
        return (
            entry_id in self.pending[group]
            or group not in self.delivered
            or self.unread(group, entry_id)
        )


def look(server: redis.Redis) -> Facts:
    with server.pipeline() as pipe:
        pipe.execute_command(*REWIND)
        pipe.xrange(STREAM)
        pipe.xinfo_groups(STREAM)
        pipe.xpending_range(STREAM, GROUP, "-", "+", 10_000)
        pipe.xpending_range(STREAM, SLOW, "-", "+", 10_000)
        pipe.xrange(DLQ)
        pipe.zrange(BESIDE.later, 0, -1)
        _, entries, groups, mine, slow, letters, later = pipe.execute(raise_on_error=False)

    def lines(reply: Any) -> dict[str, Pending]:
        if isinstance(reply, Exception):
            return {}
        return {
            line["message_id"]: Pending(
                line["consumer"], line["time_since_delivered"], line["times_delivered"]
            )
            for line in reply
        }

    infos = [] if isinstance(groups, Exception) else groups
    return Facts(
        {entry_id: payload_of(fields) for entry_id, fields in entries},
        {info["name"]: info["last-delivered-id"] for info in infos},
        {GROUP: lines(mine), SLOW: lines(slow)},
        letters,
        {f"@{member[:26]}": _scheduled_uid(member) for member in later},
        dict(entries),
    )


def _scheduled_uid(member: str) -> int:
    _, size, rest = member.split(":", 2)
    headers = json.loads(rest[: int(size)] or "[]")
    return uid_of(
        payload_of(
            {"data": rest[int(size) :], **dict(zip(headers[::2], headers[1::2], strict=True))}
        )
    )


def payload_of(fields: dict[str, str]) -> str:
    """Of a tick: its second, below 0, whatever the payload says."""
    if "rsq:tick" in fields:
        return str(-int(datetime.fromisoformat(fields["rsq:tick"]).timestamp()))
    return fields["data"]


def uid_of(payload: str) -> int:
    return int(payload.removeprefix("bad:"))
