"""Which consumer groups a command is about."""

from __future__ import annotations

from .. import _exits
from .._exits import Failure
from .._plain import plain_cut
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
        raise Failure(_exits.FAILURE, f"there is no stream {key!r} on {client.endpoint}.")
    if only and only not in names:
        have = f"It has {plain_cut(', '.join(names), SHOWN_NAMES)}."
        have = have if names else "It has none yet."
        raise Failure(_exits.FAILURE, f"stream {key!r} has no group {only!r}. {have}")
    return [only] if only else names
