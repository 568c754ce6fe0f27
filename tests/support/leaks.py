"""What the tests must not leave behind: processes and listening ports.

A process belongs to this test session if it descends from it, has the session's mark in its
environment, or works in one of the session's directories (a server overwrites its environment with
its title, but not its working directory).
"""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterable
from pathlib import Path

import psutil

MARK = "RSQ_TEST_SESSION"  # environment variable, inherited by all that the tests start


def mark_session() -> None:
    """Mark this process and all that it will start."""
    os.environ[MARK] = uuid.uuid4().hex


def child_processes_of_this_session(directories: Iterable[Path] = ()) -> list[psutil.Process]:
    """Living processes that the tests started, orphans too; directories: where those work."""
    me = psutil.Process()
    mark = os.environ.get(MARK)
    places = tuple(str(directory) for directory in directories)
    descendants = set(me.children(recursive=True))
    ours = []
    for process in psutil.process_iter():
        if process.pid == me.pid:
            continue
        try:
            if process.status() == psutil.STATUS_ZOMBIE:
                continue
            if (
                process in descendants
                or (mark and process.environ().get(MARK) == mark)
                or (places and process.cwd().startswith(places))
            ):
                ours.append(process)
        except psutil.Error:  # it has ended, or is another user's
            continue
    return ours


def describe(processes: Iterable[psutil.Process]) -> list[str]:
    """Pid and command line of each, for a failure's text."""
    lines = []
    for process in processes:
        try:
            lines.append(f"{process.pid} {' '.join(process.cmdline()).strip()}")
        except psutil.Error:
            continue
    return lines


def listening_ports() -> set[int]:
    """TCP ports on which this process or a descendant listens."""
    me = psutil.Process()
    ports = set()
    for process in [me, *me.children(recursive=True)]:
        try:
            # psutil before 6.0 calls it otherwise
            list_them = getattr(process, "net_connections", None) or process.connections
            connections = list_them(kind="tcp")
        except psutil.Error:
            continue
        ports |= {c.laddr.port for c in connections if c.status == psutil.CONN_LISTEN}
    return ports
