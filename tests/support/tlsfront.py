"""TLS in front of a server that has none: a thread for each connection.

OpenSSL itself writes to the socket here, so that a client is told why its certificate is refused.
"""

from __future__ import annotations

import contextlib
import select
import socket
import ssl
import threading

CHUNK = 65536


class TLSFront:
    """``url``: of the server on this port of 127.0.0.1, in TLS."""

    def __init__(self, port: int, context: ssl.SSLContext) -> None:
        self._target = port
        self._context = context
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._connections: set[socket.socket] = set()
        self._threads = [threading.Thread(target=self._accept)]
        self.url = f"rediss://127.0.0.1:{self._listener.getsockname()[1]}/0"

    def _accept(self) -> None:
        while True:
            try:
                raw, _ = self._listener.accept()
            except OSError:  # it ends
                return
            self._threads.append(threading.Thread(target=self._serve, args=(raw,)))
            self._threads[-1].start()

    def _serve(self, raw: socket.socket) -> None:
        with contextlib.suppress(OSError), contextlib.ExitStack() as stack:
            stack.enter_context(raw)
            client = stack.enter_context(self._context.wrap_socket(raw, server_side=True))
            server = stack.enter_context(socket.create_connection(("127.0.0.1", self._target)))
            self._connections.add(server)
            stack.callback(self._connections.discard, server)
            while True:
                ready = [client] if client.pending() else select.select([client, server], [], [])[0]
                for source in ready:
                    data = source.recv(CHUNK)
                    if not data:
                        return
                    (server if source is client else client).sendall(data)

    def __enter__(self) -> TLSFront:
        self._threads[0].start()
        return self

    def __exit__(self, *_: object) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._threads[0].join()
        for server in list(self._connections):
            with contextlib.suppress(OSError):
                server.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join()
