"""``embedded://[DIR]``: a private real server for first runs, development and tests.

All processes that name the same DIR share one server on a unix socket. The first one starts it, the
last one to leave stops it, and its data stays in DIR. Beside the server's own files DIR holds

    server.sock   the socket; lies in a temporary directory when DIR's path is too long for a socket
    server.log    the server's log
    server.lock   locked by the process that is just starting, joining or stopping the server
    server.users  locked (shared) by every process that uses the server
    server.alive  locked by the server process itself; its text is the path of the socket

The kernel drops a lock when its process dies, however it dies. So nobody has to trust a recorded
pid, and the next process that comes adopts a server whose users were all killed.
"""

from __future__ import annotations

import atexit
import contextlib
import fcntl
import os
import shutil
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from urllib.parse import quote

from .._log import logger
from ..exceptions import ConfigError, RedisStreamError
from .binary import find_server
from .directory import (
    ALIVE,
    LOG,
    USERS,
    is_locked,
    is_private,
    log_tail,
    new_socket,
    open_lock,
    open_own,
    recorded_socket,
    remove_socket,
    socket_record,
    turn,
    usable_directory,
)
from .process import POLL_S, STOP_TIMEOUT_S, Answer, end_process, probe, process_of

log = logger(__name__)

START_TIMEOUT_S = 10.0  # until the server answers at all
LOADING_TIMEOUT_S = 60.0  # until it has loaded its data
TURN_TIMEOUT_S = LOADING_TIMEOUT_S + START_TIMEOUT_S + STOP_TIMEOUT_S
TEMPORARY_PREFIX = "rsq-embedded-"
NEW_DIRECTORY_S = 60.0  # so young a directory may get its server in a moment


class EmbeddedServer:
    """A private server that this process uses; start_or_join() makes one.

    directory: where its data lies; ``socket_path``: how to reach it.
    pid: its process; 0 if that lives in another pid namespace, and then it is never stopped.
    owned: this process started it, or found it without any user and adopted it.
    """

    def __init__(
        self,
        directory: Path,
        socket_path: Path,
        pid: int,
        *,
        owned: bool,
        temporary: bool,
        users_lock: int,
        child: subprocess.Popen[bytes] | None = None,
    ) -> None:
        self.directory = directory
        self.socket_path = str(socket_path)
        self.pid = pid
        # A server that listens there but was not started by us is used, but never stopped.
        self._process = process_of(pid) if is_locked(directory / ALIVE) else None
        self.owned = owned and self._process is not None
        self._temporary = temporary
        self._users_lock = users_lock
        self._child = child
        self._user_pid = os.getpid()
        self._left = False

    @property
    def url(self) -> str:
        """The address of this server, for StreamClient.from_url."""
        return f"unix://{quote(self.socket_path)}"

    def __repr__(self) -> str:
        return f"EmbeddedServer(directory={str(self.directory)!r}, pid={self.pid})"

    def stop(self) -> None:
        """Leave the server. The last process that leaves stops it and waits until it is gone.

        A second call does nothing, nor does a call in a forked child of the process that started
        or joined the server.
        """
        with _registry_lock:
            if self._left or self._user_pid != os.getpid():
                return
            if _registry.get(self.directory) is self:
                del _registry[self.directory]
            with contextlib.ExitStack() as stack:
                try:
                    stack.enter_context(turn(self.directory, STOP_TIMEOUT_S))
                except RedisStreamError:  # somebody is joining all this time: leave it to them
                    self._forget()
                    return
                except OSError:  # the directory was deleted, so nobody can join any more
                    pass
                fcntl.flock(self._users_lock, fcntl.LOCK_UN)
                if self._process is not None and not is_locked(self.directory / USERS):
                    end_process(self._process, self._child)
                    remove_socket(self.directory, Path(self.socket_path))
                    if self._temporary:
                        shutil.rmtree(self.directory, ignore_errors=True)
                self._forget()

    def _forget(self) -> None:
        """Close what this process holds of the server, and leave the server as it is."""
        self._left = True
        os.close(self._users_lock)
        if self._child is not None and self._child.poll() is None:
            self._child.returncode = 0  # it lives on: Popen shall neither wait for it nor warn


_registry: dict[Path, EmbeddedServer] = {}  # what this process uses, by directory
_registry_lock = threading.Lock()
_announced: set[Path] = set()


def start_or_join(directory: str | os.PathLike[str] | None = None) -> EmbeddedServer:
    """Join the private server of this directory, or start it; blocks until it has loaded its data.

    directory: made if missing; None or "" = a temporary directory, the same for all calls in this
    process, and removed with the server.

    Raises ConfigError (directory unusable, no server installed) or RedisStreamError (the server
    does not come up; the text quotes its log).
    """
    with _registry_lock:
        if directory:
            path = usable_directory(Path(directory))
        else:
            path = (
                next((server.directory for server in _registry.values() if server._temporary), None)
                or _temporary_directory()
            )
        server = _registry.get(path)
        if server is not None:
            if _join(path, Path(server.socket_path)) == server.pid:
                return server
            if server._child is not None:
                server._child.wait(STOP_TIMEOUT_S)
            server._forget()
        try:
            with turn(path, TURN_TIMEOUT_S):
                server = _registry[path] = _enter(path, temporary=not directory)
        except BaseException:  # a Ctrl-C, too
            _registry.pop(path, None)
            if not directory:
                shutil.rmtree(path, ignore_errors=True)
            raise
        if path not in _announced:
            _announced.add(path)
            log.info(
                "embedded: private server for development and tests, not for production; "
                "its data is in %s (pid %d)",
                path,
                server.pid,
            )
        return server


def _enter(directory: Path, *, temporary: bool) -> EmbeddedServer:
    """Join the server if it runs, else start it; the caller has the directory's turn."""
    abandoned = not is_locked(directory / USERS)
    socket_path = recorded_socket(directory)
    pid, child = _join(directory, socket_path), None
    if pid is None:
        socket_path = new_socket(directory)
        child, pid = _start(directory, socket_path)
    users_lock = open_lock(directory / USERS)
    fcntl.flock(users_lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    return EmbeddedServer(
        directory,
        socket_path,
        pid,
        owned=child is not None or abandoned,
        temporary=temporary,
        users_lock=users_lock,
        child=child,
    )


def _join(directory: Path, socket_path: Path) -> int | None:
    """Wait until the server of this directory is ready; returns its pid, None if none runs."""
    return _wait_until_ready(directory, socket_path, lambda: not is_locked(directory / ALIVE))


def _start(directory: Path, socket_path: Path) -> tuple[subprocess.Popen[bytes], int]:
    """Start a server on this directory's data and wait until it is ready; returns it and its pid.

    Raises RedisStreamError if the server does not come up.
    """
    command = [str(find_server()), "--port", "0", "--unixsocket", str(socket_path)]
    command += ["--unixsocketperm", "700", "--dir", str(directory), "--daemonize", "no"]
    command += ["--save", "", "--appendonly", "yes", "--appendfsync", "everysec", "--hz", "100"]
    command += ["--logfile", str(directory / LOG)]
    alive_lock = open_lock(directory / ALIVE)
    try:
        fcntl.flock(alive_lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.truncate(alive_lock, 0)
        os.write(alive_lock, socket_record(directory, socket_path))
        with open(open_own(directory / LOG, os.O_WRONLY | os.O_APPEND | os.O_CREAT)) as log:
            child = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=log,
                pass_fds=[alive_lock],  # the server holds the lock from here on
                start_new_session=True,  # a Ctrl-C in the terminal is not meant for it
                umask=0o077,
            )
    finally:
        os.close(alive_lock)
    try:
        pid = _wait_until_ready(directory, socket_path, lambda: child.poll() is not None)
    except BaseException:  # a Ctrl-C, too
        child.kill()
        child.wait()
        raise
    if pid is None:
        raise RedisStreamError(
            f"the private server in {directory} ended with code {child.returncode} before it "
            f"answered. {log_tail(directory)}"
        )
    return child, pid


def _wait_until_ready(
    directory: Path, socket_path: Path, is_dead: Callable[[], bool]
) -> int | None:
    """Wait until the server has loaded its data; returns its pid, or None if it is dead.

    Raises RedisStreamError if the server runs and does not answer in time.
    """
    started = time.monotonic()
    while True:
        dead = is_dead()
        answer, pid = probe(socket_path)
        if answer is Answer.READY:
            return pid
        if dead and answer is Answer.NONE:
            return None
        most_s = LOADING_TIMEOUT_S if answer is Answer.LOADING else START_TIMEOUT_S
        if time.monotonic() - started > most_s:
            raise RedisStreamError(
                f"the private server in {directory} runs but gives no answer on {socket_path} "
                f"within {most_s:g} s (it is {answer.value}). End its process "
                f"(fuser {directory / ALIVE}), then try again. {log_tail(directory)}"
            )
        time.sleep(POLL_S)


def _temporary_directory() -> Path:
    _remove_abandoned()
    try:
        path = Path(tempfile.mkdtemp(prefix=TEMPORARY_PREFIX))
    except OSError as exc:
        raise ConfigError(
            f"embedded:// cannot make a temporary directory: {exc.strerror}. "
            "Name a directory, embedded://DIR, or set TMPDIR."
        ) from None
    return usable_directory(path)


def _remove_abandoned() -> None:
    """End temporary servers of this user that have no user process any more."""
    for directory in Path(tempfile.gettempdir()).glob(f"{TEMPORARY_PREFIX}*"):
        if not is_private(directory):
            continue  # else another user could make us remove files of ours
        with contextlib.suppress(OSError, RedisStreamError), turn(directory, timeout_s=0):
            if is_locked(directory / USERS) or _is_being_made(directory):
                continue
            socket_path = recorded_socket(directory)
            process = process_of(probe(socket_path)[1])
            if process is not None:
                end_process(process)
            remove_socket(directory, socket_path)
            shutil.rmtree(directory, ignore_errors=True)


def _is_being_made(directory: Path) -> bool:
    """Is another process just about to start the server of this directory?"""
    age_s = time.time() - directory.stat().st_mtime
    return not (directory / ALIVE).exists() and age_s < NEW_DIRECTORY_S


# --- the end of this process, and forks ---


def _stop_all() -> None:
    for server in list(_registry.values()):
        server.stop()


def _after_fork_in_child() -> None:
    """A forked child has joined no server: those of its parent stay the parent's alone."""
    global _registry_lock
    _registry_lock = threading.Lock()
    for server in _registry.values():
        server._forget()
    _registry.clear()
    _announced.clear()


atexit.register(_stop_all)
os.register_at_fork(after_in_child=_after_fork_in_child)
