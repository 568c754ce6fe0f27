"""One client over HTTP/1.1: h11 reads and writes the protocol, this module keeps the limits.

No client can hold up the master: its connection lasts CONNECTION_S at most, a request has MOST_HEAD
bytes at most, and while the client does not read its answers, nothing more is read from it. Bodies
of requests are ignored.
"""

from __future__ import annotations

import asyncio
import time
from email.utils import formatdate
from http import HTTPStatus
from typing import Any, cast

import h11

from .repeated import Exchange, Repeated, Request, Response, sentence

MOST_HEAD = 16 * 1024  # bytes
PIECE = 4 * 1024  # bytes that h11 gets at a time
CONNECTION_S = 5.0  # how long a connection lasts, whatever the client does


class Connection(asyncio.Protocol):
    """repeated: makes the answers. open_: all connections."""

    def __init__(self, repeated: Repeated, open_: set[Connection]) -> None:
        self._repeated = repeated
        self._open = open_
        self._http: h11.Connection | None = None  # None = no request is under way
        self._unread = bytearray()  # bytes that h11 has not got yet
        self._blocked = False  # the client does not read its answers
        self._ended = False  # the last answer has been sent

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._timer = asyncio.get_running_loop().call_later(CONNECTION_S, self.abort)
        self._open.add(self)

    def abort(self) -> None:
        """Close the connection at once."""
        self._transport.abort()

    def connection_lost(self, _: Exception | None) -> None:
        self._timer.cancel()
        self._open.discard(self)

    def pause_writing(self) -> None:
        self._blocked = True
        self._transport.pause_reading()

    def resume_writing(self) -> None:
        self._blocked = False
        self._transport.resume_reading()
        self._go_on()

    def data_received(self, data: bytes) -> None:
        if self._ended:
            return
        asked = b""
        if self._http is None:
            if (exchange := self._repeated.find(data)) is not None:
                self._write(exchange.sent, closes=exchange.closes)
                return
            asked = data
            self._http = h11.Connection(h11.SERVER, max_incomplete_event_size=MOST_HEAD)
        self._unread += data
        self._go_on(asked)

    def _go_on(self, asked: bytes = b"") -> None:
        """Answer requests, as long as the client reads the answers.

        asked: the bytes that have just come, if no request is under way.
        """
        http = self._http
        if http is None or self._blocked or self._ended or self._transport.is_closing():
            return
        try:
            while (event := http.next_event()) is h11.NEED_DATA and self._unread:
                http.receive_data(bytes(self._unread[:PIECE]))
                del self._unread[:PIECE]
            if not isinstance(event, h11.Request):
                self._transport.resume_reading()
                return  # more is to come
            whole = isinstance(http.next_event(), h11.EndOfMessage)
        except h11.RemoteProtocolError as error:
            status = HTTPStatus(error.error_status_hint)
            if status == 431 and b"\n" not in http.trailing_data[0][:MOST_HEAD]:
                status = HTTPStatus.REQUEST_URI_TOO_LONG
            self._give_up(http, sentence(status.phrase.lower(), status))
            return
        request = _request(event)
        response = self._repeated.answer(request)
        if whole:
            self._exchange(http, request, response, asked)
        else:
            self._give_up(http, response, is_head=request.method == "HEAD")

    def _exchange(
        self, http: h11.Connection, request: Request, response: Response, asked: bytes
    ) -> None:
        """Answer a request, and get ready for the next one."""
        at_s = int(time.time())
        sent = _as_bytes(http, response, at_s, is_head=request.method == "HEAD")
        closes = http.our_state is not h11.DONE  # the client has asked to close
        more = bool(self._unread or http.trailing_data[0])
        if asked and not more:
            self._repeated.note(asked, Exchange(request, response, sent, at_s, closes))
        if closes or not more:
            self._http = None
            self._transport.resume_reading()
        else:  # the next request in the next turn of the loop, so that others have theirs
            http.start_next_cycle()
            self._transport.pause_reading()
            asyncio.get_running_loop().call_soon(self._go_on)
        self._write(sent, closes=closes)

    def _write(self, sent: bytes, *, closes: bool) -> None:
        self._transport.write(sent)
        if closes:
            self._ended = True
            self._transport.close()

    def _give_up(self, http: h11.Connection, response: Response, *, is_head: bool = False) -> None:
        """Send the last answer, although more bytes of the request may come.

        Only our half is closed: to close both now would reset the connection before the client has
        read the answer.
        """
        self._ended = True
        response = response._replace(headers={**response.headers, "Connection": "close"})
        self._transport.write(_as_bytes(http, response, time.time(), is_head=is_head))
        self._transport.write_eof()


def _request(event: h11.Request) -> Request:
    headers = {name.decode(): value.decode(errors="replace") for name, value in event.headers}
    return Request(event.method.decode(), event.target.decode().partition("?")[0], headers)


def _as_bytes(http: h11.Connection, response: Response, at_s: float, *, is_head: bool) -> bytes:
    headers = {
        "Date": formatdate(at_s, usegmt=True),
        "Content-Type": response.kind,
        "Content-Length": str(len(response.body)),
        **response.headers,
    }
    events: list[Any] = [
        h11.Response(
            status_code=response.status,
            reason=HTTPStatus(response.status).phrase,
            headers=list(headers.items()),
        ),
        *([] if is_head else [h11.Data(response.body)]),
        h11.EndOfMessage(),
    ]
    return b"".join(http.send(event) or b"" for event in events)
