"""Connections and the lives of servers: what belongs to one is not taken for another's."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from typing import Any, NoReturn

import pytest
import pytest_asyncio
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import ReadOnlyError

from redis_stream_queue import StreamClient, StreamMessage
from redis_stream_queue.delivery.pending import PendingList
from tests.library.kit import Bench, RecordingHandler, running
from tests.support.faultproxy import FaultProxy
from tests.support.servers import NAMES, Server

STRANGERS = 40


@pytest.fixture(scope="module")
def servers(_no_process_left: None) -> Iterator[tuple[Server, Server]]:
    with Server.start(NAMES[0], tcp=True) as one, Server.start("redis-6.2", tcp=True) as other:
        yield one, other


@pytest_asyncio.fixture
async def proxy(servers: tuple[Server, Server]) -> AsyncIterator[FaultProxy]:
    """Leads to the first server until it is told otherwise."""
    for server in servers:
        with server.client() as redis:
            redis.execute_command("REPLICAOF", "NO", "ONE")
        server.flush()
    async with FaultProxy(("127.0.0.1", servers[0].port)) as proxy:
        yield proxy
        await StreamClient.close_all()


def strangers(server: Server) -> list[Any]:
    """Connections of other programs, with all the numbers that ours may have elsewhere."""
    others = [server.client(single_connection_client=True) for _ in range(STRANGERS)]
    for number, other in enumerate(others):
        other.client_setname(f"stranger{number}")
    return others


@pytest.mark.parametrize("how", ["cut while reading", "silent while reading", "interrupted"])
async def test_another_server_behind_the_address(
    servers: tuple[Server, Server], proxy: FaultProxy, stream: str, how: str
) -> None:
    """After a failover no stranger's connection is killed and no stranger's wait is ended."""
    handler, others = RecordingHandler(), strangers(servers[1])
    async with Bench(StreamClient.from_url(servers[1].url), stream) as bench:
        consumer = bench.consumer(
            handler, client=StreamClient.from_url(proxy.url, socket_timeout=0.5), block_ms=300
        )
        async with running(bench, consumer):
            await bench.until(lambda: consumer._session.reader.connected, "it reads")
            proxy.target = ("127.0.0.1", servers[1].port)
            if how == "silent while reading":
                proxy.strand_all()
            elif how == "cut while reading":
                proxy.reset_all()
            else:
                consumer._session.reader.interrupt()
                proxy.reset_all()
            ids = await bench.push(1, 2)
            await bench.until(bench.settled, "it works with the other server", 8)
    assert set(handler.runs) == set(ids)
    for number, other in enumerate(others):
        assert other.client_getname() in (f"stranger{number}", f"stranger{number}".encode())
        other.close()


async def test_who_only_reads_finds_out_that_a_master_was_demoted(
    servers: tuple[Server, Server], proxy: FaultProxy, stream: str
) -> None:
    """And every connection is left with it, each when it is wanted next."""
    client = StreamClient.from_url(proxy.url)
    await asyncio.gather(*(client.stream_len(stream) for _ in range(3)))
    reading = PendingList(client, stream, "group", only_reads=True)
    await reading.server_ms()
    with servers[0].client() as redis:
        redis.execute_command("REPLICAOF", "127.0.0.1", servers[1].port)
    proxy.target = ("127.0.0.1", servers[1].port)
    with pytest.raises(ReadOnlyError, match="replica"):
        await asyncio.wait_for(read_again_and_again(reading), 5)
    await reading.server_ms()
    lives = await asyncio.gather(life(client), life(client))
    assert set(lives) == {await life(StreamClient.from_url(servers[1].url))}


async def read_again_and_again(reading: PendingList) -> NoReturn:
    while True:
        await reading.server_ms()


async def life(client: StreamClient) -> str:
    info = await client.link().call("", "INFO", "server")
    return next(line for line in info.decode().splitlines() if line.startswith("run_id"))


async def test_a_connection_that_was_idle_and_closed_is_no_error(
    servers: tuple[Server, Server],
    proxy: FaultProxy,
    stream: str,
    warnings_logged: pytest.LogCaptureFixture,
) -> None:
    """By the server's ``timeout``, or by something on the way."""
    started, go_on = asyncio.Event(), asyncio.Event()

    async def handle(messages: list[StreamMessage]) -> list[str]:
        started.set()
        await go_on.wait()
        return [message.id for message in messages]

    client = StreamClient.from_url(proxy.url)
    async with Bench(StreamClient.from_url(servers[0].url), stream) as bench:
        consumer = bench.consumer(handle, client=client, block_ms=100)
        async with running(bench, consumer):
            await bench.push(1)
            await started.wait()
            await bench.client.link().call(stream, "CLIENT", "KILL", "TYPE", "normal")
            await bench.until(lambda: not consumer._session.reader.connected, "the end is seen")
            started.clear()
            go_on.set()
            await bench.push(2)
            await started.wait()
            await bench.until(bench.settled, "both are done")
    assert not warnings_logged.records


@pytest.mark.parametrize(
    "error",
    [
        AttributeError("'NoneType' object has no attribute '_add_writer'"),
        RuntimeError("unable to perform operation on <TCPTransport closed=True>; it is closed"),
    ],
)
async def test_whatever_a_broken_connection_raises_is_an_outage(
    server_client: StreamClient,
    stream: str,
    error: Exception,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """asyncio of Python 3.12 and uvloop have words of their own for it."""
    await server_client.stream_len(stream)

    def break_down(_: Any) -> None:
        raise error

    [connection] = server_client.link().connections()
    connection._writer.writelines = break_down  # type: ignore[union-attr,method-assign]
    transport = connection._writer.transport  # type: ignore[union-attr]
    monkeypatch.setattr(transport, "close", lambda: transport.abort() or break_down(None))
    with pytest.raises(RedisConnectionError, match=type(error).__name__):
        await server_client.stream_len(stream)
    assert await server_client.stream_len(stream) == 0


async def test_a_connection_that_breaks_in_its_handshake_is_an_outage(
    server_client: StreamClient, stream: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def break_down(*_: Any) -> None:
        raise AttributeError("'NoneType' object has no attribute '_add_writer'")

    with monkeypatch.context() as patch:
        patch.setattr(asyncio.StreamWriter, "writelines", break_down)
        with pytest.raises(RedisConnectionError, match="_add_writer"):
            await server_client.stream_len(stream)
        with pytest.raises(RedisConnectionError, match="_add_writer"):
            await server_client.link().dedicated(stream).connect()
    assert await server_client.stream_len(stream) == 0


async def test_a_batch_larger_than_the_server_sends_comes_in_parts(
    servers: tuple[Server, Server], proxy: FaultProxy, stream: str
) -> None:
    """client-output-buffer-limit: the connection is closed instead; one message at a time fits."""
    handler = RecordingHandler()
    with servers[0].client() as redis:
        redis.config_set("client-output-buffer-limit", "normal 2mb 0 0")
        try:
            async with Bench(StreamClient.from_url(servers[0].url), stream) as bench:
                ids = []
                for _ in range(12):
                    ids += await bench.push("x" * 400_000)
                consumer = bench.consumer(handler, client=StreamClient.from_url(proxy.url))
                async with running(bench, consumer):
                    await bench.until(bench.settled, "all are done")
        finally:
            redis.config_set("client-output-buffer-limit", "normal 0 0 0")
    assert handler.runs == dict.fromkeys(ids, 1)
