"""Ours, pushed in bulk; the handlers are those of the other figures."""

from __future__ import annotations

import asyncio
import os

from redis_stream_queue import StreamClient, StreamProducer

from ..names import KEY
from . import tasks


def push(kind: str, count: int, iterations: int) -> None:
    asyncio.run(_push([{"do": "burn", "n": iterations}] * count))


async def _push(messages: list[dict[str, object]]) -> None:
    client = StreamClient.from_url(os.environ[tasks.URL_ENV])
    await StreamProducer(client, KEY).push_many(messages)
    await client.close()


if __name__ == "__main__":
    tasks.push_main(push)
