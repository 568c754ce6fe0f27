"""Commands as bytes to send. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import hiredis

Command = tuple[Any, ...]

PACKET_BYTES = 32_768  # sent together


def packets(commands: Sequence[Command]) -> Iterator[bytes]:
    """The commands as bytes, to be sent one packet after the other.

    Small commands share a packet. A large one leaves before the next is packed, so that the server
    works on it meanwhile.
    """
    packet = b""
    for command in commands:
        packet += _packed(command)
        if len(packet) >= PACKET_BYTES:
            yield packet
            packet = b""
    if packet:
        yield packet


def _packed(command: Command) -> bytes:
    packed: bytes
    try:
        packed = hiredis.pack_command(command)
    except UnicodeEncodeError:  # a name that others gave, see name_text()
        parts: Command = tuple(
            part.encode(errors="surrogateescape") if isinstance(part, str) else part
            for part in command
        )
        packed = hiredis.pack_command(parts)
    return packed
