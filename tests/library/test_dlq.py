"""DeadLetterQueue: look, send back, throw away; a letter is never in neither place."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio

from redis_stream_queue import DeadLetterQueue, DLQError, StreamClient
from redis_stream_queue.connection.exchange import OUTAGES
from redis_stream_queue.delivery.dead_letter import LETTER_FIELDS
from tests.library.kit import GROUP, Bench, RecordingHandler
from tests.support.faultproxy import FaultProxy
from tests.support.servers import Server


async def fields_of(bench: Bench, stream: str) -> list[list[tuple[bytes, bytes]]]:
    """The fields of each entry of a stream in their order."""
    entries = await bench.client.command("XRANGE", stream, "-", "+")
    return [_pairs(fields) for _, fields in entries]


def _pairs(flat: list[bytes]) -> list[tuple[bytes, bytes]]:
    return list(zip(flat[::2], flat[1::2], strict=True))


async def bury(bench: Bench, *payloads: Any, **options: Any) -> list[str]:
    """Make these messages dead; returns their original ids."""
    ids = await bench.push(*payloads)
    await _bury_all(bench, **options)
    return ids


async def _bury_all(bench: Bench, **options: Any) -> None:
    handler = RecordingHandler()
    settings = {"max_deliveries": 1, "retry_delay_ms": 0, "batch_size": 1, **options}
    consumer = bench.consumer(handler, dlq_stream=bench.dlq, **settings)
    await bench.drain(consumer)


FAIL = {"mode": "fail"}


def queue_of(bench: Bench) -> DeadLetterQueue:
    return DeadLetterQueue(bench.client, bench.dlq)


class TestLook:
    async def test_list_and_get(self, bench: Bench) -> None:
        """The raw payload, and in the headers why it is here."""
        ids = await bury(bench, {**FAIL, "n": 1}, {**FAIL, "n": 2})
        letters = await queue_of(bench).list()
        assert [m.data for m in letters] == [b'{"mode":"fail","n":1}', b'{"mode":"fail","n":2}']
        assert [m.headers["original_id"] for m in letters] == ids
        headers = letters[0].headers
        assert set(headers) == set(LETTER_FIELDS)
        assert headers["original_stream"] == bench.stream
        assert (headers["group"], headers["reason"]) == (GROUP, "max_deliveries")
        assert headers["delivery_count"] == "1"
        assert headers["worker"].startswith(f"{GROUP}_")
        assert headers["dead_letter_ts"].isdecimal()
        assert headers["last_error"].startswith("RuntimeError: this payload cannot be handled")
        assert "Traceback" in headers["last_error"] or "in __call__" in headers["last_error"]
        assert await queue_of(bench).get(letters[1].id) == letters[1]

    async def test_page_by_page(self, bench: Bench) -> None:
        for n in range(5):
            await bench.add_raw({"data": n}, bench.dlq)
        queue = queue_of(bench)
        first = await queue.list(2)
        rest = await queue.list(10, after=first[-1].id)
        assert [m.data for m in (*first, *rest)] == [b"0", b"1", b"2", b"3", b"4"]

    async def test_nothing_there(self, bench: Bench) -> None:
        queue = queue_of(bench)
        assert list(await queue.list()) == []
        assert await queue.get("1-1") is None
        assert await queue.requeue() == 0
        assert await queue.requeue(["1-1"]) == 0
        assert await queue.purge() == 0
        assert await queue.purge(["1-1"]) == 0


class TestRequeue:
    async def test_goes_back_as_it_was(self, bench: Bench) -> None:
        """Payload and the sender's own fields, none of those added at burial; counted anew."""
        await bench.add_raw({"data": '{"mode":"fail"}', "trace": "abc", "reason": "mine"})
        await _bury_all(bench)
        assert len(await bench.letters()) == 1
        assert await queue_of(bench).requeue() == 1
        assert await bench.letters() == []
        *_, back = await fields_of(bench, bench.stream)
        assert back == [(b"data", b'{"mode":"fail"}'), (b"trace", b"abc"), (b"reason", b"mine")]
        handler = RecordingHandler()
        await bench.consumer(handler).run_once()
        assert [m.delivery_count for m in handler.messages] == [1]

    async def test_some_or_all(self, bench: Bench) -> None:
        await bury(bench, *({**FAIL, "n": n} for n in range(4)))
        queue = queue_of(bench)
        letters = await queue.list()
        assert await queue.requeue([letters[1].id, letters[3].id]) == 2
        assert [m.id for m in await queue.list()] == [letters[0].id, letters[2].id]
        assert await queue.requeue([]) == 0
        assert await queue.requeue([letters[1].id]) == 0
        assert await queue.requeue() == 2
        assert len(await bench.entry_ids()) == 8

    async def test_more_than_a_page(self, bench: Bench) -> None:
        for n in range(250):
            await bench.add_raw({"data": n, "original_stream": bench.stream}, bench.dlq)
        assert await queue_of(bench).requeue() == 250
        assert await bench.letters() == []
        assert len(await bench.entry_ids()) == 250

    async def test_to_another_stream(self, bench: Bench) -> None:
        await bury(bench, FAIL)
        assert await queue_of(bench).requeue(to=f"{bench.stream}_other") == 1
        [fields] = await fields_of(bench, f"{bench.stream}_other")
        assert fields == [(b"data", b'{"mode":"fail"}')]

    async def test_prefix(self, client_url: str, stream: str) -> None:
        """The original stream is a whole key; a name in ``to`` gets the prefix."""
        client = StreamClient.from_url(client_url, prefix="shop")
        async with Bench(client, stream) as bench:
            await bury(bench, FAIL, FAIL)
            queue = queue_of(bench)
            first, _ = await queue.list()
            assert first.headers["original_stream"] == f"shop_{stream}"
            assert await queue.requeue([first.id]) == 1
            assert len(await bench.entry_ids()) == 3
            assert await queue.requeue(to="other") == 1
            assert await client.stream_len("other") == 1
        await StreamClient.close_all()

    async def test_foreign_letters_keep_all_fields(self, bench: Bench) -> None:
        """Letters that another program wrote: nothing is taken for ours and cut off."""
        foreign: list[dict[str, str]] = [
            {"data": "1", "reason": "theirs", "original_stream": bench.stream, "x": "y"},
            {"payload": "2", "original_stream": bench.stream},
            {"original_stream": bench.stream, "original_id": "1-1", "group": "g"},
            dict.fromkeys(LETTER_FIELDS, "v") | {"original_stream": bench.stream},
        ]
        for fields in foreign:
            await bench.add_raw(fields, bench.dlq)
        assert await queue_of(bench).requeue() == 4
        expected = [[(k.encode(), v.encode()) for k, v in f.items()] for f in foreign]
        assert await fields_of(bench, bench.stream) == expected

    async def test_letter_without_an_origin(self, bench: Bench) -> None:
        """An error that says what to do, before any letter has moved."""
        await bury(bench, FAIL)
        stray = await bench.add_raw({"data": "stray"}, bench.dlq)
        queue = queue_of(bench)
        with pytest.raises(DLQError, match=rf"{stray}.*to="):
            await queue.requeue()
        assert len(await bench.letters()) == 2
        assert await queue.requeue(to=bench.stream) == 2

    async def test_whole_entries_as_payload(self, bench: Bench) -> None:
        """payload_field=None: every field of the entry comes back."""
        await bench.add_raw({"mode": "fail", "b": "2"})
        await _bury_all(bench, payload_field=None)
        [letter] = await bench.letters()
        assert (letter["mode"], letter["b"], letter["reason"]) == ("fail", "2", "max_deliveries")
        assert await queue_of(bench).requeue() == 1
        *_, back = await fields_of(bench, bench.stream)
        assert back == [(b"mode", b"fail"), (b"b", b"2")]

    async def test_dies_again(self, bench: Bench) -> None:
        """A letter that is buried a second time has one set of added fields."""
        await bury(bench, FAIL)
        await queue_of(bench).requeue()
        await _bury_all(bench)
        [fields] = await fields_of(bench, bench.dlq)
        assert len(fields) == 1 + len(LETTER_FIELDS)


class TestPurge:
    async def test_some_or_all(self, bench: Bench) -> None:
        ids = [await bench.add_raw({"data": n}, bench.dlq) for n in range(250)]
        queue = queue_of(bench)
        assert await queue.purge(ids[:2]) == 2
        assert await queue.purge([]) == 0
        assert len(await bench.letters()) == 248
        assert await queue.purge() == 248
        assert await bench.letters() == []

    async def test_touches_nothing_else(self, bench: Bench) -> None:
        await bury(bench, FAIL)
        before = await bench.entry_ids()
        await queue_of(bench).purge()
        assert await bench.entry_ids() == before


class TestInterrupted:
    """The connection is cut after each possible number of reply bytes."""

    @pytest_asyncio.fixture
    async def proxy(self, server: Server) -> AsyncIterator[FaultProxy]:
        assert server.socket_path is not None
        async with FaultProxy(server.socket_path) as proxy:
            yield proxy
            await StreamClient.close_all()

    @pytest.mark.parametrize("what", ["requeue", "purge"])
    async def test_nothing_is_lost_or_doubled(
        self, what: str, server_bench: Bench, proxy: FaultProxy
    ) -> None:
        bench = server_bench
        queue = DeadLetterQueue(StreamClient.from_url(proxy.url), bench.dlq)
        interrupted = 0
        for cut_after in (*range(0, 60, 3), *range(60, 1500, 37)):
            await bench.client.command("DEL", bench.stream)
            await bench.client.command("DEL", bench.dlq)
            letters = {str(n) for n in range(6)}
            for n in letters:
                await bench.add_raw({"data": n, "original_stream": bench.stream}, bench.dlq)
            proxy.cut_after = cut_after
            try:
                await getattr(queue, what)()
            except OUTAGES:
                interrupted += 1
            proxy.cut_after = None
            left = [fields["data"] for fields in await bench.letters()]
            back = [dict(f)[b"data"].decode() for f in await fields_of(bench, bench.stream)]
            if what == "requeue":
                assert sorted(left + back) == sorted(letters)
                assert await queue.requeue() == len(left)  # and what is left is finished later
                assert await bench.client.stream_len(bench.stream) == 6
            else:
                await queue.purge()
                assert back == []
            assert await bench.letters() == []
        assert interrupted > 10
