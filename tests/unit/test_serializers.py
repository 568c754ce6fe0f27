"""Payload <-> bytes: round trips, and SerializationError for everything else."""

from __future__ import annotations

import contextlib
import logging
import re
from datetime import date, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import redis_stream_queue
from redis_stream_queue import (
    JsonSerializer,
    MsgpackSerializer,
    PickleSerializer,
    SerializationError,
    Serializer,
)
from redis_stream_queue.serializers import _warn_of_pickle

FINITE = st.floats(allow_nan=False, allow_infinity=False)
SCALARS = st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | FINITE
JSON = st.recursive(
    SCALARS | st.text(st.characters(exclude_categories=["Cs"])),
    lambda inner: (
        st.lists(inner) | st.dictionaries(st.text(st.characters(exclude_categories=["Cs"])), inner)
    ),
    max_leaves=10,
)
KINDS = [JsonSerializer, MsgpackSerializer, PickleSerializer]


@pytest.mark.parametrize(
    ("data", "said"),
    [
        ({"order": {"at": datetime(2026, 1, 31)}}, "['order']['at']: a datetime .* isoformat()"),
        ([{}, {"day": date(2026, 1, 31)}], "[1]['day']: a date .* isoformat()"),
        ({"share": float("nan")}, "['share']: JSON has no nan"),
        ((1, [float("-inf")]), "[1][0]: JSON has no -inf"),
        ({"tags": {"a"}}, "['tags']: a set is no JSON value; send a list"),
        ({(1, 2): 3}, "a key must be a text, got a tuple"),
        (object(), "as JSON: a object is no JSON value"),
    ],
)
def test_what_json_cannot_express_is_named_with_its_place(data: Any, said: str) -> None:
    pattern = ".*".join(re.escape(part) for part in said.split(" .* "))
    with pytest.raises(SerializationError, match=pattern):
        JsonSerializer().encode(data)


def test_what_cannot_even_be_looked_through_is_a_serialization_error() -> None:
    tree: list[Any] = []
    tree += [tree] * 50  # in itself, so often that no walk along all paths would end
    deep: list[Any] = [object()]
    for _ in range(100_000):
        deep = [deep]
    for data in (tree, deep, {10**5000: object()}):
        with pytest.raises(SerializationError, match="cannot encode"):
            JsonSerializer().encode(data)


@pytest.mark.parametrize("raw", [b"NaN", b'{"a":-Infinity}', b"[Infinity]"])
def test_numbers_that_are_none_are_no_json(raw: bytes) -> None:
    with pytest.raises(SerializationError, match="is no JSON value"):
        JsonSerializer().decode(raw)


class Unpicklable:
    def __reduce__(self) -> Any:
        raise RuntimeError("not me")


@given(JSON)
def test_json_round_trip(data: Any) -> None:
    assert JsonSerializer().decode(JsonSerializer().encode(data)) == data


@given(JSON | st.binary())
def test_msgpack_round_trip(data: Any) -> None:
    assert MsgpackSerializer().decode(MsgpackSerializer().encode(data)) == data


@given(JSON | st.binary() | st.sets(st.integers()))
def test_pickle_round_trip(data: Any) -> None:
    assert PickleSerializer().decode(PickleSerializer().encode(data)) == data


@pytest.mark.parametrize("kind", KINDS)
@given(raw=st.binary())
def test_any_bytes_are_data_or_a_serialization_error(kind: type[Serializer], raw: bytes) -> None:
    if kind is PickleSerializer and raw[:1] in (b"c", b"(", b"i", b"\x80"):
        return  # random pickles run code; the test does not
    with contextlib.suppress(SerializationError):
        kind().decode(raw)


@pytest.mark.parametrize(
    ("serializer", "data"),
    [
        (JsonSerializer(), object()),
        (JsonSerializer(), {1, 2}),
        (JsonSerializer(), b"bytes"),
        (JsonSerializer(), "\ud800"),
        (MsgpackSerializer(), object()),
        (MsgpackSerializer(), 2**64),
        (MsgpackSerializer(), "\ud800"),
        (PickleSerializer(), Unpicklable()),
        (PickleSerializer(), lambda: 1),
    ],
)
def test_what_cannot_be_encoded(serializer: Serializer, data: Any) -> None:
    with pytest.raises(SerializationError, match="cannot"):
        serializer.encode(data)


@pytest.mark.parametrize("serializer", [JsonSerializer(), MsgpackSerializer()])
def test_endless_structures_are_an_error(serializer: Serializer) -> None:
    endless: list[Any] = []
    endless.append(endless)
    with pytest.raises(SerializationError):
        serializer.encode(endless)


def test_json_is_compact_and_readable() -> None:
    assert JsonSerializer().encode({"a": [1, "ü"]}) == '{"a":[1,"ü"]}'.encode()


def test_pickle_warns(caplog: pytest.LogCaptureFixture) -> None:
    _warn_of_pickle.cache_clear()
    with caplog.at_level(logging.WARNING, "redis_stream_queue"):
        PickleSerializer()
        PickleSerializer()
    assert caplog.text.count("trusted") == 1  # once a process


def test_any_object_with_both_methods_is_a_serializer() -> None:
    class Plain:
        def encode(self, data: Any) -> bytes:
            return str(data).encode()

        def decode(self, raw: bytes) -> Any:
            return raw.decode()

    assert isinstance(Plain(), Serializer)
    assert not isinstance(object(), Serializer)


def test_signed_serializer() -> None:
    """A wrong signature is a decode error, and the inner decoder is never called."""

    class Inner(JsonSerializer):
        decoded = 0

        def decode(self, raw: bytes) -> Any:
            Inner.decoded += 1
            return super().decode(raw)

    signed = redis_stream_queue.SignedSerializer(Inner(), b"key" * 8)
    raw = signed.encode({"n": 1})
    assert signed.decode(raw) == {"n": 1}
    Inner.decoded = 0
    other = redis_stream_queue.SignedSerializer(Inner(), b"other key" * 2)
    for forged in (other.encode({"n": 1}), raw[:-1], b"", raw[::-1], raw + b"x"):
        with pytest.raises(SerializationError):
            signed.decode(forged)
    assert Inner.decoded == 0


def test_a_signature_is_valid_for_one_stream_only() -> None:
    key = b"k" * 16
    signed = redis_stream_queue.SignedSerializer(JsonSerializer(), key)
    orders, refunds = signed.for_stream("shop_orders"), signed.for_stream("shop_refunds")
    raw = orders.encode({"pay": 1})
    assert orders.decode(raw) == {"pay": 1}
    for other in (refunds, signed):
        with pytest.raises(SerializationError, match="another stream"):
            other.decode(raw)
    shared = redis_stream_queue.SignedSerializer(JsonSerializer(), key, context="shop")
    assert shared.for_stream("a").decode(shared.for_stream("b").encode(1)) == 1
    same = redis_stream_queue.SignedSerializer(JsonSerializer(), key, context="shop_orders")
    assert same.decode(raw) == {"pay": 1}


def test_keys_are_changed_without_losing_a_message() -> None:
    old, new = b"o" * 16, b"n" * 32
    make = redis_stream_queue.SignedSerializer
    before, between, after = (
        make(JsonSerializer(), k).for_stream("s") for k in (old, [new, old], [new])
    )
    assert between.decode(before.encode(1)) == 1
    assert between.decode(between.encode(2)) == 2
    assert after.decode(between.encode(3)) == 3
    for serializer, raw in ((after, before.encode(4)), (before, after.encode(5))):
        with pytest.raises(SerializationError):
            serializer.decode(raw)


@pytest.mark.parametrize(
    "key", [b"", b"k" * 15, "k" * 32, [], [b"k" * 16, b"short"], ["k" * 32], None, 7]
)
def test_keys_that_are_no_keys_are_refused_without_showing_them(key: Any) -> None:
    with pytest.raises(redis_stream_queue.ConfigError, match="16 or more secret bytes") as error:
        redis_stream_queue.SignedSerializer(JsonSerializer(), key)
    assert "kkk" not in str(error.value)


@pytest.mark.parametrize("depth", [10**5, 10**6])
def test_what_is_nested_too_deep_is_a_decode_error(depth: int) -> None:
    for raw in (b"[" * depth, b"[" * depth + b"]" * depth, b'{"a":' * depth + b"1" + b"}" * depth):
        with pytest.raises(SerializationError):
            JsonSerializer().decode(raw)
    with pytest.raises(SerializationError):
        redis_stream_queue.MsgpackSerializer().decode(b"\x91" * depth + b"\xc0")
