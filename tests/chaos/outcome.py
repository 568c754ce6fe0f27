"""What is left when the storm is over: wait until all is drained, then read the letters."""

from __future__ import annotations

import json
import time

import redis

from redis_stream_queue.later.keys import companions

from .app import DLQ, GROUP, STREAM, tick_number
from .stage import Stage
from .verdict import Letter

POLL_S = 0.1


def drain(stage: Stage, timeout_s: float) -> float:
    """Wait until nothing is pending, unread or scheduled; returns how long it took.

    Complains when the time is up.
    """
    begun_s = time.monotonic()
    with stage.server.client() as client:
        while left := _left(client):
            if time.monotonic() - begun_s > timeout_s:
                stage.complain(f"not drained within {timeout_s:g} s: {left}")
                break
            time.sleep(POLL_S)
    return time.monotonic() - begun_s


def _left(client: redis.Redis) -> str:
    pending = pending_lines(client)
    groups = client.xinfo_groups(STREAM)
    [last_id] = [g["last-delivered-id"].decode() for g in groups]
    unread = client.xrange(STREAM, f"({last_id}", "+", count=1)
    scheduled = client.zcard(companions(STREAM).later)
    if not pending and not unread and not scheduled:
        return ""
    lag, some = groups[0].get("lag"), list(pending.values())[:3]
    return f"{len(pending)} pending, {lag} unread, {scheduled} scheduled, e.g. {some}"


def pending_lines(client: redis.Redis) -> dict[str, str]:
    """The XPENDING line of each pending entry."""
    lines = {}
    for entry in client.xpending_range(STREAM, GROUP, "-", "+", 10_000):
        lines[entry["message_id"].decode()] = (
            f"{entry['message_id'].decode()} held by {entry['consumer'].decode()}, idle "
            f"{entry['time_since_delivered']} ms, {entry['times_delivered']} deliveries"
        )
    return lines


def letters(client: redis.Redis) -> list[Letter]:
    """All dead letters."""
    found = []
    for letter_id, raw in client.xrange(DLQ):
        fields = {k.decode(): v.decode(errors="replace") for k, v in raw.items()}
        payload = json.loads(fields["data"])
        found.append(
            Letter(
                letter_id.decode(),
                fields.get("rsq:first", fields["original_id"]),
                tick_number(fields["rsq:tick"]) if "rsq:tick" in fields else payload["n"],
                payload["do"],
                fields["reason"],
                fields["last_error"],
                int(fields["delivery_count"]),
            )
        )
    return found


def check_exits(stage: Stage) -> None:
    """SIGTERM ends every pool with code 0, and no process stays behind, whoever killed what."""
    for host in stage.hosts:
        try:
            if (code := host.pool.drain(timeout_s=20)) != 0:
                stage.complain(f"last SIGTERM: pool {host.life} left with exit code {code}")
        except AssertionError:
            stage.complain(f"last SIGTERM: pool {host.life} did not leave")
    deadline = time.monotonic() + 5
    for host in stage.hosts:
        for number, pool in enumerate(host.pools, 1):
            while (left := pool.processes()) and time.monotonic() < deadline:
                time.sleep(POLL_S)
            if left:
                stage.complain(f"pool {host.name}{number} left processes behind: {left}")
