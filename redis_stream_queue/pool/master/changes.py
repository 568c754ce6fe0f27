"""``--reload``: asks for fresh code when source files change."""

from __future__ import annotations

import asyncio
import importlib.util
import socket
from collections.abc import Callable

from ... import _exits
from ..._exits import Failure
from ..._log import logger
from .. import pipe
from .spawner import Spawner

log = logger(__name__)


def watch_changes(spawner: Spawner, reload: Callable[[str], None]) -> None:
    """Start the process that watches files; call this in the event loop.

    reload: called with a text that names the changed files. Raises Failure if the extra ``reload``
    is not installed or the process cannot be started.
    """
    if importlib.util.find_spec("watchfiles") is None:
        raise Failure(
            _exits.USAGE,
            "--reload needs the extra reload (watchfiles): "
            "pip install 'redis-stream-queue[reload]'",
        )
    try:
        sock = spawner.start_watcher()
    except OSError as error:
        raise Failure(_exits.FAILURE, f"--reload: cannot start a process: {error}") from None
    sock.setblocking(False)
    loop = asyncio.get_running_loop()
    loop.add_reader(sock.fileno(), _changed, loop, sock, reload)
    log.info("--reload: watching the Python files in %s", spawner.directory)


def _changed(
    loop: asyncio.AbstractEventLoop, sock: socket.socket, reload: Callable[[str], None]
) -> None:
    try:
        names = sock.recv(pipe.MAX_MESSAGE)
    except BlockingIOError:
        return
    except OSError:
        names = b""
    if names:
        reload(f"{names.decode(errors='replace')} changed")
        return
    loop.remove_reader(sock.fileno())
    sock.close()
    log.error("--reload: the process that watched the files has ended; send SIGHUP instead")
