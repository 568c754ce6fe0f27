"""A program written against the interface of popoto.streams runs with its import line replaced."""

from __future__ import annotations

import asyncio
import itertools
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
import redis

from redis_stream_queue import ConfigError, StreamClient
from redis_stream_queue.popoto import StreamConsumer
from tests.guide.conftest import ROOT
from tests.support.waiting import wait_until, wait_until_async

WAIT_S = 10.0
_numbers = itertools.count(1)

Entry = tuple[str, dict[str, str]]


class Handler:
    """Notes what it gets, then fails if it was told to or if an entry says so."""

    def __init__(self, failing: bool = False) -> None:
        self.failing = failing
        self.batches: list[list[Entry]] = []

    async def __call__(self, entries: list[Entry]) -> None:
        self.batches.append(entries)
        if self.failing or any("bad" in fields for _, fields in entries):
            raise ValueError("no such customer")

    @property
    def ids(self) -> list[str]:
        return [entry_id for batch in self.batches for entry_id, _ in batch]


class Place:
    """A stream of its own on a server, and a plain client to look at it."""

    def __init__(self, look: Any) -> None:
        self.look = look
        self.stream = f"stream:orders:{next(_numbers)}"  # a process remembers which groups exist

    def add(self, **fields: Any) -> str:
        return str(self.look.xadd(self.stream, fields))

    def consumer(self, handler: Any, name: str = "worker-1", **options: Any) -> StreamConsumer:
        settings = {"block_ms": 10, "claim_timeout_ms": 50, **options}
        return StreamConsumer(
            stream_key=self.stream,
            group_name="billing",
            consumer_name=name,
            handler=handler,
            **settings,
        )

    def pending(self) -> int:
        return int(self.look.xpending(self.stream, "billing")["pending"])

    def dead(self) -> list[dict[str, str]]:
        return [fields for _, fields in self.look.xrange(f"dead:{self.stream}")]


@pytest.fixture
def place(redis_url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Place]:
    """The consumers find the server by REDIS_URL."""
    monkeypatch.setenv("REDIS_URL", redis_url)
    with redis.Redis.from_url(redis_url, decode_responses=True) as client:
        yield Place(client)


def test_a_batch_is_acknowledged_when_the_handler_returns(place: Place) -> None:
    """Entries arrive as ids and texts, at most batch_size at a time; the count is returned."""
    ids = [place.add(n=n, name="Zoë") for n in range(3)]
    handler = Handler()
    worker = place.consumer(handler, batch_size=2)

    assert [worker.process_batch_sync() for _ in range(3)] == [2, 1, 0]

    assert handler.batches[0] == [(ids[n], {"n": str(n), "name": "Zoë"}) for n in range(2)]
    assert handler.ids == ids
    assert place.pending() == 0


async def test_the_same_in_a_loop_of_ones_own(place: Place, redis_url: str) -> None:
    """process_batch() is awaited with a client of one's own."""
    client = StreamClient.from_url(redis_url)
    place.add(n=1)

    assert await place.consumer(Handler(), client=client).process_batch() == 1

    await client.close()


def test_sync_and_async_calls_mix(place: Place) -> None:
    """One consumer serves one event loop after another, whoever closed which."""
    worker = place.consumer(Handler())

    async def forgetful() -> int:
        return await worker.process_batch()

    async def tidy() -> int:
        handled = await worker.process_batch()
        await StreamClient.close_all()
        return handled

    handled = 0
    for call in (
        lambda: asyncio.run(forgetful()),
        lambda: asyncio.run(forgetful()),
        worker.process_batch_sync,
        lambda: asyncio.run(tidy()),
    ):
        place.add(n=1)
        handled += call()

    assert handled == 4


def test_a_failure_reaches_the_caller_and_the_batch_comes_again(place: Place) -> None:
    """Nothing is acknowledged, and one call fails once only, however soon the entry is due."""
    place.add(n=1)
    handler = Handler(failing=True)
    worker = place.consumer(handler, claim_timeout_ms=1)

    with pytest.raises(ValueError, match="no such customer"):
        worker.process_batch_sync()
    assert (len(handler.ids), place.pending()) == (1, 1)

    handler.failing = False
    wait_until(lambda: worker.process_batch_sync() == 1, WAIT_S, "it comes again")
    assert (len(handler.ids), place.pending()) == (2, 0)


def test_after_max_retries_an_entry_is_a_dead_letter(place: Place) -> None:
    """The letter has the entry's fields and the five that say why; what was read with it lives."""
    good = place.add(n=1)
    bad = place.add(n=2, bad="yes")
    handler = Handler()
    worker = place.consumer(handler, max_retries=2, claim_timeout_ms=5)
    before_s = time.time()

    def all_settled() -> bool:
        try:
            worker.process_batch_sync()
        except ValueError:
            return False
        return place.pending() == 0

    wait_until(all_settled, WAIT_S, "everything is settled")

    [letter] = place.dead()
    assert handler.ids.count(bad) == 3  # and two retries
    assert [(good, {"n": "1"})] in handler.batches  # the last permitted delivery is alone
    assert before_s - 1 < float(letter.pop("dead_letter_ts")) < time.time() + 1
    assert "ValueError: no such customer" in letter.pop("last_error")
    assert letter == {
        "n": "2",
        "bad": "yes",
        "original_stream": place.stream,
        "original_id": bad,
        "failure_count": "3",
    }


def test_run_goes_on_after_a_failure_and_ends_by_stop(place: Place) -> None:
    """run_sync() in a thread; stop() from another one."""
    handler = Handler()
    worker = place.consumer(handler, max_retries=0)
    thread = threading.Thread(target=worker.run_sync)
    thread.start()
    try:
        place.add(bad="yes")
        wait_until(lambda: len(place.dead()) == 1, WAIT_S, "the bad one is a dead letter")
        good = place.add(n=1)
        wait_until(lambda: good in handler.ids and place.pending() == 0, WAIT_S, "the next is done")
    finally:
        worker.stop()
        thread.join(WAIT_S)
    assert not thread.is_alive()


@pytest.mark.parametrize("end", ["stop in it", "stop from outside"])
async def test_run_calls_the_process_batch_of_a_subclass(place: Place, end: str) -> None:
    class Counting(StreamConsumer):
        rounds = 0

        async def process_batch(self) -> int:
            self.rounds += 1
            if self.rounds == 2:
                raise RuntimeError("the loop goes on")
            if self.rounds == 4 and end == "stop in it":
                self.stop()
            return await super().process_batch()

    handler = Handler()
    worker = Counting(place.stream, "billing", "worker-1", handler, block_ms=10)
    entry = place.add(ключ="значение")
    running = asyncio.create_task(worker.run())
    if end == "stop from outside":
        await wait_until_async(lambda: worker.rounds >= 4, WAIT_S, "it goes round")
        worker.stop()
    await asyncio.wait_for(running, WAIT_S)
    assert worker.rounds >= 4
    assert handler.batches == [[(entry, {"ключ": "значение"})]]
    await StreamClient.close_all()


@pytest.mark.parametrize("loss", ["delete", "flushall", "xgroup_destroy"])
def test_a_lost_group_is_made_again_in_the_same_call(place: Place, loss: str) -> None:
    handler = Handler()
    worker = place.consumer(handler)
    place.add(n=1)
    assert worker.process_batch_sync() == 1
    args = {"delete": [place.stream], "flushall": []}.get(loss, [place.stream, "billing"])
    getattr(place.look, loss)(*args)
    entry = place.add(n=2)
    assert worker.process_batch_sync() >= 1
    assert entry in handler.ids


async def test_stop_before_run_stops_nothing_else(place: Place) -> None:
    """After stop() a batch can still be processed, retries included."""
    worker = place.consumer(Handler())
    place.add(n=1)
    place.look.xgroup_create(place.stream, "billing", "0")
    place.look.xreadgroup("billing", "gone", {place.stream: ">"})
    place.look.xclaim(
        place.stream, "billing", "gone", 0, [place.look.xrange(place.stream)[0][0]], idle=1000
    )

    worker.stop()

    assert await worker.process_batch() == 1
    await StreamClient.close_all()


def test_three_threads_share_the_work(place: Place, redis_url: str) -> None:
    """Each has a consumer of its own and all of them one client: every entry is handled once."""
    client = StreamClient.from_url(redis_url)
    handlers = [Handler() for _ in range(3)]
    ids = [place.add(n=n) for n in range(150)]

    def work(number: int) -> None:
        worker = place.consumer(
            handlers[number],
            f"thread-{number}",
            client=client,
            batch_size=5,
            claim_timeout_ms=10_000,
        )
        while worker.process_batch_sync():
            pass

    threads = [threading.Thread(target=work, args=(number,)) for number in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(WAIT_S)

    assert sorted(i for handler in handlers for i in handler.ids) == sorted(ids)
    assert place.pending() == 0


CRASHING = """
import sys, time
from redis_stream_queue.popoto import StreamConsumer

async def handle(entries):
    print("got", len(entries), flush=True)
    time.sleep(60)

StreamConsumer(sys.argv[1], "billing", "worker-1", handle, block_ms=10).run_sync()
"""


def test_what_a_killed_consumer_held_is_handled_by_another(place: Place) -> None:
    """kill -9 in the middle of a batch: after claim_timeout_ms its entries are somebody else's."""
    ids = [place.add(n=n) for n in range(2)]
    crashing = subprocess.Popen(
        [sys.executable, "-c", CRASHING, place.stream], stdout=subprocess.PIPE, text=True, cwd=ROOT
    )
    try:
        assert crashing.stdout is not None
        assert crashing.stdout.readline() == "got 2\n"
    finally:
        crashing.kill()
        crashing.communicate()
    handler = Handler()
    other = place.consumer(handler, "worker-2", claim_timeout_ms=300)

    wait_until(lambda: other.process_batch_sync() == 2, WAIT_S, "both are handled")

    assert (handler.ids, place.pending()) == (ids, 0)


@pytest.mark.parametrize(
    ("setting", "value"),
    [("max_retries", -1), ("claim_timeout_ms", "3"), ("dead_letter_max_length", 0)],
)
def test_a_wrong_setting_is_named_as_its_user_knows_it(setting: str, value: object) -> None:
    """Not by the name that it has in ConsumerConfig."""
    with pytest.raises(ConfigError, match=rf"^{setting} must be .* got {value!r}"):
        StreamConsumer("orders", "billing", "worker-1", Handler(), **{setting: value})
