"""Writes down every command that the server gets (MONITOR): the evidence when something fails."""

from __future__ import annotations

import socket
from pathlib import Path

from .background import Background

AGAIN_S = 0.02


class Recorder(Background):
    """A thread that watches a server on a unix socket and appends to a file, a command a line."""

    def __init__(self, socket_path: str, path: Path) -> None:
        super().__init__("recorder")
        self.path = path
        self._socket_path = socket_path

    def _run(self) -> None:
        while not self._over.is_set():
            try:
                self._watch()
            except OSError:  # killed like every other client
                self._over.wait(AGAIN_S)

    def _watch(self) -> None:
        with self.path.open("ab") as file, socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(0.5)
            connection.connect(self._socket_path)
            connection.sendall(b"MONITOR\r\n")
            while not self._over.is_set():
                try:
                    data = connection.recv(65536)
                except TimeoutError:
                    continue
                if not data:
                    raise ConnectionResetError
                file.write(data)
