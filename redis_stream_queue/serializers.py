"""Payload <-> bytes. A serializer is any object with ``encode`` and ``decode``."""

from __future__ import annotations

import datetime
import decimal
import functools
import hmac
import json
import math
import pickle
import uuid
from collections.abc import Sequence
from typing import Any, Protocol, runtime_checkable

import msgpack

from ._log import logger
from ._validate import Maybe, Text, check
from .exceptions import ConfigError, SerializationError

log = logger(__name__)

ADVICE = {  # what to send instead
    datetime.date: "; send its isoformat()",  # a datetime is one
    datetime.time: "; send its isoformat()",
    datetime.timedelta: "; send its total_seconds()",
    decimal.Decimal: "; send its str()",
    uuid.UUID: "; send its str()",
    set | frozenset: "; send a list",
    bytes | bytearray: "; send text, or use MsgpackSerializer",
}
LEAST_KEY = 16  # bytes
SIGNATURE = 32  # bytes of a SHA-256


@runtime_checkable
class Serializer(Protocol):
    """What producer and consumer need; both must use the same kind."""

    def encode(self, data: Any) -> bytes:
        """The payload as bytes.

        data: what was given to push. May raise any exception, best a SerializationError that says
        what cannot be expressed: the push fails with it, and nothing is sent.
        """
        ...

    def decode(self, raw: bytes) -> Any:
        """The payload of these bytes, what handlers get as ``message.data``.

        raw: what encode() made, or whatever somebody else has pushed. May raise any exception, best
        a SerializationError: the message is a dead letter then, with the error's text, and is not
        tried again. Only what is no ``Exception`` (a panic of an extension) and
        SoftTimeLimitExceeded are failures like a handler's, which are tried again.
        """
        ...


class JsonSerializer:
    """JSON, UTF-8, compact (default)."""

    def __init__(self) -> None:
        self._encode = json.JSONEncoder(
            separators=(",", ":"), ensure_ascii=False, allow_nan=False
        ).encode
        decoder: Any = json.JSONDecoder(parse_constant=_no_json)
        self._decode_whole, self._decode_first = decoder.decode, decoder.scan_once

    def encode(self, data: Any) -> bytes:
        """The data as JSON. Raises SerializationError for what JSON cannot express."""
        try:
            return self._encode(data).encode()
        except (TypeError, ValueError, RecursionError) as exc:
            raise SerializationError(
                f"cannot encode {type(data).__name__} as JSON: {_why_not(data) or exc}"
            ) from exc

    def decode(self, raw: bytes) -> Any:
        """What is in raw. Raises SerializationError if that is no JSON (NaN is none)."""
        try:
            text = raw.decode()
            try:
                value, end = self._decode_first(text, 0)  # half the time of decode()
            except (ValueError, StopIteration):
                end = -1
            return value if end == len(text) else self._decode_whole(text)
        except (ValueError, RecursionError) as exc:
            raise SerializationError(f"payload is not JSON: {exc}") from exc


def _no_json(constant: str) -> Any:
    raise ValueError(f"{constant} is no JSON value")


def _why_not(data: Any) -> str:
    """What JSON cannot express of it, and where; "" if that cannot be told."""
    try:
        return _culprit(data, "", set())
    except Exception:  # too deep, or a value that cannot even be shown
        return ""


def _culprit(data: Any, path: str, seen: set[int]) -> str:
    """Where in ``data`` the first value is that JSON cannot express, and what to do; "" = nowhere.

    seen: of which containers nothing more is to be said.
    """
    at = f"{path}: " if path else ""
    if isinstance(data, float) and not math.isfinite(data):
        return f"{at}JSON has no {data!r}; send None or a text"
    if data is None or isinstance(data, str | int | float) or id(data) in seen:
        return ""
    seen.add(id(data))
    if isinstance(data, dict):
        for key in data:
            if not (key is None or isinstance(key, str | int | float)):
                return f"{at}a key must be a text, got {_kind(key)}"
        parts = [(f"{path}[{key!r:.80}]", value) for key, value in data.items()]
    elif isinstance(data, list | tuple):
        parts = [(f"{path}[{number}]", value) for number, value in enumerate(data)]
    else:
        advice = next((a for kind, a in ADVICE.items() if isinstance(data, kind)), "")
        return f"{at}{_kind(data)} is no JSON value{advice}"
    return next(filter(None, (_culprit(value, where, seen) for where, value in parts)), "")


def _kind(value: object) -> str:
    return f"a {type(value).__name__}"


class MsgpackSerializer:
    """MessagePack: smaller and faster than JSON, keeps ``bytes``."""

    def encode(self, data: Any) -> bytes:
        """The data as MessagePack. Raises SerializationError for what that cannot express."""
        try:
            packed: bytes = msgpack.packb(data)
        except (TypeError, ValueError, OverflowError) as exc:
            raise SerializationError(
                f"cannot encode {type(data).__name__} as msgpack: {exc}"
            ) from exc
        return packed

    def decode(self, raw: bytes) -> Any:
        """What is in raw. Raises SerializationError if that is no MessagePack."""
        try:
            return msgpack.unpackb(raw, strict_map_key=False)
        except Exception as exc:  # msgpack raises many kinds, some of them plain Exception
            raise SerializationError(
                f"payload is not msgpack: {exc or type(exc).__name__}"
            ) from exc


class SignedSerializer:
    """Another serializer's bytes behind an HMAC-SHA256: what was not signed is not decoded.

    >>> SignedSerializer(PickleSerializer(), key=os.environ["QUEUE_KEY"].encode())

    inner: the serializer that makes the bytes.
    key: the same secret bytes for producers and consumers, 16 or more; a list while they change:
        the first signs, each of them is accepted. Roll out ``[old, new]``, then ``[new, old]``,
        then ``new``.
    context: what a signature is valid for; None = the stream (its whole key) that a producer or
        consumer uses it with, so that a message copied to another stream is refused there.

    Raises ConfigError for a key that is too short.
    Source: https://docs.python.org/3/library/hmac.html
    """

    def __init__(
        self, inner: Serializer, key: bytes | Sequence[bytes], *, context: str | None = None
    ) -> None:
        keys: Sequence[Any] = (key,) if not isinstance(key, list | tuple) else key
        if not keys or not all(isinstance(k, bytes) and len(k) >= LEAST_KEY for k in keys):
            raise ConfigError(
                f"key must be {LEAST_KEY} or more secret bytes, or a list of such keys; "
                "secrets.token_bytes(32) makes one."
            )
        check("context", context, Maybe(Text()))
        checked_serializer(inner)
        self._inner = inner
        self._given: Sequence[bytes] = keys
        self._context = context
        self._keys = [hmac.digest(k, b"rsq:" + (context or "").encode(), "sha256") for k in keys]

    def for_stream(self, key: str) -> SignedSerializer:
        """The same for one stream; producers and consumers ask for it. key: the stream's."""
        if self._context is not None:
            return self
        return SignedSerializer(self._inner, self._given, context=key)

    def encode(self, data: Any) -> bytes:
        """Signature and data. Raises what the inner serializer raises."""
        payload = self._inner.encode(data)
        return hmac.digest(self._keys[0], payload, "sha256") + payload

    def decode(self, raw: bytes) -> Any:
        """What is in raw behind its signature.

        Raises SerializationError for a wrong signature, before anything is decoded, and what the
        inner serializer raises.
        """
        signature, payload = raw[:SIGNATURE], raw[SIGNATURE:]
        if not any(
            hmac.compare_digest(signature, hmac.digest(key, payload, "sha256"))
            for key in self._keys
        ):
            raise SerializationError(
                "the payload's signature is wrong: another key, another stream, or forged"
            )
        return self._inner.decode(payload)


def checked_serializer(serializer: Serializer | None) -> Serializer | None:
    """Raises ConfigError for what is none: its name, or its class."""
    if serializer is None:
        return None
    methods = [getattr(serializer, name, None) for name in ("encode", "decode")]
    if isinstance(serializer, str | type) or not all(map(callable, methods)):
        raise ConfigError(
            "serializer must be an object with encode() and decode(), as in "
            f"serializer=MsgpackSerializer(), got {serializer!r:.80}."
        )
    return serializer


def for_stream(serializer: Serializer, key: str) -> Serializer:
    """The serializer as it is to be used with one stream, which its key names.

    Only one with a method ``for_stream(key)`` makes a difference. Raises ConfigError for what is
    none.
    """
    checked_serializer(serializer)
    bind = getattr(serializer, "for_stream", None)
    bound: Serializer = bind(key) if callable(bind) else serializer
    return bound


@functools.cache  # once a process
def _warn_of_pickle() -> None:
    log.warning(
        "PickleSerializer runs code from the payload: use it only where every writer "
        "of the stream is trusted"
    )


class PickleSerializer:
    """Pickle: any Python object. Whoever can write to the stream can run code in the consumer."""

    def __init__(self) -> None:
        _warn_of_pickle()

    def encode(self, data: Any) -> bytes:
        """The data as a pickle. Raises SerializationError for what cannot be pickled."""
        try:
            return pickle.dumps(data, protocol=pickle.HIGHEST_PROTOCOL)
        except Exception as exc:  # pickling runs the object's own code
            raise SerializationError(f"cannot pickle {type(data).__name__}: {exc}") from exc

    def decode(self, raw: bytes) -> Any:
        """What is in raw; runs its code. Raises SerializationError for what is no pickle here."""
        try:
            return pickle.loads(raw)
        except Exception as exc:  # unpickling runs the payload's own code
            raise SerializationError(f"payload is not a pickle: {exc}") from exc
