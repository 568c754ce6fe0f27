"""Ending what dead workers have left, where no descriptor is free to look for it."""

from __future__ import annotations

import asyncio
import os
import resource

from redis_stream_queue.pool.orphans import Orphans


def test_without_a_free_descriptor_it_is_looked_later() -> None:
    async def run() -> None:
        orphans = Orphans()
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (_lowest_free(), hard))
        try:
            orphans.note_background()
            orphans.worker_died()
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        orphans.ours = lambda: set(range(2**22))  # what else this process has started stays
        async with asyncio.timeout(5):
            await orphans.end_all()

    asyncio.run(run())


def _lowest_free() -> int:
    fd = os.open("/", os.O_RDONLY)
    os.close(fd)
    return fd
