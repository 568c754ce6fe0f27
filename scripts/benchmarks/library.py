"""One StreamConsumer in its own process: ``python -m scripts.benchmarks.library HANDLER URL``."""

from __future__ import annotations

import asyncio
import sys

from redis_stream_queue import ConsumerConfig, StreamClient, StreamConsumer

from . import app
from .names import COUNT, GROUP, KEY


async def main(handler: str, url: str) -> None:
    client = StreamClient.from_url(url)
    config = ConsumerConfig(group=GROUP, batch_size=COUNT)
    await StreamConsumer(client, KEY, config, getattr(app, handler)).run()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
