"""A process that tells the master which source files have changed; for ``rsq-pool --reload``.

It is a process of its own because the library watchfiles starts threads, and the master must not
have any.
"""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Container, Iterator
from pathlib import Path

from . import _linux, signals

LOOK_MS = 1000  # how often this process looks whether the master still runs


def watch_main(sock_fd: int, directory: str, since_s: float) -> None:
    """Watch the Python files below this directory until the master is gone.

    sock_fd: descriptor of a socket; each message on it has names of changed files, five at most.
    since_s: changes since this time (seconds since the epoch) are told, too.
    """
    from watchfiles import PythonFilter, watch

    _linux.set_process_name("rsq-watcher")
    signals.do_nothing(*signals.NOT_FOR_WORKERS)
    sock, master, wanted = socket.socket(fileno=sock_fd), os.getppid(), PythonFilter()
    changes = watch(
        directory,
        watch_filter=wanted,
        rust_timeout=LOOK_MS,
        yield_on_timeout=True,
        raise_interrupt=False,
    )
    watching = False
    for changed in changes:
        if os.getppid() != master:
            return
        paths = [path for _, path in changed]
        if not watching:
            watching = True
            paths += _changed_since(since_s, directory, wanted.ignore_dirs)
        if names := sorted({Path(path).name for path in paths}):
            sock.send(", ".join(names[:5]).encode(errors="replace"))


def _changed_since(since_s: float, directory: str, left_out: Container[str]) -> Iterator[str]:
    for parent, directories, names in os.walk(directory):
        directories[:] = [name for name in directories if name not in left_out]
        for path in (os.path.join(parent, name) for name in names if name.endswith(".py")):
            with contextlib.suppress(OSError):  # it has just gone
                if os.stat(path).st_mtime > since_s:
                    yield path
