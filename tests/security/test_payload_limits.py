"""Payloads have a limit if one is set, and decoding them counts for the time limit."""

from __future__ import annotations

import json
from typing import Any

import pytest

from redis_stream_queue import (
    ConfigError,
    ConsumerConfig,
    PickleSerializer,
    SerializationError,
    SignedSerializer,
    StreamClient,
    StreamConsumer,
    StreamMessage,
    StreamProducer,
    per_message,
)
from tests.support.waiting import wait_until

from .conftest import StartPool

KEY = b"k" * 16


def test_the_producer_refuses_what_consumers_would(pool_url: str, raw: Any) -> None:
    producer = StreamProducer(StreamClient.from_url(pool_url), "s", max_payload_bytes=10)
    producer.push_sync("x" * 8)
    with pytest.raises(SerializationError, match=r"11 bytes .* max_payload_bytes \(10\)"):
        producer.push_sync("x" * 9)
    with pytest.raises(SerializationError):
        producer.push_many_sync(["x", "x" * 1000])
    assert raw.xlen("s") == 1


@pytest.mark.parametrize("wrong", [0, -1, 1.5, "10", True])
def test_a_limit_is_a_whole_number(pool_url: str, wrong: Any) -> None:
    with pytest.raises(ConfigError, match="max_payload_bytes"):
        ConsumerConfig(group="g", max_payload_bytes=wrong)
    with pytest.raises(ConfigError, match="max_payload_bytes"):
        StreamProducer(StreamClient.from_url(pool_url), "s", max_payload_bytes=wrong)


@pytest.mark.parametrize("field", ["data", None])
def test_what_is_too_large_is_never_decoded(pool_url: str, raw: Any, field: str | None) -> None:
    """Not for the dlq_handler either; others of its batch are handled."""
    handled, dead, decoded = [], [], []

    class Spy:
        def encode(self, data: Any) -> bytes:
            raise AssertionError

        def decode(self, raw: bytes) -> Any:
            decoded.append(len(raw))
            return json.loads(raw)

    @per_message
    async def handler(message: StreamMessage) -> None:
        handled.append(message.id)

    async def dlq_handler(message: StreamMessage, reason: str) -> None:
        dead.append((reason, type(message.data)))

    config = ConsumerConfig(
        group="g", block_ms=0, dlq_stream="s_dlq", max_payload_bytes=20, payload_field=field
    )
    client = StreamClient.from_url(pool_url)
    raw.xgroup_create("s", "g", "0", mkstream=True)
    small = raw.xadd("s", {"data": "1"}).decode()
    raw.xadd("s", {"data": json.dumps("x" * 30)})
    StreamConsumer(client, "s", config, handler, dlq_handler, Spy()).run_once_sync()

    assert handled == [small]
    assert all(size < 20 for size in decoded)
    assert [reason for reason, _ in dead] == ["too_large"]
    [(_, letter)] = raw.xrange("s_dlq")
    assert letter[b"reason"] == b"too_large"
    assert b"32 bytes" in letter[b"last_error"] or b"36 bytes" in letter[b"last_error"]
    assert raw.xpending("s", "g")["pending"] == 0


def test_signed_messages_copied_to_another_stream_are_not_decoded(pool_url: str, raw: Any) -> None:
    """Producer, consumer and prefix agree without a word; a replay elsewhere is a decode error."""
    handled = []

    @per_message
    async def handler(message: StreamMessage) -> None:
        handled.append(message.data)

    signed = SignedSerializer(PickleSerializer(), KEY)
    client = StreamClient.from_url(pool_url, prefix="shop")
    for stream in ("orders", "refunds"):
        raw.xgroup_create(f"shop_{stream}", "g", "0", mkstream=True)
    StreamProducer(client, "orders", serializer=signed).push_sync({"pay": 1})
    [(_, fields)] = raw.xrange("shop_orders")
    raw.xadd("shop_refunds", fields)
    config = ConsumerConfig(group="g", block_ms=0, dlq_stream="dead")
    for stream in ("orders", "refunds"):
        client = StreamClient.from_url(pool_url, prefix="shop")
        StreamConsumer(client, stream, config, handler, serializer=signed).run_once_sync()
    assert handled == [{"pay": 1}]
    [(_, letter)] = raw.xrange("shop_dead")
    assert letter[b"reason"] == b"decode_error"


APP = """
import json, time
from redis_stream_queue import per_message, stream_handler

class Slow:
    def encode(self, data):
        return json.dumps(data).encode()
    def decode(self, raw):
        data = json.loads(raw)
        if data == "slow":
            end = time.monotonic() + 60
            while time.monotonic() < end:
                sum(range(10**6))
        return data

@stream_handler("s", group="g", serializer=Slow(), max_deliveries=2)
@per_message
def handler(message):
    print("did", message.data, flush=True)
"""


def test_decoding_counts_for_the_time_limit(raw: Any, start_pool: StartPool) -> None:
    raw.xgroup_create("s", "g", "0", mkstream=True)
    for data in ["first", "slow", *range(20)]:
        raw.xadd("s", {"data": json.dumps(data)})
    pool = start_pool(APP, "--workers", "2", "--time-limit", "0.4")
    wait_until(lambda: raw.xlen("s_dlq") == 1, 15, "the slow one is dead")
    wait_until(lambda: pool.stdout.count("did") == 21, 10, "the others are handled")
    [(_, letter)] = raw.xrange("s_dlq")
    assert letter[b"data"] == b'"slow"'
    assert b"time limit" in letter[b"last_error"]


SOFT = (
    APP
    + """
class Swallows(Slow):
    def decode(self, raw):
        try:
            return super().decode(raw)
        except Exception as error:
            raise ValueError("cannot decode") from error

@stream_handler("s", group="g", serializer=Swallows(), max_deliveries=2)
@per_message
async def swallows(message):
    print("did", message.data, flush=True)
"""
)


@pytest.mark.parametrize("target", ["app:handler", "app:swallows"])
def test_decoding_counts_for_the_soft_limit(raw: Any, start_pool: StartPool, target: str) -> None:
    """It fails like a handler, and is tried again; the worker lives on."""
    raw.xgroup_create("s", "g", "0", mkstream=True)
    for data in ["first", "slow", *range(20)]:
        raw.xadd("s", {"data": json.dumps(data)})
    args = ("--workers", "1", "--soft-time-limit", "0.3", "--retry-delay-ms", "10")
    pool = start_pool(SOFT, *args, target=target).wait_ready()
    before = pool.workers()
    wait_until(lambda: raw.xlen("s_dlq") == 1, 15, "the slow one is dead")
    wait_until(lambda: pool.stdout.count("did") == 21, 10, "the others are handled")
    [(_, letter)] = raw.xrange("s_dlq")
    assert (letter[b"data"], letter[b"reason"]) == (b'"slow"', b"max_deliveries")
    said, _, _ = letter[b"last_error"].partition(b"\n")
    assert said == b"SoftTimeLimitExceeded: decoding took more than 0.3 s"
    assert pool.workers() == before


LARGE = """
import time
from redis_stream_queue import per_message, stream_handler

class Large:
    def encode(self, data):
        return b""
    def decode(self, raw):
        held = bytearray(b"x") * 400_000_000
        time.sleep(1.6)
        return len(held)

@stream_handler("s", group="g", serializer=Large())
@per_message
def handler(message):
    print("did", message.delivery_count, flush=True)
"""


def test_what_is_too_large_for_a_worker_once_decoded_does_not_go_from_one_to_the_next(
    raw: Any, start_pool: StartPool
) -> None:
    """The worker is replaced while it decodes, and handles what it has decoded."""
    raw.xgroup_create("s", "g", "0", mkstream=True)
    raw.xadd("s", {"data": "1"})
    pool = start_pool(LARGE, "--workers", "1", "--max-memory-per-child", "100")
    wait_until(lambda: "did 1" in pool.stdout, 10, "it is handled")
    assert "memory limit" in pool.stderr


def test_the_pool_has_the_limit_too(raw: Any, start_pool: StartPool) -> None:
    raw.xgroup_create("s", "g", "0", mkstream=True)
    raw.xadd("s", {"data": json.dumps("x" * 100)})
    pool = start_pool(APP, "--workers", "1", "--burst", "--max-payload-bytes", "50")
    assert pool.wait() == 1  # there is a dead letter
    [(_, letter)] = raw.xrange("s_dlq")
    assert letter[b"reason"] == b"too_large"
