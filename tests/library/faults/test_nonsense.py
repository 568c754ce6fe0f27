"""A server that answers PING rightly, and other commands with what is no reply to them: it is said
in one sentence, nothing is taken for done, and all goes on when the replies are right again."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest
import pytest_asyncio

from redis_stream_queue import StreamClient, StreamProducer
from redis_stream_queue.connection.exchange import OUTAGES
from redis_stream_queue.delivery.pending import Parked, PendingList, SeenEntry
from redis_stream_queue.dlq import DeadLetterQueue
from redis_stream_queue.group import ConsumerGroup
from tests.library.kit import GROUP, Bench, RecordingHandler, running
from tests.support.faultproxy import FaultProxy
from tests.support.lyingproxy import NONSENSE, Lie, LyingProxy
from tests.support.servers import Server

ME = "me"
SPOKEN = {what: lie for what, lie in NONSENSE.items() if not lie.silent}
# What may be true of some command: a name of the lie, and what begins the command.
PLAUSIBLE = {
    ("a number", "XACK"), ("a huge number", "XACK"), ("a number", "XLEN"), ("nil", "XREADGROUP"),
    ("a huge number", "XLEN"), ("an empty list", "XPENDING"), ("an empty list", "XRANGE"),
    ("an empty list", "XINFO"), ("OK", "XGROUP"), ("an empty list", "park"),
    ("an unknown error", "TIME"), ("an unknown error", "XGROUP"),
}  # fmt: skip

Call = Callable[[], Awaitable[Any]]


@pytest_asyncio.fixture
async def liar(own_server: Server, direct: StreamClient) -> AsyncIterator[LyingProxy]:
    assert own_server.socket_path is not None
    async with LyingProxy(own_server.socket_path) as proxy:
        yield proxy
        await StreamClient.close_all()


def calls(client: StreamClient, stream: str, ids: list[str]) -> dict[str, Call]:
    """What uses each command; named by its first word, or as a script."""
    pending, producer = PendingList(client, stream, GROUP), StreamProducer(client, stream)
    return {
        "XADD": lambda: producer.push(1),
        "XADD, sync": lambda: asyncio.to_thread(producer.push_sync, 1),
        "EVAL": lambda: producer.push_many([1, 2]),
        "EVALSHA, sync": lambda: asyncio.to_thread(producer.push_many_sync, [1, 2]),
        "EVALSHA later": lambda: producer.push(1, delay_ms=60_000),
        "EVALSHA take": lambda: pending.take(ME, [SeenEntry(ids[0], ME, -1, 0, 1)]),
        "EVALSHA renew": lambda: pending.renew(ME, {ids[0]: 1}),
        "EVALSHA park": lambda: pending.park(ME, [Parked(ids[1])]),
        "EVALSHA trim": lambda: pending.trim(1000),
        "EVALSHA sizes": lambda: pending.sizes(ids),
        "XACK": lambda: client.ack(stream, GROUP, "1-1"),
        "XPENDING": lambda: pending.page(None, 10),
        "XPENDING newest": pending.newest,
        "TIME": pending.server_ms,
        "XINFO": lambda: ConsumerGroup(client, stream, GROUP).stats(),
        "XLEN": lambda: client.stream_len(stream),
        "XRANGE": lambda: DeadLetterQueue(client, stream).list(),
        "XREADGROUP": lambda: client.read(stream, GROUP, ME, 1, 0),
        "XGROUP": lambda: client.create_group(stream, GROUP),
    }


async def test_each_command_with_each_nonsense(liar: LyingProxy, bench: Bench) -> None:
    ids = await bench.push(1, 2, 3)
    await bench.deliver(ME)
    client = StreamClient.from_url(liar.url)
    wrong = []
    for name, call in calls(client, bench.stream, ids).items():
        command, _, script = name.replace(",", "").partition(" ")
        for what, lie in SPOKEN.items():
            liar.lies, liar.told = {command: lie}, 0
            try:
                got = await call()
            except OUTAGES as error:
                if len(str(error)) > 200 or "\n" in str(error):
                    wrong.append(f"{name}, {what}: {error}")
            except Exception as error:
                wrong.append(f"{name}, {what}: {error!r}")
            else:
                plausible = {(what, command), (what, script)} & PLAUSIBLE
                if liar.told and lie.reply is not None and not plausible:
                    wrong.append(f"{name}, {what}: took it for {got!r}")
            liar.lies = {}
            try:  # on the same connections, if they are open still
                assert ids[0] == (await client.fetch_by_ids(bench.stream, ids))[0].id
            except Exception as error:
                wrong.append(f"{name}, {what}: then {error!r}")
    assert not wrong, "\n".join(wrong)


async def test_messages_that_nobody_has_asked_for_are_passed_over(
    liar: LyingProxy, bench: Bench
) -> None:
    """RESP3's, which some proxies send to all."""
    [entry_id] = await bench.push(1)
    client = StreamClient.from_url(liar.url)
    push = b">2\r\n$10\r\ninvalidate\r\n*-1\r\n"
    liar.lies = {"*": Lie(before=push + push)}
    assert [m.id for m in await client.fetch_by_ids(bench.stream, [entry_id])] == [entry_id]
    assert await client.stream_len(bench.stream) == 1


async def test_a_consumer_goes_on(
    liar: LyingProxy, bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    """Each message is handled once, although reads were carried out whose replies said nonsense."""
    caplog.set_level(logging.INFO)
    handler = RecordingHandler()
    client = StreamClient.from_url(liar.url)
    ids = []
    async with running(bench, bench.consumer(handler, client=client, block_ms=50)):
        for what, lie in SPOKEN.items():
            ids += await bench.push(what)
            liar.lies, liar.told, liar.carries_out = {"*": lie}, 0, len(ids) % 3 > 0
            await bench.until(lambda: liar.told, f"{what} is told")
        liar.lies = {}
        await bench.until(bench.settled, "all is done")
    assert handler.runs == dict.fromkeys(ids, 1)
    assert not [record for record in caplog.records if record.exc_info]
    assert len(caplog.records) < 3 * len(SPOKEN)
    assert max(len(record.getMessage()) for record in caplog.records) < 300


async def test_two_servers_behind_one_address(
    proxy: FaultProxy, own_server: Server, bench: Bench, warnings_logged: pytest.LogCaptureFixture
) -> None:
    """A load balancer before servers that know nothing of each other: it is said, once."""
    handler = RecordingHandler()
    consumer = bench.consumer(handler, client=StreamClient.from_url(proxy.url), block_ms=50)
    here = proxy.target
    with Server.start(own_server.name) as other:
        assert other.socket_path is not None
        there = StreamClient.from_url(other.url)
        async with running(bench, consumer):
            for target, client in [(here, bench.client), (other.socket_path, there)] * 2:
                proxy.target = target
                proxy.reset_all()
                entry_id = await StreamProducer(client, bench.stream).push(1)
                await bench.until(lambda e=entry_id: e in handler.runs, "handled there")
        await there.close()
    said = [line for line in warnings_logged.messages if "two servers answer by turns" in line]
    assert len(said) == 1
