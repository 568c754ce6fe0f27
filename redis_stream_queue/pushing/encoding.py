"""Payloads of pushes, as bytes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ..exceptions import SerializationError
from ..serializers import Serializer


def encode_all(data: Sequence[Any], serializer: Serializer, most_bytes: int | None) -> list[bytes]:
    """Each of them. Raises TypeError for what is one message, and what ``encode_one`` raises."""
    if isinstance(data, str | bytes | Mapping):
        raise TypeError(
            f"push_many wants a list of messages, got a {type(data).__name__}; for one message "
            "use push"
        )
    return [encode_one(one, serializer, most_bytes) for one in data]


def encode_one(data: Any, serializer: Serializer, most_bytes: int | None) -> bytes:
    """One message. Raises SerializationError, for more than ``most_bytes``, too."""
    payload = serializer.encode(data)
    if most_bytes is not None and len(payload) > most_bytes:
        raise SerializationError(
            f"a payload of {len(payload):,} bytes is above max_payload_bytes ({most_bytes:,}), so "
            "it was not added"
        )
    return payload
