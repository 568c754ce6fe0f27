"""Messages on the pipe: every one comes back as it was, garbage is nothing."""

from __future__ import annotations

from typing import Any, get_type_hints

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from redis_stream_queue import ConsumerConfig
from redis_stream_queue.pool import protocol
from redis_stream_queue.pool.protocol import Message, Ready, decode, encode

KINDS: list[Any] = list(Message.__args__)
INTEGERS = st.integers(-(2**63), 2**64 - 1)
TEXT = st.text()  # surrogates too: an app's error may hold undecodable bytes
SIMPLE = st.none() | st.booleans() | INTEGERS | st.floats(allow_nan=False) | TEXT
FIELDS: dict[Any, Any] = {
    int: INTEGERS,
    str: TEXT,
    bool: st.booleans(),
    str | None: st.none() | TEXT,
    list[str]: st.lists(TEXT),
    list[list[Any]]: st.lists(st.lists(SIMPLE)),
    int | None: st.none() | INTEGERS,
    float: st.floats(allow_nan=False),
    float | None: st.none() | st.floats(allow_nan=False),
    ConsumerConfig: st.builds(
        ConsumerConfig, group=st.text(min_size=1), batch_size=st.integers(1, 2**60)
    ),
    protocol.WorkerSpec: st.builds(
        protocol.WorkerSpec, *[TEXT] * 4, st.floats(allow_nan=False), row=INTEGERS, directory=TEXT
    ),
    dict[str, Any]: st.dictionaries(TEXT, SIMPLE | st.lists(SIMPLE)),
}


def messages(kind: Any) -> st.SearchStrategy[Any]:
    hints = get_type_hints(kind, vars(protocol))
    return st.builds(kind, **{name: FIELDS[hints[name]] for name in kind._fields})


@given(st.one_of([messages(kind) for kind in KINDS]))
def test_round_trip(message: Any) -> None:
    assert decode(encode(message)) == message


@pytest.mark.parametrize("kind", KINDS)
@given(data=st.data())
def test_every_kind_travels_as_itself(kind: Any, data: st.DataObject) -> None:
    message = data.draw(messages(kind))
    assert type(decode(encode(message))) is kind


@given(st.binary())
def test_garbage_is_nothing(raw: bytes) -> None:
    seen = decode(raw)
    assert seen is None or type(seen) in KINDS


@given(st.one_of([messages(kind) for kind in KINDS]), st.data())
def test_half_a_message_is_nothing(message: Any, data: st.DataObject) -> None:
    raw = encode(message)
    assert decode(raw[: data.draw(st.integers(0, len(raw) - 1))]) is None


@pytest.mark.parametrize(
    "packed",
    [
        [],
        [len(KINDS)],
        [-1],
        [0],
        ["Ready"],
        [None],
        {"a": 1},
        5,
        [KINDS.index(Ready), "too", "many"],
        [1.0, "x"],
        [True, "x"],
        [KINDS.index(protocol.Leaving), [1]],
        [KINDS.index(protocol.Declined), ["1-1", None]],
        [KINDS.index(protocol.Take), [["1-1"], "1-1"]],
        [KINDS.index(protocol.Start), "redis://", "", "s", {"group": ""}, 1, None, None],
        [KINDS.index(protocol.Start), "redis://", "", "s", {"no": 1}, 1, None, None],
        [KINDS.index(protocol.Fork), 1, 1, ["x"]],
        [KINDS.index(protocol.Fork), 1, 1, ["x", None, "info", "text", "soon", 1, "/"]],
    ],
    ids=str,
)
def test_what_only_looks_like_a_message_is_nothing(packed: Any) -> None:
    """A tag is one of ours, and the fields fit it."""
    assert decode(msgpack.packb(packed)) is None


def test_messages_are_small() -> None:
    """No payloads on the pipe; the largest text is an error of 2 KB."""
    assert len(encode(protocol.LoadFailed("app:handler", "x" * protocol.MAX_ERROR))) < 2100
