"""Repeated requests: the same bytes in the same second get the same bytes as an answer.

A scraper or a probe sends the same request each time. To parse it and to write the answer costs ten
times as much as the answer itself, which is made once a second.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import NamedTuple

MOST = 8  # exchanges that are known at a time
TEXT = "text/plain; charset=utf-8"


class Request(NamedTuple):
    """A request. path: without "?" and what follows. headers: their names are in lower case."""

    method: str
    path: str
    headers: Mapping[str, str]


class Response(NamedTuple):
    """An answer. kind: its content type."""

    body: bytes
    status: int = 200
    kind: str = TEXT
    headers: Mapping[str, str] = {}


def sentence(text: str, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """An answer of one line of text."""
    return Response(f"{text}\n".encode(), status, headers=headers or {})


class Exchange(NamedTuple):
    """A request and its answer.

    sent: the answer as bytes. at_s: the second in which it was made, since the epoch. closes: is
    the connection closed after it?
    """

    request: Request
    response: Response
    sent: bytes
    at_s: int
    closes: bool


class Repeated:
    """The last exchanges, by the bytes of the request.

    answer: makes the answer to a request. It is called for each request; if it returns the same
    object as last time, the bytes of that answer are sent again.
    """

    def __init__(self, answer: Callable[[Request], Response]) -> None:
        self.answer = answer
        self._known: dict[bytes, Exchange] = {}

    def find(self, asked: bytes) -> Exchange | None:
        """The exchange to repeat for these bytes; None = the answer has to be made."""
        known = self._known.get(asked)
        if known is None or known.at_s != int(time.time()):
            return None
        return known if self.answer(known.request) is known.response else None

    def note(self, asked: bytes, exchange: Exchange) -> None:
        """Keep an exchange. asked: the whole request, as it came in one piece."""
        if len(self._known) >= MOST:
            self._known.clear()
        self._known[asked] = exchange
