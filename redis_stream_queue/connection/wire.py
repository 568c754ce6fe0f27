"""One open connection: its replies, the bytes that pass, its round trip, the server's run id."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import struct
import termios
from collections.abc import Callable
from typing import Any, cast

from hiredis import PushNotification
from redis._parsers.hiredis import NOT_ENOUGH_DATA
from redis.asyncio.connection import AbstractConnection
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import InvalidResponse, ResponseError

from .arrival import Arrival
from .packing import Command
from .shapes import is_wrong, no_reply, wrong_reply
from .timeout import Silence

LARGE_BYTES = 65_536  # what is larger is seen going out; the rest is gone at once
READ_BYTES = 65_536  # of what came before


class Wire(asyncio.Protocol):
    """What is known of one open connection. It takes the place of redis-py's protocol at the
    transport, and passes on to that what arrives while nobody waits for a reply.

    received: bytes that have arrived so far.
    rtt_s: seconds of a round trip: the shortest exchange so far; at first, of connecting.
    used_s: when the last exchange began, by the loop's clock.
    life: the server's run id; None = not asked yet, "" = unknown.
    generation: see Link.
    on_progress: called now and then while a long reply arrives.
    on_demoted: called when the server says that it is no master any more.
    silence: the timeout of the exchange under way.
    """

    def __init__(self, connection: AbstractConnection, connecting_s: float) -> None:
        self.received = 0
        self.rtt_s = connecting_s
        self.now = asyncio.get_running_loop().time
        self.used_s = self.now()
        self.life: str | None = None
        self.generation = 0
        self.on_progress: Callable[[], None] | None = None
        self.on_demoted: Callable[[], None] = lambda: None
        self._sent = 0
        self._reader = cast(Any, connection._reader)
        self._transport: Any = getattr(connection._writer, "transport", None)
        self.silence = Silence(self.now, self.progress, self._progressed, self._abort)
        self._fake: AbstractConnection | None = None  # no other one: it would never be let go
        if (protocol := getattr(connection._writer, "_protocol", None)) is None:  # fakeredis
            self._fake = connection
        else:
            protocol._get_close_waiter(None).add_done_callback(_ended)
            self._stand_before(protocol, cast(Any, connection)._parser._reader)

    # -- what arrives ----------------------------------------------------------------------------

    def _stand_before(self, protocol: Any, parser: Any) -> None:
        self._behind = protocol
        self._parser = parser
        self._arrival = Arrival(asyncio.get_running_loop())
        self._transport.set_protocol(self)

    def data_received(self, data: bytes) -> None:
        self.received += len(data)
        if not self._arrival.come(data):
            self._behind.data_received(data)

    def eof_received(self) -> bool | None:
        stays_open: bool | None = self._behind.eof_received()
        self._arrival.come(b"")
        return stays_open

    def connection_lost(self, error: Exception | None) -> None:
        self._behind.connection_lost(error)
        self._arrival.come(b"")

    def pause_writing(self) -> None:
        self._behind.pause_writing()

    def resume_writing(self) -> None:
        self._behind.resume_writing()

    async def reply(self, command: Command) -> Any:
        """Return the next reply, undecoded; it has to look like one to this command.

        Raises the error that the server replies, WrongReplyError, or ConnectionError.
        """
        while True:
            try:
                reply = await self._next()
            except InvalidResponse as error:
                raise no_reply(command, error) from error
            if not is_wrong(command, reply):
                return reply
            if not isinstance(reply, PushNotification):  # that is no reply
                raise wrong_reply(command, reply)

    async def _next(self) -> Any:
        if self._fake is not None:
            return await self._fake.read_response(disable_decoding=True)
        reader, parser, data = self._reader, self._parser, b""
        while (reply := parser.gets(False)) is NOT_ENOUGH_DATA:
            if data:
                self.silence.moves()
            if reader._buffer or reader.at_eof() or reader.exception() is not None:
                data = await reader.read(READ_BYTES)
                if not data:
                    raise RedisConnectionError("the server has closed the connection")
            else:
                data = await self._arrival.wait()
            parser.feed(data)
        if isinstance(reply, ResponseError | RedisConnectionError):
            raise reply
        return reply

    # -- what is known ---------------------------------------------------------------------------

    @property
    def ended(self) -> bool:
        """Has the other side closed it?"""
        return bool(self._reader.at_eof()) if hasattr(self._reader, "at_eof") else False

    @property
    def unasked(self) -> bool:
        """Has something arrived without a command? It would be taken for the next reply."""
        return self._fake is None and bool(self._reader._buffer or self._parser.has_data())

    def took(self, took_s: float) -> None:
        """Note how long an exchange took in which no command blocked at the server."""
        self.rtt_s = min(took_s, self.rtt_s)

    def sending(self, size: int) -> None:
        """Note how many bytes are about to be sent."""
        if size > LARGE_BYTES:
            self._sent += size

    def progress(self) -> int:
        """A number that grows with each byte that arrives, or leaves of a large command."""
        return self.received + (self._sent - self._unsent() if self._sent else 0)

    def _progressed(self) -> None:
        if self.on_progress is not None:
            self.on_progress()

    def _abort(self) -> None:
        if self._transport is not None:
            self._transport.abort()

    def _unsent(self) -> int:
        if self._transport is None:
            return 0
        unsent = int(self._transport.get_write_buffer_size())
        sock = self._transport.get_extra_info("socket")
        with contextlib.suppress(OSError, AttributeError, ValueError):
            packed = fcntl.ioctl(sock.fileno(), termios.TIOCOUTQ, b"\0\0\0\0")
            unsent += struct.unpack("i", packed)[0]
        return unsent


def _ended(closed: asyncio.Future[None]) -> None:
    """Take the error it ended with, which the exchange has raised; asyncio would log it again."""
    if not closed.cancelled():
        closed.exception()


def wire_of(connection: AbstractConnection, connecting_s: float = 0.0) -> Wire:
    """The Wire of an open connection; it is made where there is none yet."""
    reader: Any = connection._reader
    wire: Wire | None = getattr(reader, "rsq_wire", None)
    if wire is None:
        wire = Wire(connection, connecting_s)
        if reader is not None:
            reader.rsq_wire = wire
    return wire
