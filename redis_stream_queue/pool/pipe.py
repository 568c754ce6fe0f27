"""One end of a pipe that carries whole messages: a SOCK_SEQPACKET socket pair.

The kernel keeps messages apart, so a reader never sees half of one. Writing never blocks: what does
not fit waits in this process and is sent when the peer has read. End of file = the peer has died.
"""

from __future__ import annotations

import asyncio
import socket
from collections import deque
from collections.abc import Callable

from .._log import logger
from .protocol import Message, decode, encode

log = logger(__name__)

MAX_MESSAGE = 192 * 1024  # below the default socket buffer
MAX_WAITING = 10_000  # messages kept for a peer that does not read; then the oldest is dropped


def pair() -> tuple[socket.socket, socket.socket]:
    """A new pipe: its two ends."""
    return socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)


class Channel:
    """One end of the pipe in the running event loop.

    on_message: called with each message. on_end: called once, when the peer is gone.
    """

    def __init__(
        self,
        sock: socket.socket,
        on_message: Callable[[Message], None],
        on_end: Callable[[], None],
    ) -> None:
        sock.setblocking(False)
        self._sock = sock
        self._on_message = on_message
        self._on_end = on_end
        self._waiting: deque[bytes] = deque(maxlen=MAX_WAITING)
        self._loop = asyncio.get_running_loop()
        self._open = True
        self._loop.add_reader(sock.fileno(), self._readable)

    def send(self, message: Message) -> None:
        """Send a message now, or as soon as the peer reads; dropped if the pipe is closed."""
        if not self._open:
            return
        raw = encode(message)
        if len(raw) > MAX_MESSAGE:  # the kernel would refuse it, as if the peer was gone
            log.error("a %s of %d bytes does not fit the pipe", type(message).__name__, len(raw))
            return
        self._waiting.append(raw)
        if len(self._waiting) == 1:
            self._flush()

    def _flush(self) -> None:
        while self._waiting:
            try:
                self._sock.send(self._waiting[0])
            except BlockingIOError:
                self._loop.add_writer(self._sock.fileno(), self._flush)
                return
            except OSError:  # the peer is gone: _readable calls on_end
                self._waiting.clear()
                break
            self._waiting.popleft()
        self._loop.remove_writer(self._sock.fileno())

    def _readable(self) -> None:
        while self._open:
            try:
                raw = self._sock.recv(MAX_MESSAGE)
            except BlockingIOError:
                return
            except OSError:
                raw = b""
            if not raw:
                self.close()
                self._on_end()
                return
            message = decode(raw)
            if message is not None:
                self._on_message(message)

    def finish(self) -> None:
        """Call this when the peer is gone: reads what it has still sent, then closes."""
        self._readable()
        self.close()

    def close(self) -> None:
        """Close this end; a second call does nothing."""
        if self._open:
            self._open = False
            self._loop.remove_reader(self._sock.fileno())
            self._loop.remove_writer(self._sock.fileno())
            self._sock.close()
