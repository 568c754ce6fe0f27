"""Cut, stalled and killed connections, full and forbidding servers: nothing is lost, nothing hangs.

Every test talks to one real server of this file's own, most of them through a proxy.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
import pytest_asyncio

from redis_stream_queue import (
    ConsumerConfig,
    StreamClient,
    StreamMessage,
    StreamProducer,
    UnsupportedServer,
)
from redis_stream_queue.delivery.burial_mark import read_count
from redis_stream_queue.delivery.in_flight import InFlight
from redis_stream_queue.delivery.pending import PendingList, SeenEntry
from tests.library.kit import GROUP, WAIT_S, Bench, Ledger, running
from tests.support.faultproxy import FaultProxy
from tests.support.servers import NAMES, Server
from tests.support.waiting import wait_until_async

LONG_MS = 60_000


@pytest.fixture(scope="module")
def own_server(_no_process_left: None) -> Iterator[Server]:
    with Server.start(NAMES[0]) as server:
        yield server


@pytest_asyncio.fixture
async def direct(own_server: Server) -> AsyncIterator[StreamClient]:
    """A client past the proxy, to look at the facts."""
    own_server.flush()
    client = StreamClient.from_url(own_server.url)
    yield client
    await StreamClient.close_all()


@pytest_asyncio.fixture
async def proxy(own_server: Server, direct: StreamClient) -> AsyncIterator[FaultProxy]:
    assert own_server.socket_path is not None
    async with FaultProxy(own_server.socket_path) as proxy:
        yield proxy
        await StreamClient.close_all()


@pytest_asyncio.fixture
async def bench(direct: StreamClient, stream: str) -> AsyncIterator[Bench]:
    async with Bench(direct, stream) as bench:
        yield bench


def through(proxy: FaultProxy, **options: Any) -> StreamClient:
    return StreamClient.from_url(proxy.url, **options)


async def until_blocked(bench: Bench) -> None:
    """Wait until some consumer waits for messages in Redis."""

    async def is_blocked() -> bool:
        clients = await bench.client.link().call(bench.stream, "CLIENT", "LIST")
        return any(b"cmd=xreadgroup" in c and b"flags=b" in c for c in clients.splitlines())

    await bench.until(is_blocked, "a consumer waits for messages")


class TestLostReplies:
    """What the server delivered into a cut connection is found by its owner at its next read."""

    async def test_of_a_read_strand_nothing(self, bench: Bench, proxy: FaultProxy) -> None:
        """No idle time passes: the owner takes what its name holds and it does not run."""
        ledger = Ledger()
        consumer = bench.consumer(
            ledger, client=through(proxy), block_ms=5000, min_idle_claim_ms=LONG_MS
        )
        async with running(bench, consumer):
            await until_blocked(bench)
            proxy.cut_after = 0
            ids = await bench.push(1, 2, 3)
            await bench.until(bench.pending, "the server delivered them")
            proxy.cut_after = None
            await bench.until(bench.settled, "all are done", 3)
        assert ledger.runs == dict.fromkeys(ids, 1)

    async def test_cut_in_the_middle_of_a_reply(self, bench: Bench, proxy: FaultProxy) -> None:
        ledger = Ledger()
        consumer = bench.consumer(
            ledger, client=through(proxy), block_ms=5000, min_idle_claim_ms=LONG_MS
        )
        ids: list[str] = []
        async with running(bench, consumer):
            for cut_after in (1, 7, 40, 90):
                await until_blocked(bench)
                proxy.cut_after = cut_after
                ids += await bench.push(*range(5))
                await bench.until(bench.pending, "the server delivered them")
                proxy.cut_after = None
                await bench.until(bench.settled, f"all are done after a cut at {cut_after}", 3)
        assert ledger.runs == dict.fromkeys(ids, 1)

    @pytest.mark.parametrize("max_deliveries", [1, 2])
    async def test_at_the_last_permitted_delivery_is_handled_once_and_never_buried_unseen(
        self, bench: Bench, proxy: FaultProxy, max_deliveries: int
    ) -> None:
        """The delivery that reached nobody is not the one it is permitted."""
        ledger = Ledger()
        consumer = bench.consumer(
            ledger, client=through(proxy), block_ms=5000, min_idle_claim_ms=LONG_MS,
            max_deliveries=max_deliveries, dlq_stream=bench.dlq,
        )  # fmt: skip
        async with running(bench, consumer):
            await until_blocked(bench)
            proxy.cut_after = 0
            [entry_id] = await bench.push(1)
            await bench.until(bench.pending, "the server delivered it")
            proxy.cut_after = None
            await bench.until(bench.settled, "it is done", 3)
        assert ledger.runs == {entry_id: 1}
        assert await bench.letters() == []

    async def test_of_a_take_over_strand_nothing(self, bench: Bench, proxy: FaultProxy) -> None:
        """Also the last permitted delivery: it is handled once, and not buried unseen."""
        ledger = Ledger()
        ids = await bench.push("second of three", "last of three")
        await bench.deliver("gone")
        await bench.client.command(
            "XCLAIM", bench.stream, GROUP, "gone", 0, *ids, "IDLE", 0, "JUSTID"
        )
        client = through(proxy)
        consumer = bench.consumer(
            ledger, client=client, min_idle_claim_ms=300, dlq_stream=bench.dlq, worker_name="me"
        )
        await consumer.run_once()
        assert ledger.batches == []
        await bench.set_pending(ids[0], "gone", 10_000, 1)
        await bench.set_pending(ids[1], "gone", 10_000, 2)
        await consumer._in_flight.take(
            [SeenEntry("1-1", "gone", 1, 0, 2)]
        )  # the script is known now
        offers = [SeenEntry(ids[0], "gone", 1, 0, 2), SeenEntry(ids[1], "gone", 2, 0, 3)]
        await cut_the_reply_of(proxy, consumer._in_flight.take(offers))
        assert await bench.pending() == {ids[0]: ("me", 2), ids[1]: ("me", 3)}
        for _ in range(4):
            await consumer.run_once()
        assert ledger.runs == dict.fromkeys(ids, 1)
        assert ledger.counts(ids[1]) == [3]
        assert await bench.letters() == []
        assert await bench.settled()

    async def test_of_taking_the_dead_runs_none_of_them(
        self, bench: Bench, proxy: FaultProxy
    ) -> None:
        ledger = Ledger()
        [entry_id] = await bench.push("dead")
        await bench.deliver("gone")
        consumer = bench.consumer(
            ledger, client=through(proxy), dlq_stream=bench.dlq, min_idle_claim_ms=60_000
        )
        await consumer.run_once()
        await consumer._in_flight.take(
            [SeenEntry("1-1", "gone", 1, 0, 2)]
        )  # the script is known now
        await bench.set_pending(entry_id, "gone", 0, 3)
        await cut_the_reply_of(
            proxy, consumer._in_flight.bury([SeenEntry(entry_id, "gone", 3, 0, 3)], "rejected")
        )
        await consumer.run_once()
        assert ledger.batches == []
        [letter] = await bench.letters()
        assert (letter["reason"], letter["delivery_count"]) == ("rejected", "3")
        assert await bench.settled()

    async def test_of_taking_the_dead_makes_its_letter_at_the_next_settling(
        self, bench: Bench, proxy: FaultProxy
    ) -> None:
        """It waits for no idle time, whoever buries: the master has no loop of a consumer."""
        config = ConsumerConfig(group=GROUP, dlq_stream=bench.dlq, min_idle_claim_ms=60_000)
        in_flight = InFlight(through(proxy), bench.stream, config)
        ids = await bench.push(1, 2)
        await bench.deliver("gone", 2)
        await in_flight.bury([SeenEntry(ids[0], "gone", 1, 0, 1)])  # the scripts are known now
        seen = SeenEntry(ids[1], "gone", 1, 0, 1)
        await cut_the_reply_of(proxy, in_flight.bury([seen], "rejected"))
        [(_, count)] = (await bench.pending()).values()
        assert read_count(count) == (1, "rejected", 1)
        await in_flight.settle()
        assert [letter["worker"] for letter in await bench.letters()] == ["gone", "gone"]
        await in_flight.leave()
        assert await bench.settled()

    async def test_of_a_burial_makes_one_letter(self, bench: Bench, proxy: FaultProxy) -> None:
        """The atomic step went through, only its reply was lost."""
        [entry_id] = await bench.push(1)
        await bench.deliver("me")
        pending = PendingList(through(proxy), bench.stream, GROUP)
        assert (
            await pending.move_to_dlq("other", entry_id, bench.dlq, None, {}) is None
        )  # script known
        await cut_the_reply_of(
            proxy, pending.move_to_dlq("me", entry_id, bench.dlq, None, {"reason": "x"})
        )
        assert await pending.move_to_dlq("me", entry_id, bench.dlq, None, {"reason": "x"}) is None
        assert len(await bench.letters()) == 1
        assert await bench.pending() == {}

    async def test_of_an_acknowledgement_runs_nothing_twice(
        self, bench: Bench, proxy: FaultProxy
    ) -> None:
        """The acknowledgement is repeated, not the work."""
        ledger = Ledger()
        handled = asyncio.Event()

        async def handle(messages: list[StreamMessage]) -> list[str]:
            proxy.cut_after = 0
            handled.set()
            return await ledger(messages)

        consumer = bench.consumer(
            handle, client=through(proxy), block_ms=5000, min_idle_claim_ms=LONG_MS
        )
        async with running(bench, consumer):
            await until_blocked(bench)
            ids = await bench.push(1, 2)
            await asyncio.wait_for(handled.wait(), WAIT_S)
            await asyncio.sleep(0)
            proxy.cut_after = None
            await bench.until(bench.settled, "acknowledged", 3)
        assert ledger.runs == dict.fromkeys(ids, 1)

    async def test_cut_at_every_moment_for_a_while(self, bench: Bench, proxy: FaultProxy) -> None:
        """200 messages while all connections are reset again and again: each is handled once."""
        ledger = Ledger()
        options = {"block_ms": 50, "min_idle_claim_ms": LONG_MS, "batch_size": 5}
        consumers = [bench.consumer(ledger, client=through(proxy), **options) for _ in range(2)]
        ids: list[str] = []
        async with running(bench, *consumers):
            for n in range(20):
                ids += await bench.push(*range(10))
                proxy.cut_after = n * 13
                await asyncio.sleep(0.005)
                proxy.reset_all()
                proxy.cut_after = None
            await bench.until(bench.settled, "all are done")
        assert set(ledger.runs) == set(ids)
        assert max(ledger.runs.values()) == 1


async def cut_the_reply_of(proxy: FaultProxy, call: Any) -> None:
    """Let a call reach the server and reset the connection instead of answering."""
    proxy.cut_after = 0
    with pytest.raises((OSError, Exception), match=r"(?i)connection|closed|reset"):
        await call
    proxy.cut_after = None


class TestOutage:
    """The consumer goes on by itself within 2 s of Redis."""

    async def test_stalled_connection(self, bench: Bench, proxy: FaultProxy) -> None:
        """Open, but nothing passes: noticed after block_ms and the margin, and left behind."""
        ledger = Ledger()
        consumer = bench.consumer(
            ledger, client=through(proxy, socket_timeout=0.3), block_ms=200,
            min_idle_claim_ms=LONG_MS,
        )  # fmt: skip
        async with running(bench, consumer):
            await until_blocked(bench)
            proxy.stall()
            ids = await bench.push(1, 2, 3)
            await asyncio.sleep(0.7)  # the fault itself lasts so long
            proxy.resume()
            await bench.until(bench.settled, "all are done", 2)
        assert ledger.runs == dict.fromkeys(ids, 1)

    async def test_half_open_connection(self, bench: Bench, proxy: FaultProxy) -> None:
        """The server forgot the connection and said nothing: a read does not wait for ever."""
        ledger = Ledger()
        consumer = bench.consumer(
            ledger, client=through(proxy, socket_timeout=0.3), block_ms=200,
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
        await bench.until(lambda: entry_id in ledger.runs, "handled over a new connection", 3)
        await other.stop()

    async def test_killed_and_restarted_server(self, bench: Bench, own_server: Server) -> None:
        """kill -9 and a start on the same data: new and unfinished messages, within 2 s."""
        ledger = Ledger()
        consumer = bench.consumer(ledger, block_ms=5000)
        async with running(bench, consumer):
            await bench.push(1)
            await bench.until(lambda: len(ledger.runs) == 1, "handled before")
            await bench.until(bench.settled, "and acknowledged")
            await asyncio.to_thread(own_server.restart)
            own_server.kill()
            await asyncio.to_thread(own_server.restart)
            started = time.monotonic()
            [entry_id] = await bench.push(2)
            await bench.until(lambda: entry_id in ledger.runs, "handled after the restart", 2)
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

    async def test_outage_of_an_idle_consumer_is_a_few_lines_in_the_log(
        self, bench: Bench, proxy: FaultProxy, warnings_logged: pytest.LogCaptureFixture
    ) -> None:
        ledger = Ledger()
        async with running(bench, bench.consumer(ledger, client=through(proxy), block_ms=50)):
            await until_blocked(bench)
            proxy.refuse = True
            proxy.reset_all()
            await bench.until(lambda: len(warnings_logged.records) >= 3, "three lines", 20)
            proxy.refuse = False
            [entry_id] = await bench.push(1)
            await bench.until(lambda: entry_id in ledger.runs, "handled after it", 2)
        assert len(warnings_logged.records) <= 8
        assert "Traceback" not in warnings_logged.text


class TestFullServer:
    """maxmemory with noeviction: consuming goes on, and what cannot be written waits."""

    async def test_a_dead_letter_waits_and_nothing_is_lost(
        self, bench: Bench, own_server: Server, warnings_logged: pytest.LogCaptureFixture
    ) -> None:
        ledger = Ledger()
        bad = await bench.add_raw({"data": b"not json"})
        [good] = await bench.push({"n": 1})
        consumer = bench.consumer(ledger, dlq_stream=bench.dlq, block_ms=50)
        await consumer._ensure()  # XGROUP CREATE needs memory too
        with own_server.client() as admin:
            admin.config_set("maxmemory-policy", "noeviction")
            admin.config_set("maxmemory", 1)
        try:
            async with running(bench, consumer):
                await bench.until(lambda: good in ledger.runs, "the good one is handled")
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
        assert ledger.runs == {good: 1}

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


class TestALoopThatStoodStill:
    """A handler that holds the GIL, a stopped process: the answer lay there all the time."""

    async def test_is_not_taken_for_a_server_that_does_not_answer(
        self, bench: Bench, own_server: Server
    ) -> None:
        client = StreamClient.from_url(own_server.url, socket_timeout=0.1)
        await client.stream_len(bench.stream)  # connected
        with own_server.client() as admin:
            admin.client_pause(50)  # so late it answers
        asked = asyncio.ensure_future(client.stream_len(bench.stream))
        asyncio.get_running_loop().call_later(0.01, time.sleep, 0.5)
        assert await asked == 0
        await client.close()


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
        consumer = bench.consumer(Ledger(), client=StreamClient.from_url(limited))
        with pytest.raises(UnsupportedServer, match=r"ACL SETUSER .*\+eval") as caught:
            await asyncio.wait_for(consumer.run_once(), WAIT_S)
        assert "pw@" not in str(caught.value)

    async def test_run_says_so_once_and_goes_on_when_it_is_permitted(
        self, bench: Bench, limited: str, own_server: Server, caplog: pytest.LogCaptureFixture
    ) -> None:
        ledger = Ledger()
        await bench.push(1)
        consumer = bench.consumer(ledger, client=StreamClient.from_url(limited))
        running = asyncio.create_task(consumer.run())
        await bench.until(lambda: len(caplog.records) > 0, "it says so")
        await asyncio.sleep(0.3)  # several more tries
        assert not running.done()
        assert caplog.text.count("ACL SETUSER") == 1
        with own_server.client() as admin:
            admin.execute_command("ACL", "SETUSER", "limited", "+@scripting")
        await bench.until(lambda: bool(ledger.messages), "the message is handled")
        consumer.stop()
        await asyncio.wait_for(running, WAIT_S)

    async def test_producer_falls_back(self, bench: Bench, limited: str) -> None:
        """push, push_many and their sync forms work without scripts; trimming has to wait."""
        client = StreamClient.from_url(limited)
        producer = StreamProducer(client, bench.stream, max_len=1)
        ids = await asyncio.gather(*(producer.push(n) for n in range(5)))
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
        ledger = Ledger()
        async with running(bench, bench.consumer(ledger, client=client, block_ms=50)):
            await bench.push(1)
            await bench.until(lambda: ledger.batches, "handled")
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
            await wait_until_async(lambda: entry_id in ledger.runs, 3, "handled again")
        await client.close()
        with own_server.client() as admin:
            admin.execute_command("ACL DELUSER", "moody")
