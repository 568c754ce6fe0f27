"""A process that says which source files change, one line each time; for ``rsq-pool --reload``.

The library that is asked for it (watchfiles) starts threads, which the master must not have.
"""

from __future__ import annotations

import os
import socket
from pathlib import Path

from . import _linux, signals

LOOK_MS = 1000  # how often the end of the master is looked for


def watch_main(sock_fd: int, directory: str) -> None:
    """Watch the Python files below this directory until the master is gone."""
    from watchfiles import PythonFilter, watch

    _linux.set_process_name("rsq-watcher")
    signals.do_nothing(*signals.NOT_FOR_WORKERS)
    sock, master = socket.socket(fileno=sock_fd), os.getppid()
    changes = watch(
        directory,
        watch_filter=PythonFilter(),
        rust_timeout=LOOK_MS,
        yield_on_timeout=True,
        raise_interrupt=False,
    )
    for changed in changes:
        if os.getppid() != master:
            return
        if names := sorted({Path(path).name for _, path in changed}):
            sock.send(", ".join(names[:5]).encode(errors="replace"))
