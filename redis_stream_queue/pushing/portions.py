"""What travels together when many messages are pushed, and as which commands. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from .headers import PAYLOAD, Parts

PUSH_CHUNK = 1000  # messages per command
PUSH_CHUNK_BYTES = 1 << 20  # no server can be set to refuse a value of so many bytes
PUSH_AT_ONCE = 8  # portions per round trip

Command = tuple[Any, ...]


class Pushes(NamedTuple):
    """Messages to add: their payloads, and the headers of them all, or of each if they differ."""

    payloads: Sequence[bytes]
    headers: Parts = ()
    each: Sequence[Parts] | None = None

    @classmethod
    def of(cls, pairs: Sequence[tuple[bytes, Parts]]) -> Pushes:
        """Of payloads that each have headers of their own."""
        if len(pairs) == 1:
            return cls((pairs[0][0],), pairs[0][1])
        payloads, each = [payload for payload, _ in pairs], [parts for _, parts in pairs]
        alike = all(parts == each[0] for parts in each)
        return cls(payloads, each[0]) if alike else cls(payloads, (), each)

    def part(self, start: int, stop: int) -> Pushes:
        each = None if self.each is None else self.each[start:stop]
        return Pushes(self.payloads[start:stop], self.headers, each)

    @property
    def is_large(self) -> bool:
        """May a server refuse it for its size? (Then it also closes the connection.)"""
        return len(self.payloads[0]) > PUSH_CHUNK_BYTES

    def adds(self, key: str, max_len: int | None = None) -> list[Command]:
        """An XADD for each. max_len: a plain ``MAXLEN ~``."""
        cut = ("MAXLEN", "~", max_len) if max_len else ()
        each = self.each or [self.headers] * len(self.payloads)
        return [
            ("XADD", key, *cut, "*", PAYLOAD, payload, *parts)
            for payload, parts in zip(self.payloads, each, strict=True)
        ]

    def script_args(self) -> list[Any] | None:
        """Arguments of PUSH; None where headers differ, so that each message needs its own XADD."""
        if self.each is not None:
            return None
        return [PAYLOAD, len(self.headers), *self.headers, *self.payloads]


def portions(pushes: Pushes) -> list[Pushes]:
    """Parts that one command may carry without holding up the server; a large one is alone."""
    found: list[Pushes] = []
    start, size = 0, 0
    for index, payload in enumerate(pushes.payloads):
        length = len(payload)
        if index > start and (index - start == PUSH_CHUNK or size + length > PUSH_CHUNK_BYTES):
            found.append(pushes.part(start, index))
            start, size = index, 0
        size += length
    if start < len(pushes.payloads):
        found.append(pushes.part(start, len(pushes.payloads)))
    return found


def round_trips(pushes: Pushes) -> Iterator[list[Pushes]]:
    """Portions that are sent in one go; one whose refusal would end the connection is alone."""
    together: list[Pushes] = []
    for portion in portions(pushes):
        if together and (portion.is_large or len(together) == PUSH_AT_ONCE):
            yield together
            together = []
        if portion.is_large:
            yield [portion]
        else:
            together.append(portion)
    if together:
        yield together
