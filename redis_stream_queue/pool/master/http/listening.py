"""Takes clients' connections, as long as enough descriptors are left for the pool itself.

(asyncio's own server takes the last one, and then writes hundreds of tracebacks a second.)
"""

from __future__ import annotations

import asyncio
import resource
import socket
from typing import Any

from ...._log import logger
from ....connection.backoff import Backoff
from .connection import Connection
from .repeated import Repeated

log = logger(__name__)

MOST_CONNECTIONS = 128
BACKLOG = 32  # connections that are taken in one turn of the loop
FOR_THE_POOL = 32  # descriptors that are left to it; of a low limit, a quarter
AGAIN_S = 1.0  # pause after a try without a free descriptor


class Listening:
    """The listening sockets and all open connections. repeated: makes the answers."""

    def __init__(self, repeated: Repeated) -> None:
        self._open: set[Connection] = set()
        self._sockets: list[socket.socket] = []
        self._beginning: set[asyncio.Task[Any]] = set()
        self._repeated = repeated
        self._full = Backoff(AGAIN_S, AGAIN_S)

    async def begin(self, host: str, port: int) -> None:
        """Listen on all addresses of this name. Raises OSError, or UnicodeError for no name."""
        loop = asyncio.get_running_loop()
        # It looks the name up and binds; what it would do with connections is not for us.
        bound = await loop.create_server(asyncio.Protocol, host, port, start_serving=False)
        try:
            for one in bound.sockets:
                sock = socket.socket(fileno=socket.dup(one.fileno()))
                self._sockets.append(sock)
                sock.setblocking(False)
                sock.listen(BACKLOG)
                loop.add_reader(sock, self._take, sock)
        finally:
            bound.close()

    def close(self) -> None:
        """Stop listening, and close all connections."""
        for sock in self._sockets:
            asyncio.get_running_loop().remove_reader(sock)
            sock.close()
        for task in self._beginning:
            task.cancel()
        for connection in list(self._open):
            connection.abort()

    def _take(self, sock: socket.socket) -> None:
        if sock.fileno() < 0:
            return
        loop = asyncio.get_running_loop()
        for _ in range(BACKLOG):
            try:
                client, _ = sock.accept()
            except (BlockingIOError, ConnectionAbortedError):
                break
            except OSError as error:  # no descriptor is free
                pause_s = self._full.next_s()
                if self._full.worth_a_line():
                    log.warning("HTTP: cannot take a connection: %s", error)
                loop.remove_reader(sock)
                loop.call_later(pause_s, self._listen_again, sock)
                return
            if self._has_room_for(client):
                begin = loop.connect_accepted_socket(self._connection, client)
                task = loop.create_task(begin)
                self._beginning.add(task)
                task.add_done_callback(self._beginning.discard)
            else:
                client.close()

    def _listen_again(self, sock: socket.socket) -> None:
        if sock.fileno() >= 0:
            asyncio.get_running_loop().add_reader(sock, self._take, sock)

    def _has_room_for(self, client: socket.socket) -> bool:
        limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        kept = min(FOR_THE_POOL, limit // 4)
        if limit != resource.RLIM_INFINITY and client.fileno() >= limit - kept:
            return False
        return len(self._open) + len(self._beginning) < MOST_CONNECTIONS

    def _connection(self) -> Connection:
        return Connection(self._repeated, self._open)
