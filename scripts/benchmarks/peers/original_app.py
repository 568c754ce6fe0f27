"""redis-stream-queue 0.1.3, pushed in bulk. It has no pool: two processes with a consumer each."""

from __future__ import annotations

import asyncio
import os

from .. import original
from ..names import KEY
from . import tasks

CHUNK = 1000


def push(kind: str, count: int, iterations: int) -> None:
    asyncio.run(_push([{"do": "burn", "n": iterations}] * count))


async def _push(messages: list[dict[str, object]]) -> None:
    package = original.load()
    client = package.StreamClient.from_url(os.environ[tasks.URL_ENV])
    producer = package.StreamProducer(client, KEY)
    for start in range(0, len(messages), CHUNK):
        await producer.push_many(messages[start : start + CHUNK])
    await client.close()


if __name__ == "__main__":
    tasks.push_main(push)
