"""Queues whose tasks do nothing, for pools to run; messages call a task as its push does."""

from __future__ import annotations

from redis_stream_queue import Queue

from .names import GROUP, KEY

queue = Queue(KEY, group=GROUP)
queue_async = Queue(KEY, group=GROUP)


@queue.task
def noted(number: int, text: str, ok: bool) -> None:
    """Nothing."""


@queue_async.task(name="noted")
async def noted_async(number: int, text: str, ok: bool) -> None:
    pass
