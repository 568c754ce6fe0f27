"""--burst with several crews: work that goes from one to another while they are looked at."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest

from redis_stream_queue import StreamClient
from redis_stream_queue.delivery.pending import PendingList
from redis_stream_queue.pool.master.burst import Burst
from tests.support.waiting import wait_until_async

GROUP, NAME, FIRST, SECOND = "crew", "crew:here:1", "first", "second"


async def test_what_a_crew_pushes_into_a_stream_that_was_looked_at_is_waited_for(
    pool_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The last message of the second crew pushes one for the first, between the looks at both."""
    client = StreamClient.from_url(pool_url)
    for stream in (FIRST, SECOND):
        await client.create_group(stream, GROUP)
    last = await client.push(SECOND, b"{}")
    await client.read(SECOND, GROUP, NAME, 1, 0)
    group_info, looks = StreamClient.group_info, []

    async def looked(client: StreamClient, stream: str) -> list[dict[str, Any]]:
        if [*looks, stream] == 2 * [FIRST, SECOND]:  # the first look is for the progress bar
            await client.push(FIRST, b"{}")
            await client.ack(SECOND, GROUP, last)
        looks.append(stream)
        return await group_info(client, stream)

    backlogs: Any = [(PendingList(client, stream, GROUP), None) for stream in (FIRST, SECOND)]
    none_handled: Any = SimpleNamespace(acked=0, dead=0)
    ends = asyncio.create_task(Burst(client, backlogs, lambda: none_handled).until_done())
    monkeypatch.setattr(StreamClient, "group_info", looked)
    await wait_until_async(lambda: ends.done() or looks.count(FIRST) > 3, 5, "it looks again")
    assert not ends.done()

    [message] = await client.read(FIRST, GROUP, NAME, 1, 0)
    await client.ack(FIRST, GROUP, message.id)
    await asyncio.wait_for(ends, 5)
    await client.close()
