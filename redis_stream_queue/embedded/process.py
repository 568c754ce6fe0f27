"""The server process at the other end of a unix socket: is it alive, whose is it, and ending it."""

from __future__ import annotations

import contextlib
import enum
import os
import socket
import struct
import subprocess
import sys
import time
from pathlib import Path

import psutil

from ..exceptions import ConfigError

STOP_TIMEOUT_S = 10.0  # until SIGKILL follows SIGTERM
POLL_S = 0.005


class Answer(enum.Enum):
    """How a server answers a PING on its socket."""

    READY = "ready"
    LOADING = "loading its data"
    SILENT = "not answering"  # somebody has the socket open
    NONE = "not listening"


def probe(socket_path: Path) -> tuple[Answer, int]:
    """Send a PING, for 1 s at most; returns the answer and the server's pid, 0 if unknown.

    Raises ConfigError for a server of another user.
    """
    pid = 0
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.settimeout(1.0)
        try:
            connection.connect(str(socket_path))
        except (BlockingIOError, TimeoutError):  # its queue of connections is full
            return Answer.SILENT, pid
        except PermissionError:
            raise _of_another_user(socket_path) from None
        except OSError:
            return Answer.NONE, pid
        try:
            pid, uid = _peer(connection)
            if uid != os.geteuid():
                raise _of_another_user(socket_path)
            connection.sendall(b"PING\r\n")
            reply = connection.recv(64)
        except OSError:
            return Answer.SILENT, pid
    if not reply:
        return Answer.SILENT, pid
    return (Answer.LOADING if reply.startswith(b"-LOADING") else Answer.READY), pid


def _of_another_user(socket_path: Path) -> ConfigError:
    return ConfigError(
        f"the private server on {socket_path} belongs to another user. "
        "Use a directory of your own: embedded://DIR"
    )


def _peer(connection: socket.socket) -> tuple[int, int]:
    """Pid and uid of the process that listens; pid 0 if it is in another pid namespace."""
    if sys.platform == "darwin":
        local_peercred, local_peerpid = 1, 2
        (pid,) = struct.unpack("i", connection.getsockopt(0, local_peerpid, 4))
        _version, uid = struct.unpack("2I", connection.getsockopt(0, local_peercred, 76)[:8])
    else:
        credentials = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)
        pid, uid, _gid = struct.unpack("3i", credentials)
    return int(pid), int(uid)


def process_of(pid: int) -> psutil.Process | None:
    """The process with this pid; None if it is gone or belongs to another user."""
    with contextlib.suppress(psutil.Error):
        process = psutil.Process(pid) if pid else None
        return process if process and process.uids().effective == os.geteuid() else None
    return None


def end_process(process: psutil.Process, child: subprocess.Popen[bytes] | None = None) -> None:
    """Send SIGTERM, after STOP_TIMEOUT_S also SIGKILL; returns when the process is gone.

    On SIGTERM the server writes and syncs its append-only file. child: the same process, if this
    process started it.
    """

    def is_gone() -> bool:
        if child is not None:
            return child.poll() is not None
        return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE

    with contextlib.suppress(psutil.NoSuchProcess):
        process.terminate()
        deadline = time.monotonic() + STOP_TIMEOUT_S
        while not is_gone() and time.monotonic() < deadline:
            time.sleep(POLL_S)
        if not is_gone():
            process.kill()
        while not is_gone():
            time.sleep(POLL_S)
