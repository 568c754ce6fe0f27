"""Slots that move and nodes that die: nothing is lost, nothing hangs, and it says why."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Iterator
from typing import Any

import pytest
import redis
from redis.asyncio.cluster import NodesManager
from redis.crc import key_slot
from redis.exceptions import ConnectionError as RedisConnectionError

from redis_stream_queue import StreamClient, StreamProducer
from redis_stream_queue.connection import cluster
from redis_stream_queue.connection.exchange import OUTAGES
from tests.library.kit import Bench, RecordingHandler, running
from tests.support.cluster import Cluster
from tests.support.held import Held
from tests.support.servers import Server

# -- slots that move ----------------------------------------------------------------------------


@contextlib.contextmanager
def moved(cluster: Cluster, key: str, *, half: bool = False) -> Iterator[None]:
    """The key's slot moves to another node with its keys, or only the keys; at the end all of it
    moves back."""
    source = cluster.node_of(key)
    target = next(node for node in cluster.nodes if node is not source)
    move_keys(key, source, target)
    if not half:
        give_slot(cluster, key, target)
    try:
        yield
    finally:
        give_slot(cluster, key, target)
        move_keys(key, target, source)
        give_slot(cluster, key, source)


def move_keys(key: str, source: Server, target: Server) -> None:
    """The first part of an operator's resharding: the keys are at the target, the slot is not."""
    slot = key_slot(key.encode())
    with source.client() as old, target.client() as new:
        old_id, new_id = (c.execute_command("CLUSTER MYID") for c in (old, new))
        new.execute_command("CLUSTER SETSLOT", slot, "IMPORTING", old_id)
        old.execute_command("CLUSTER SETSLOT", slot, "MIGRATING", new_id)
        while keys := old.execute_command("CLUSTER GETKEYSINSLOT", slot, 100):
            old.execute_command("MIGRATE", "127.0.0.1", target.port, "", 0, 5000, "KEYS", *keys)


def give_slot(cluster: Cluster, key: str, owner: Server) -> None:
    """The second part: all nodes are told who serves the slot, the new owner first."""
    with owner.client() as client:
        node_id = client.execute_command("CLUSTER MYID")
    for node in (owner, *cluster.nodes):
        with node.client() as client:
            client.execute_command("CLUSTER SETSLOT", key_slot(key.encode()), "NODE", node_id)


class TestManyAtOnce:
    async def test_first_commands_of_several_tasks(self, cluster_url: str, stream: str) -> None:
        """A client that learns the cluster's map does not cut the commands of its other tasks."""
        for n in range(5):
            client = StreamClient.from_url(cluster_url, client_name=f"fresh{n}")
            names = [f"{{{n}}}{stream}{i}" for i in range(20)]
            pushes = [StreamProducer(client, name).push(1) for name in names]
            results = await asyncio.gather(*pushes, return_exceptions=True)
            await client.close()
            assert [r for r in results if isinstance(r, Exception)] == []

    async def test_a_moved_slot_hurts_no_other_stream(
        self, bench: Bench, real_cluster: Cluster
    ) -> None:
        """While the client follows one slot, commands on other streams are not cut off."""
        others = [StreamProducer(bench.client, f"{{other{n}}}") for n in range(30)]
        for producer in others:
            await producer.push(0)
        await bench.push(0)
        with moved(real_cluster, bench.stream):
            results = await asyncio.gather(
                bench.push(1),
                *(p.push(n) for p in others for n in range(3)),
                return_exceptions=True,
            )
        assert [r for r in results if isinstance(r, Exception)] == []


async def test_a_node_that_fails_while_the_map_is_asked_for_is_looked_for_anew(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The map that arrives then may be from before its failover."""
    link: Any = bench.client.link()
    await bench.push(1)
    answer = Held(monkeypatch, NodesManager, "initialize")
    asked = asyncio.create_task(link.refresh(link.version))
    await answer.came.wait()
    with monkeypatch.context() as patch:

        async def breaks(*_: Any) -> Any:
            raise RedisConnectionError("the node has died")

        patch.setattr(cluster, "exchange", breaks)
        with pytest.raises(RedisConnectionError):
            await link.call(bench.stream, "XLEN", bench.stream)
    answer.go.set()
    await asked
    version = link.version
    await bench.push(2)
    assert link.version == version + 1


class TestMovedSlot:
    async def test_consumer_follows_its_stream(self, bench: Bench, real_cluster: Cluster) -> None:
        """A running consumer and its producer go on; nothing is lost, nothing runs twice."""
        handler = RecordingHandler()
        consumer = bench.consumer(handler, block_ms=1000, dlq_stream=bench.dlq)
        async with running(bench, consumer):
            ids = await bench.push(*range(10))
            await bench.until(lambda: len(handler.runs) == 10, "ten before the move")
            with moved(real_cluster, bench.stream):
                ids += await bench.push(*range(10))
                await bench.until(lambda: len(handler.runs) == 20, "ten after the move", 5)
                ids += await bench.push({"mode": "fail"})
                await bench.until(lambda: len(handler.runs) == 21, "one that fails")
            ids += await bench.push(*range(10))
            await bench.until(lambda: len(handler.runs) == 31, "ten after it moved back", 5)
        assert set(handler.runs) == set(ids)
        assert {handler.runs[i] for i in ids if i != ids[20]} == {1}

    async def test_sync_producer_follows_its_stream(
        self, bench: Bench, real_cluster: Cluster
    ) -> None:
        producer = StreamProducer(bench.client, bench.stream)

        def push() -> list[str]:
            return [producer.push_sync(1), *producer.push_many_sync([2, 3])]

        ids = await asyncio.to_thread(push)
        with moved(real_cluster, bench.stream):
            ids += await asyncio.to_thread(push)
            assert await bench.entry_ids() == ids
        await producer.close()

    async def test_half_moved_slot(self, bench: Bench, real_cluster: Cluster) -> None:
        """While keys are under way (ASK), pushes and reads find the stream."""
        handler = RecordingHandler()
        ids = await bench.push(*range(5))
        with moved(real_cluster, bench.stream, half=True):
            ids += await bench.push(*range(5))
            async with running(bench, bench.consumer(handler, block_ms=50)):
                await bench.until(lambda: len(handler.runs) == 10, "all ten are handled", 5)
        assert handler.runs == dict.fromkeys(ids, 1)


# -- nodes that are gone ------------------------------------------------------------------------


@pytest.fixture
def one_node_down(real_cluster: Cluster, cluster_url: str) -> Iterator[Server]:
    """The third node is killed, and restarted at the end."""
    node = real_cluster.nodes[2]
    node.kill()
    yield node
    real_cluster.flush()


def name_on(cluster: Cluster, node: Server) -> str:
    """A stream that this node serves."""
    return next(name for n in range(1000) if cluster.node_of(name := f"{{on{n}}}") is node)


class TestNodeDown:
    """Clear errors within the time-outs, no hang; the other slots where the cluster allows it."""

    async def test_push_fails_soon_and_says_where(
        self, real_cluster: Cluster, one_node_down: Server
    ) -> None:
        """When connecting has taken as long as it may: a successor might have been elected."""
        client = StreamClient.from_url(real_cluster.url, socket_connect_timeout=1)
        name = name_on(real_cluster, one_node_down)
        started = time.monotonic()
        with pytest.raises(OUTAGES) as caught:
            await StreamProducer(client, name).push(1)
        assert time.monotonic() - started < 4
        assert str(caught.value)
        await client.close()

    async def test_push_waits_for_a_node_that_comes_back(
        self, real_cluster: Cluster, one_node_down: Server
    ) -> None:
        """One push, one entry."""
        client = StreamClient.from_url(real_cluster.url, socket_connect_timeout=10)
        name = name_on(real_cluster, one_node_down)
        pushing = asyncio.create_task(StreamProducer(client, name).push(1))
        await asyncio.sleep(0.3)  # it has found nobody
        await asyncio.to_thread(one_node_down.restart)
        await pushing
        assert await client.stream_len(name) == 1
        await client.close()

    async def test_push_sync_fails_soon(self, real_cluster: Cluster, one_node_down: Server) -> None:
        client = StreamClient.from_url(real_cluster.url, socket_timeout=2.0)
        producer = StreamProducer(client, name_on(real_cluster, one_node_down))
        started = time.monotonic()
        with pytest.raises((redis.RedisError, OSError)) as caught:
            await asyncio.to_thread(producer.push_sync, 1)
        assert time.monotonic() - started < 5
        assert str(caught.value)
        await producer.close()

    async def test_a_first_node_that_is_down_is_passed_over(
        self, real_cluster: Cluster, nodes: list[dict[str, Any]], one_node_down: Server
    ) -> None:
        """The other start-up nodes are asked; streams on living nodes answer or say CLUSTERDOWN."""
        client = StreamClient.from_cluster(list(reversed(nodes)), socket_timeout=2.0)
        name = name_on(real_cluster, real_cluster.nodes[0])
        started = time.monotonic()
        with contextlib.suppress(redis.exceptions.ClusterDownError):
            assert await client.stream_len(name) == 0
        assert time.monotonic() - started < 5
        await client.close()

    async def test_consumer_goes_on_when_its_node_is_back(self, real_cluster: Cluster) -> None:
        """What was pushed before the crash is handled after it."""
        real_cluster.flush()
        node = real_cluster.nodes[2]
        name = name_on(real_cluster, node)
        handler = RecordingHandler()
        client = StreamClient.from_url(real_cluster.url, socket_timeout=2.0)
        bench = Bench(client, name)
        async with bench, running(bench, bench.consumer(handler, block_ms=500)):
            [first] = await bench.push(1)
            await bench.until(lambda: first in handler.runs, "one before the crash")
            node.kill()
            node.restart()
            await bench.until(lambda: _accepted(bench), "pushes are taken again", 20)
            count = len(handler.runs)
            [last] = await bench.push("last")
            await bench.until(lambda: last in handler.runs, "one after the crash")
            assert count >= 1
        await client.close()
        real_cluster.flush()


async def _accepted(bench: Bench) -> bool:
    with contextlib.suppress(*OUTAGES):
        return bool(await bench.push("again"))
    return False
