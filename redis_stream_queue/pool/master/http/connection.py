"""One client over HTTP/1.1: h11 speaks the protocol, the limits are kept here.

No client can hold us up: it has CONNECTION_S in all and MOST_HEAD bytes a request, and while it
does not read its answers nothing more is read of it. Bodies of requests are not looked at.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from email.utils import formatdate
from http import HTTPStatus
from typing import Any, NamedTuple, cast

import h11

MOST_HEAD = 16 * 1024  # bytes
CONNECTION_S = 5.0  # so long one lives, whether it asks for something or is silent
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


class Connection(asyncio.Protocol):
    """answer: called for each request. open_: the others; most: so many there may be at a time."""

    def __init__(
        self, answer: Callable[[Request], Response], open_: set[Connection], most: int
    ) -> None:
        self._answer = answer
        self._open = open_
        self._most = most
        self._http = h11.Connection(h11.SERVER, max_incomplete_event_size=MOST_HEAD)
        self._blocked = False  # the client does not read
        self._ended = False  # the last answer was given

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        if len(self._open) >= self._most:
            self.abort()
            return
        self._open.add(self)
        asyncio.get_running_loop().call_later(CONNECTION_S, self.abort)

    def abort(self) -> None:
        """Leave at once."""
        self._transport.abort()

    def connection_lost(self, _: Exception | None) -> None:
        self._open.discard(self)

    def pause_writing(self) -> None:
        self._blocked = True
        self._transport.pause_reading()

    def resume_writing(self) -> None:
        self._blocked = False
        self._transport.resume_reading()
        self._go_on()

    def data_received(self, data: bytes) -> None:
        if not self._ended:
            self._http.receive_data(data)
            self._go_on()

    def _go_on(self) -> None:
        """Answer what was asked, as long as the answers are read."""
        while not (self._blocked or self._ended):
            try:
                event = self._http.next_event()
                if not isinstance(event, h11.Request):
                    return  # more is to come
                whole = isinstance(self._http.next_event(), h11.EndOfMessage)
            except h11.RemoteProtocolError as error:
                status = HTTPStatus(error.error_status_hint)
                self._send(sentence(status.phrase.lower(), status), ends=True)
            else:
                request = _request(event)
                self._send(self._answer(request), ends=not whole, head=request.method == "HEAD")

    def _send(self, response: Response, *, ends: bool, head: bool = False) -> None:
        headers = {
            "Date": formatdate(usegmt=True),
            "Content-Type": response.kind,
            "Content-Length": str(len(response.body)),
            **({"Connection": "close"} if ends else {}),
            **response.headers,
        }
        events: list[Any] = [
            h11.Response(
                status_code=response.status,
                reason=HTTPStatus(response.status).phrase,
                headers=list(headers.items()),
            ),
            *([] if head else [h11.Data(response.body)]),
            h11.EndOfMessage(),
        ]
        self._transport.write(b"".join(self._http.send(event) or b"" for event in events))
        if ends:  # what is still under way is not read: to close now would take the answer back
            self._ended = True
            self._transport.write_eof()
        elif self._http.our_state is h11.DONE:
            self._http.start_next_cycle()
        else:  # the client wants no more
            self._ended = True
            self._transport.close()


def _request(event: h11.Request) -> Request:
    headers = {name.decode(): value.decode(errors="replace") for name, value in event.headers}
    return Request(event.method.decode(), event.target.decode().partition("?")[0], headers)
