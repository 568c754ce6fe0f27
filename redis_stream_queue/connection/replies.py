"""Raw Redis replies (RESP2, bytes) -> Python values. Pure."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from ..message import PendingEntry, StreamMessage


def text(value: bytes | str | int) -> str:
    """A reply as text; bytes that are no UTF-8 become replacement characters."""
    return value.decode(errors="replace") if isinstance(value, bytes) else str(value)


def name_text(value: bytes | str) -> str:
    """A name as text that becomes the same bytes again when it is sent, be it UTF-8 or not."""
    return value.decode(errors="surrogateescape") if isinstance(value, bytes) else value


def pending_entries(lines: Sequence[Any]) -> list[PendingEntry]:
    """The lines of a reply to XPENDING as PendingEntry."""
    return [PendingEntry(text(i), name_text(name), ms, n) for i, name, ms, n in lines]


def info_lines(reply: Any) -> dict[str, str]:
    """The lines ``name:value`` of a reply to INFO; {} for an error (an ACL may forbid it)."""
    if not isinstance(reply, bytes | str):
        return {}
    return dict(line.split(":", 1) for line in text(reply).splitlines() if ":" in line)


def mapping(flat: Sequence[Any], decode: Callable[[bytes], str] = text) -> dict[str, Any]:
    """``[k1, v1, k2, v2]`` as a dict with text keys and text or integer values."""
    pairs = zip(flat[::2], flat[1::2], strict=False)
    return {text(k): decode(v) if isinstance(v, bytes) else v for k, v in pairs}


def entry_messages(
    entries: Sequence[Any], payload_field: str | None, delivery_count: int
) -> list[StreamMessage]:
    """``entry_message`` for many entries; quick for those that hold a payload and at most one
    header."""
    name = payload_field and payload_field.encode()
    try:
        return [
            StreamMessage(entry[0].decode(), fields[1], delivery_count)
            if (fields := entry[1]) and len(fields) == 2 and fields[0] == name
            else StreamMessage(
                entry[0].decode(),
                fields[1],
                delivery_count,
                {fields[2].decode(): fields[3].decode()},
            )
            if fields and len(fields) == 4 and fields[0] == name != fields[2]
            else entry_message(entry, payload_field, delivery_count)
            for entry in entries
        ]
    except UnicodeDecodeError:  # of somebody's header
        return [entry_message(entry, payload_field, delivery_count) for entry in entries]


class Missing(bytes):
    """The empty payload of an entry that has no payload field."""


MISSING = Missing()


def entry_message(entry: Any, payload_field: str | None, delivery_count: int) -> StreamMessage:
    """Message of an entry ``[id, [field, value, ...]]``; its data is the raw payload.

    payload_field: the field that holds the payload (MISSING, empty bytes, if there is none); None =
    the whole entry as ``dict[str, str]``.
    """
    entry_id, fields = entry
    values = {fields[i]: fields[i + 1] for i in range(0, len(fields or ()), 2)}
    if payload_field is None:
        data: Any = {text(k): text(v) for k, v in values.items()}
        return StreamMessage(text(entry_id), data, delivery_count)
    payload = values.pop(payload_field.encode(), MISSING)
    headers = {text(k): text(v) for k, v in values.items()}
    return StreamMessage(text(entry_id), payload, delivery_count, headers)
