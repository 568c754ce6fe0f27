"""A server that is no Redis: whatever it is asked, it gives one answer."""

from __future__ import annotations

import contextlib
import socketserver
import threading
from collections.abc import Iterator

OTHERS = {
    "all is well": b"+OK\r\n",
    "nothing": b"$-1\r\n",
    "a number": b":1\r\n",
    "a web server": b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n",
    "a mail server": b"220 mail ESMTP\r\n",
    "memcached": b"ERROR\r\n",
}


@contextlib.contextmanager
def answering(answer: bytes) -> Iterator[str]:
    """The URL of one that answers each command so."""

    class Handler(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            with contextlib.suppress(OSError):
                while commands := self.request.recv(65536).count(b"*"):
                    self.request.sendall(answer * commands)

    class Stub(socketserver.ThreadingTCPServer):
        daemon_threads = True

    with Stub(("127.0.0.1", 0), Handler) as stub:
        threading.Thread(target=stub.serve_forever, args=(0.05,), daemon=True).start()
        try:
            yield f"redis://127.0.0.1:{stub.server_address[1]}"
        finally:
            stub.shutdown()
