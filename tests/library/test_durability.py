"""StreamProducer(min_replicas=...): what too few replicas have is named, and is in the stream."""

from __future__ import annotations

import asyncio

import pytest

from redis_stream_queue import ConfigError, NotDurable, StreamClient, StreamProducer
from tests.support.servers import Server


async def test_confirmed_and_not(replicated: tuple[Server, Server], stream: str) -> None:
    master, replica = replicated
    client = StreamClient.from_url(master.url)
    patient = StreamProducer(client, stream, min_replicas=1, replica_timeout_ms=10_000)
    producer = StreamProducer(client, stream, min_replicas=1, replica_timeout_ms=100)
    confirmed = [  # the first as soon as the replica is in step
        await patient.push(0),
        *await patient.push_many([1, 2, 3]),
        await asyncio.to_thread(patient.push_sync, 4),
    ]
    replica.pause()
    with pytest.raises(NotDurable) as one:
        await producer.push(5)
    with pytest.raises(NotDurable) as many:
        await producer.push_many([6, 7])
    with pytest.raises(NotDurable) as blocking:
        await asyncio.to_thread(producer.push_sync, 8)
    together = await asyncio.gather(producer.push(9), producer.push(10), return_exceptions=True)
    assert [len(e.value.ids) for e in (one, many, blocking)] == [1, 2, 1]
    errors = [error for error in together if isinstance(error, NotDurable)]
    assert len({error.ids[0] for error in errors}) == 2
    named = [*one.value.ids, *many.value.ids, *blocking.value.ids, *(e.ids[0] for e in errors)]
    there = {message.id for message in await client.fetch_by_ids(stream, [*confirmed, *named])}
    assert there == {*confirmed, *named}
    assert (one.value.confirmed, one.value.wanted) == (0, 1)
    await producer.close()
    await patient.close()


async def test_on_a_cluster(cluster_url: str, stream: str) -> None:
    """Which has no replicas here."""
    producer = StreamProducer(
        StreamClient.from_url(cluster_url), stream, min_replicas=1, replica_timeout_ms=50
    )
    with pytest.raises(NotDurable):
        await producer.push(1)
    await producer.close()


@pytest.mark.parametrize("setting", [{"min_replicas": -1}, {"replica_timeout_ms": 0}])
def test_wrong_settings(setting: dict[str, int]) -> None:
    with pytest.raises(ConfigError, match=next(iter(setting))):
        StreamProducer(StreamClient(), "orders", **setting)
