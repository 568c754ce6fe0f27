"""How far behind a group is, in messages and in time."""

from __future__ import annotations

from dataclasses import dataclass

from ..client import StreamClient
from ..connection.scripts import FIRST_AFTER
from ..group import UNKNOWN, ConsumerGroup
from ..message import StreamStats, id_key


@dataclass(frozen=True, slots=True)
class Reading:
    """A group at one moment.

    stats: its counters. oldest_waiting_ms: age of the oldest message that was not delivered yet;
    0 = there is none. oldest_pending_ms: age of the oldest one that is delivered and not done.
    """

    stats: StreamStats
    oldest_waiting_ms: int
    oldest_pending_ms: int


async def read(
    client: StreamClient, stream: str, group: str, dlq_stream: str | None = None
) -> Reading:
    """Ask Redis how a group is doing; ages are by its clock. Raises what Redis raises."""
    stats = await ConsumerGroup(client, stream, group).stats(dlq_stream)
    waiting = pending = 0
    if stats.lag and stats.last_delivered_id != UNKNOWN:
        first = await client.script(FIRST_AFTER, stream, stats.last_delivered_id)
        waiting = id_key(first.decode())[0] if first else 0
    if stats.group_pel_size:
        held = await client.pending_range(stream, group, 1)
        pending = id_key(held[0].id)[0] if held else 0
    now_ms = await server_ms(client, stream) if waiting or pending else 0
    return Reading(stats, _age_ms(now_ms, waiting), _age_ms(now_ms, pending))


def _age_ms(now_ms: int, pushed_ms: int) -> int:
    return max(now_ms - pushed_ms, 0) if pushed_ms else 0


async def server_ms(client: StreamClient, stream: str) -> int:
    """The time of the server that has this stream, in ms since the epoch."""
    seconds, micros = await client.link().call(client.key(stream), "TIME")
    return int(seconds) * 1000 + int(micros) // 1000
