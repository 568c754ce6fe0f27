"""A server that does not answer: the consumer goes on by itself within 2 s of it."""

from __future__ import annotations

import asyncio
import time

import pytest

from redis_stream_queue import StreamClient, StreamMessage
from tests.library.faults.conftest import LONG_MS, through, until_blocked
from tests.library.kit import Bench, RecordingHandler, running
from tests.support.faultproxy import FaultProxy
from tests.support.servers import Server


class TestOutage:
    """The consumer goes on by itself within 2 s of Redis."""

    async def test_stalled_connection(self, bench: Bench, proxy: FaultProxy) -> None:
        """Open, but nothing passes: noticed after block_ms and the margin, and left behind."""
        handler = RecordingHandler()
        consumer = bench.consumer(
            handler, client=through(proxy, socket_timeout=0.3), block_ms=200,
            min_idle_claim_ms=LONG_MS,
        )  # fmt: skip
        async with running(bench, consumer):
            await until_blocked(bench)
            proxy.stall()
            ids = await bench.push(1, 2, 3)
            await asyncio.sleep(0.7)  # the fault itself lasts so long
            proxy.resume()
            await bench.until(bench.settled, "all are done", 2)
        assert handler.runs == dict.fromkeys(ids, 1)

    async def test_half_open_connection(self, bench: Bench, proxy: FaultProxy) -> None:
        """The server forgot the connection and said nothing: a read does not wait for ever."""
        handler = RecordingHandler()
        consumer = bench.consumer(
            handler, client=through(proxy, socket_timeout=0.3), block_ms=200,
            min_idle_claim_ms=LONG_MS,
        )  # fmt: skip
        task = bench.start(consumer)
        await until_blocked(bench)
        proxy.stall()
        await bench.client.link().call(
            bench.stream, "CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes"
        )
        [entry_id] = await bench.push(1)
        other = FaultProxy(proxy.target)
        assert not task.done()
        await asyncio.sleep(0)
        proxy.resume()
        await bench.until(lambda: entry_id in handler.runs, "handled over a new connection", 3)
        await other.stop()

    async def test_killed_and_restarted_server(self, bench: Bench, own_server: Server) -> None:
        """kill -9 and a start on the same data: new and unfinished messages, within 2 s."""
        handler = RecordingHandler()
        consumer = bench.consumer(handler, block_ms=5000)
        async with running(bench, consumer):
            await bench.push(1)
            await bench.until(lambda: len(handler.runs) == 1, "handled before")
            await bench.until(bench.settled, "and acknowledged")
            await asyncio.to_thread(own_server.restart)
            own_server.kill()
            await asyncio.to_thread(own_server.restart)
            started = time.monotonic()
            [entry_id] = await bench.push(2)
            await bench.until(lambda: entry_id in handler.runs, "handled after the restart", 2)
            assert time.monotonic() - started < 2

    async def test_outage_while_a_handler_runs_is_a_few_lines_in_the_log(
        self, bench: Bench, proxy: FaultProxy, warnings_logged: pytest.LogCaptureFixture
    ) -> None:
        """And the result of the handler is not lost: it is acknowledged afterwards."""
        release, executed = asyncio.Event(), 0

        async def handle(messages: list[StreamMessage]) -> list[str]:
            nonlocal executed
            executed += 1
            await release.wait()
            return [m.id for m in messages]

        consumer = bench.consumer(
            handle, client=through(proxy), block_ms=200, min_idle_claim_ms=LONG_MS
        )
        async with running(bench, consumer):
            await bench.push(1)
            await bench.until(lambda: executed, "the handler runs")
            proxy.refuse = True
            proxy.reset_all()
            await bench.until(lambda: warnings_logged.records, "the outage is in the log", 5)
            await asyncio.sleep(1.5)  # the outage itself lasts so long
            during = len(warnings_logged.records)
            release.set()
            proxy.refuse = False
            await bench.until(bench.settled, "acknowledged after the outage", 3)
        assert executed == 1
        assert during <= 6
        assert "Traceback" not in warnings_logged.text

    @pytest.mark.long
    async def test_outage_of_an_idle_consumer_is_a_few_lines_in_the_log(
        self, bench: Bench, proxy: FaultProxy, warnings_logged: pytest.LogCaptureFixture
    ) -> None:
        handler = RecordingHandler()
        async with running(bench, bench.consumer(handler, client=through(proxy), block_ms=50)):
            await until_blocked(bench)
            proxy.refuse = True
            proxy.reset_all()
            await bench.until(lambda: len(warnings_logged.records) >= 3, "three lines", 20)
            proxy.refuse = False
            [entry_id] = await bench.push(1)
            await bench.until(lambda: entry_id in handler.runs, "handled after it", 2)
        assert len(warnings_logged.records) <= 8
        assert "Traceback" not in warnings_logged.text


class TestALoopThatStoodStill:
    """A handler that holds the GIL, a stopped process: the answer lay there all the time."""

    async def test_is_not_taken_for_a_server_that_does_not_answer(
        self, bench: Bench, own_server: Server
    ) -> None:
        client = StreamClient.from_url(own_server.url, socket_timeout=0.3)
        await client.stream_len(bench.stream)  # connected
        with own_server.client() as admin:
            admin.client_pause(50)  # so late it answers
        asked = asyncio.ensure_future(client.stream_len(bench.stream))
        asyncio.get_running_loop().call_later(0.01, time.sleep, 0.5)
        assert await asked == 0
        await client.close()
