"""Full and forbidding servers: nothing is lost, and it is said what is missing."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest

from redis_stream_queue import StreamClient, StreamProducer, UnsupportedServer
from tests.library.kit import WAIT_S, Bench, RecordingHandler, running
from tests.support.servers import Server
from tests.support.waiting import wait_until_async


class TestFullServer:
    """maxmemory with noeviction: consuming goes on, and what cannot be written waits."""

    async def test_a_dead_letter_waits_and_nothing_is_lost(
        self, bench: Bench, own_server: Server, warnings_logged: pytest.LogCaptureFixture
    ) -> None:
        handler = RecordingHandler()
        bad = await bench.add_raw({"data": b"not json"})
        [good] = await bench.push({"n": 1})
        consumer = bench.consumer(handler, dlq_stream=bench.dlq, block_ms=50)
        await consumer._ensure()  # XGROUP CREATE needs memory too
        with own_server.client() as admin:
            admin.config_set("maxmemory-policy", "noeviction")
            admin.config_set("maxmemory", 1)
        try:
            async with running(bench, consumer):
                await bench.until(lambda: good in handler.runs, "the good one is handled")
                await bench.until(
                    lambda: "could not be buried" in warnings_logged.text, "the refusal is logged"
                )
                assert list(await bench.pending()) == [bad]
                with own_server.client() as admin:
                    admin.config_set("maxmemory", 0)
                await bench.until(bench.letters, "the letter is there after all", 4)
        finally:
            with own_server.client() as admin:
                admin.config_set("maxmemory", 0)
        [letter] = await bench.letters()
        assert (letter["original_id"], letter["reason"]) == (bad, "decode_error")
        assert await bench.settled()
        assert handler.runs == {good: 1}

    async def test_a_group_that_cannot_be_made_again(
        self, bench: Bench, own_server: Server, warnings_logged: pytest.LogCaptureFixture
    ) -> None:
        """Evicted, and the memory is full: it is tried again and again, and said now and then."""
        handler = RecordingHandler()
        with own_server.client() as admin:
            async with running(bench, bench.consumer(handler, block_ms=50)):
                [entry_id] = await bench.push(1)
                await bench.until(lambda: entry_id in handler.runs, "handled")
                admin.config_set("maxmemory-policy", "noeviction")
                admin.config_set("maxmemory", 1)
                try:
                    admin.config_resetstat()
                    admin.delete(bench.stream)
                    await bench.until(lambda: _refused(admin, "xgroup|create") >= 6, "tried often")
                finally:
                    admin.config_set("maxmemory", 0)
                [entry_id] = await bench.push(2)
                await bench.until(lambda: entry_id in handler.runs, "handled", 4)
        said = [line for line in warnings_logged.messages if "cannot be made again" in line]
        assert 1 <= len(said) <= 3

    async def test_push_says_so(self, bench: Bench, own_server: Server) -> None:
        """Each caller gets the server's error; nothing is half done."""
        producer = StreamProducer(bench.client, bench.stream)
        with own_server.client() as admin:
            admin.config_set("maxmemory-policy", "noeviction")
            admin.config_set("maxmemory", 1)
            try:
                with pytest.raises(Exception, match=r"OOM|maxmemory"):
                    await producer.push(1)
                with pytest.raises(Exception, match=r"OOM|maxmemory"):
                    await producer.push_many([1, 2])
                with pytest.raises(Exception, match=r"OOM|maxmemory"):
                    await asyncio.to_thread(producer.push_many_sync, [1, 2])
            finally:
                admin.config_set("maxmemory", 0)
        assert await bench.client.stream_len(bench.stream) == 0
        await producer.close()


def _refused(admin: Any, command: str) -> int:
    stats = admin.info("commandstats").get(f"cmdstat_{command}", {})
    return int(stats.get("rejected_calls", 0)) + int(stats.get("failed_calls", 0))


class TestPermissions:
    """An ACL without scripts."""

    @pytest.fixture
    def limited(self, own_server: Server) -> Iterator[str]:
        """URL of a user that may not run scripts."""
        with own_server.client() as admin:
            admin.execute_command(
                "ACL SETUSER", "limited", "on", ">pw", "~*", "&*", "+@all", "-@scripting"
            )
            yield own_server.url.replace("unix://", "unix://limited:pw@")
            admin.execute_command("ACL DELUSER", "limited")

    async def test_consumer_is_refused_with_the_line_that_is_missing(
        self, bench: Bench, limited: str
    ) -> None:
        consumer = bench.consumer(RecordingHandler(), client=StreamClient.from_url(limited))
        with pytest.raises(UnsupportedServer, match=r"ACL SETUSER .*\+eval") as caught:
            await asyncio.wait_for(consumer.run_once(), WAIT_S)
        assert "pw@" not in str(caught.value)

    async def test_run_says_so_once_and_goes_on_when_it_is_permitted(
        self, bench: Bench, limited: str, own_server: Server, caplog: pytest.LogCaptureFixture
    ) -> None:
        handler = RecordingHandler()
        await bench.push(1)
        consumer = bench.consumer(handler, client=StreamClient.from_url(limited))
        running = asyncio.create_task(consumer.run())
        await bench.until(lambda: len(caplog.records) > 0, "it says so")
        await asyncio.sleep(0.3)  # several more tries
        assert not running.done()
        assert caplog.text.count("ACL SETUSER") == 1
        with own_server.client() as admin:
            admin.execute_command("ACL", "SETUSER", "limited", "+@scripting")
        await bench.until(lambda: bool(handler.messages), "the message is handled")
        consumer.stop()
        await asyncio.wait_for(running, WAIT_S)

    async def test_producer_falls_back(self, bench: Bench, limited: str) -> None:
        """push, push_many and their sync forms work without scripts; trimming has to wait."""
        client = StreamClient.from_url(limited)
        producer = StreamProducer(client, bench.stream, max_len=1)
        # they travel on five connections, so in any order
        ids = sorted(await asyncio.gather(*(producer.push(n) for n in range(5))))
        ids += await producer.push_many(list(range(1500)))
        ids += await asyncio.to_thread(producer.push_many_sync, list(range(1500)))
        assert await bench.entry_ids() == ids
        await producer.close()

    async def test_permission_taken_away_while_it_runs(
        self, bench: Bench, own_server: Server, warnings_logged: pytest.LogCaptureFixture
    ) -> None:
        """NOPERM is survived like an outage: logged, and over when the permission is back."""
        with own_server.client() as admin:
            admin.execute_command("ACL SETUSER", "moody", "on", ">pw", "~*", "&*", "+@all")
        client = StreamClient.from_url(own_server.url.replace("unix://", "unix://moody:pw@"))
        handler = RecordingHandler()
        async with running(bench, bench.consumer(handler, client=client, block_ms=50)):
            await bench.push(1)
            await bench.until(lambda: handler.batches, "handled")
            with own_server.client() as admin:
                admin.execute_command("ACL SETUSER", "moody", "-@all")
            await bench.until(
                lambda: (
                    "moody" in warnings_logged.text or "permission" in warnings_logged.text.lower()
                ),
                "it is logged",
            )
            with own_server.client() as admin:
                admin.execute_command("ACL SETUSER", "moody", "+@all")
            [entry_id] = await bench.push(2)
            await wait_until_async(lambda: entry_id in handler.runs, 3, "handled again")
        await client.close()
        with own_server.client() as admin:
            admin.execute_command("ACL DELUSER", "moody")
