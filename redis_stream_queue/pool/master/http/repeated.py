"""Exchanges that come again and again: their bytes in, the same bytes out.

A scraper or a probe sends the same request each time, and to read it and to write the answer
costs ten times what the answer itself does where that is made once a second.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import NamedTuple

MOST = 8  # exchanges that are known at a time
TEXT = "text/plain; charset=utf-8"


class Request(NamedTuple):
    """path: without what stands behind a "?". headers: their names are in lower case."""

    method: str
    path: str
    headers: Mapping[str, str]


class Response(NamedTuple):
    """kind: its content type."""

    body: bytes
    status: int = 200
    kind: str = TEXT
    headers: Mapping[str, str] = {}


def sentence(text: str, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """An answer for people."""
    return Response(f"{text}\n".encode(), status, headers=headers or {})


class Exchange(NamedTuple):
    """sent: the response as bytes, of this second. closes: does the connection end with it?"""

    request: Request
    response: Response
    sent: bytes
    at_s: int
    closes: bool


class Repeated:
    """The last exchanges, by all that the client had sent. answer: called for each request, also
    for one that is known: only while it gives the very same Response that is sent again."""

    def __init__(self, answer: Callable[[Request], Response]) -> None:
        self.answer = answer
        self._known: dict[bytes, Exchange] = {}

    def find(self, asked: bytes) -> Exchange | None:
        """None = the answer has to be made."""
        known = self._known.get(asked)
        if known is None or known.at_s != int(time.time()):
            return None
        return known if self.answer(known.request) is known.response else None

    def note(self, asked: bytes, exchange: Exchange) -> None:
        """asked: the request as it came, whole, on a connection with nothing else under way."""
        if len(self._known) >= MOST:
            self._known.clear()
        self._known[asked] = exchange
