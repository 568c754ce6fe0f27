"""Which consumer groups a command is about."""

from __future__ import annotations

from redis.exceptions import NoPermissionError

from .. import _exits
from .._exits import Failure
from .._plain import plain_cut
from ..connection.refusals import WrongKind
from ..exceptions import ClusterSlotError
from ..later.scheduled import count_scheduled
from .common import Redis, ask

SHOWN_NAMES = 100  # characters


def groups_of(redis: Redis, stream: str, only: str | None) -> list[str]:
    """Names of the stream's groups, or the one that was asked for.

    Raises Failure for a stream or a group that is not there.
    """
    client, key = redis.client, redis.client.key(stream)

    async def question() -> tuple[int, list[str]]:
        groups = await client.group_info(stream)
        return await client.stream_len(stream), [str(group["name"]) for group in groups]

    length, names = ask(redis, stream, question)
    if not length and not names:
        why = f"there is no stream {key!r} on {client.endpoint}"
        if waiting := ask(redis, stream, lambda: how_many_scheduled(redis, stream)):
            why += f" yet: of what will be in it {waiting} are scheduled (rsq later list {key})"
        raise Failure(_exits.FAILURE, f"{why}.")
    if only and only not in names:
        have = f"It has {plain_cut(', '.join(names), SHOWN_NAMES)}."
        have = have if names else "It has none yet."
        raise Failure(_exits.FAILURE, f"stream {key!r} has no group {only!r}. {have}")
    return [only] if only else names


async def how_many_scheduled(redis: Redis, stream: str) -> int | None:
    """How many messages are scheduled; None where that cannot be known."""
    try:
        return await count_scheduled(redis.client, stream)
    except (NoPermissionError, ClusterSlotError, WrongKind):
        return None
