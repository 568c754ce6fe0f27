"""Clients share connections, survive forks, loops and restarts, and close what they opened."""

from __future__ import annotations

import asyncio
import gc
import multiprocessing
import os
from collections.abc import Iterator
from typing import Any

import pytest

from redis_stream_queue import ConsumerConfig, StreamClient, StreamConsumer, StreamMessage
from redis_stream_queue.connection.exchange import OUTAGES, exchange
from redis_stream_queue.connection.single import connection_maker
from tests.library.kit import GROUP, WAIT_S, CountingProxy
from tests.support.faultproxy import FaultProxy
from tests.support.servers import Server
from tests.support.waiting import wait_until

SECRET = "p4ss:w@rd/?#%"


class TestSharing:
    """One pool per endpoint, loop and process; closing one client hurts no other."""

    @pytest.fixture(autouse=True)
    def _nothing_left_open(self) -> Iterator[None]:
        """A socket that a test leaves open fails that test, not the next."""
        yield
        gc.collect()

    async def test_closing_one_does_not_break_another(self, client_url: str, stream: str) -> None:
        one, two = (StreamClient.from_url(client_url, prefix=p) for p in ("a", "b"))
        await one.push(stream, b"1")
        await two.push(stream, b"1")
        await one.close()
        await one.close()
        assert await two.stream_len(stream) == 1
        assert await one.stream_len(stream) == 1  # it opens again when it is used again
        await StreamClient.close_all()
        assert await two.stream_len(stream) == 1
        await StreamClient.close_all()

    async def test_close_while_another_reads(self, redis_url: str, stream: str) -> None:
        one, two = StreamClient.from_url(redis_url), StreamClient.from_url(redis_url)
        await one.create_group(stream, GROUP)
        reading = asyncio.create_task(two.read(stream, GROUP, "c", 1, 5000))
        await one.push(stream, b"0")
        await asyncio.wait_for(reading, WAIT_S)
        reading = asyncio.create_task(two.read(stream, GROUP, "c", 1, 5000))
        await one.stream_len(stream)
        await one.close()
        await StreamClient.from_url(redis_url, prefix="").push(stream, b"1")
        assert len(await asyncio.wait_for(reading, WAIT_S)) == 1
        await StreamClient.close_all()

    async def test_connections_are_shared_and_closed(
        self, proxy: CountingProxy, stream: str
    ) -> None:
        clients = [StreamClient.from_url(proxy.url, prefix=f"p{n}") for n in range(10)]
        for client in clients:
            await client.push(stream, b"1")
        assert proxy.connections == 1
        for client in clients:
            await client.close()
        await _none_left(proxy)

    @pytest.mark.filterwarnings("ignore::ResourceWarning")
    async def test_what_is_dropped_unclosed_is_closed_as_it_is_collected(
        self, redis_url: str
    ) -> None:
        """The loop knows its socket, and must not keep the connection for that."""
        client = StreamClient.from_url(redis_url)
        dropped = connection_maker(client.endpoint)()
        await dropped.connect()
        assert await exchange(dropped, [("PING",)], WAIT_S) == [b"PONG"]
        transport = dropped._writer.transport
        del dropped
        gc.collect()
        assert transport.is_closing()

    async def test_at_most_max_connections(self, proxy: CountingProxy, stream: str) -> None:
        """Further commands wait for a free one, up to pool_timeout."""
        client = StreamClient.from_url(proxy.url, max_connections=3, pool_timeout=0.3)
        await asyncio.gather(*(client.push(stream, b"1") for _ in range(50)))
        assert proxy.connections == 3
        await client.create_group(stream, GROUP, "$")
        reads = [asyncio.create_task(client.read(stream, GROUP, "c", 1, 4000)) for _ in range(3)]
        await asyncio.sleep(0)
        with pytest.raises(OUTAGES):
            await client.stream_len(stream)
        for n in range(3):
            other = StreamClient.from_url(proxy.url, client_name=f"other{n}")
            await other.push(stream, b"1")
        await asyncio.wait_for(asyncio.gather(*reads), WAIT_S)

    def test_second_event_loop(self, client_url: str, stream: str) -> None:
        """The same client in asyncio.run after asyncio.run, closed or not in between."""
        client = StreamClient.from_url(client_url)

        async def work(close: bool) -> int:
            await client.push(stream, b"1")
            length = await client.stream_len(stream)
            if close:
                await client.close()
            return length

        lengths = [asyncio.run(work(close)) for close in (True, False, True, False, False, True)]
        assert lengths == [1, 2, 3, 4, 5, 6]

    @pytest.mark.parametrize("where", ["before", "inside"])
    def test_after_a_fork(self, server: Server, stream: str, where: str) -> None:
        """Parent and children go on with the same client object, each over its own connections;
        forked between two event loops, and from inside a running one."""
        client = StreamClient.from_url(server.url)

        async def push(count: int, *, close: bool = False) -> None:
            for n in range(count):
                await client.push(stream, b"%d" % n)
            if close:
                await client.close()

        async def scenario() -> None:
            await push(2)
            children = fork_children() if where == "inside" else []
            await push(20)
            for child in children:
                await asyncio.to_thread(child.join, WAIT_S)
                assert child.exitcode == 0
            await push(2)
            await client.close()

        def child_main() -> None:
            asyncio.events._set_running_loop(None)  # the parent's, where it forked inside one
            asyncio.run(push(20))
            os._exit(0)

        def fork_children() -> list[Any]:
            context = multiprocessing.get_context("fork")
            children = [context.Process(target=child_main) for _ in range(3)]
            for child in children:
                child.start()
            return children

        if where == "before":
            asyncio.run(push(3, close=True))
            children = fork_children()
            asyncio.run(push(21, close=True))
            for child in children:
                child.join(WAIT_S)
                assert child.exitcode == 0
        else:
            asyncio.run(scenario())
        with server.client() as look:
            assert look.xlen(stream) == 84

    async def test_consumer_that_is_dropped_closes_its_connection(
        self, server: Server, stream: str
    ) -> None:
        """After run_once() nobody has to close a consumer; the client's end is enough."""
        client = StreamClient.from_url(server.url)
        for _ in range(3):
            config = ConsumerConfig(group=GROUP, block_ms=0)
            await StreamConsumer(client, stream, config, _nothing).run_once()
            gc.collect()
        await client.close()

    async def test_database_of_the_url(self, server: Server, stream: str) -> None:
        base = server.url.partition("?")[0]
        one, two = (StreamClient.from_url(f"{base}?db={db}") for db in (1, 2))
        await one.push(stream, b"1")
        assert (await one.stream_len(stream), await two.stream_len(stream)) == (1, 0)
        await StreamClient.close_all()

    async def test_client_name_is_seen_by_the_server(self, server: Server, stream: str) -> None:
        client = StreamClient.from_url(server.url, client_name="billing")
        await client.push(stream, b"1")
        assert b"name=billing" in await client.link().call(stream, "CLIENT", "LIST")
        await client.close()


async def _nothing(_: list[StreamMessage]) -> list[str]:
    return []


async def _none_left(proxy: FaultProxy) -> None:
    for _ in range(400):
        if not proxy.connections:
            return
        await asyncio.sleep(0.005)
    raise AssertionError(f"{proxy.connections} connections are left")


async def test_commands_survive_a_restart(pool_server: Server, stream: str) -> None:
    """An error while the server is away, and the next command connects again."""
    pool_server.flush()
    client = StreamClient.from_url(pool_server.url)
    await client.link().call("", "CONFIG", "SET", "appendfsync", "always")
    await client.push_many(stream, [b"1", b"2"])
    pool_server.kill()
    wait_until(lambda: not pool_server.alive, WAIT_S, "the server is gone")
    with pytest.raises(OUTAGES):
        await client.stream_len(stream)
    pool_server.restart()
    assert await client.stream_len(stream) == 2
    await client.close()
