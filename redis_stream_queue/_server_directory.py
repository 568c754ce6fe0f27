"""The directory of a private server: its files, its socket and its locks (see embedded.py)."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import stat
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from ._server_process import POLL_S
from .exceptions import ConfigError, RedisStreamError

LOCK, USERS, ALIVE = "server.lock", "server.users", "server.alive"
SOCKET, LOG = "server.sock", "server.log"
SOCKET_PATH_LIMIT = 103  # bytes: 107 on Linux, 103 on macOS


def usable_directory(directory: Path) -> Path:
    """The absolute path of a directory that exists and can be written to."""
    try:
        path = directory.expanduser().resolve()
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        os.close(open_lock(path / LOCK))
    except FileExistsError:
        reason = "it is a file"
    except OSError as exc:
        reason = exc.strerror or str(exc)
    except (ValueError, RuntimeError) as exc:  # a NUL byte; ~user without such a user
        reason = str(exc)
    else:
        return path
    raise ConfigError(
        f"embedded:// needs a directory that can be written to, got {str(directory)!r}: {reason}. "
        "Name another one: embedded://DIR"
    )


def socket_record(directory: Path, socket_path: Path) -> bytes:
    """What server.alive says: relative to DIR where it can be, as DIR may be mounted elsewhere."""
    return os.fsencode(SOCKET if socket_path.parent == directory else socket_path)


def recorded_socket(directory: Path) -> Path:
    """The socket of the server that runs or ran here."""
    record = b""
    with contextlib.suppress(FileNotFoundError):
        record = (directory / ALIVE).read_bytes()
    return directory / (os.fsdecode(record) or SOCKET)


def new_socket(directory: Path) -> Path:
    """Where a server to be started opens its socket; a stale one is removed."""
    socket_path = directory / SOCKET
    if len(os.fsencode(socket_path)) > SOCKET_PATH_LIMIT:
        socket_path = _short_place(directory) / SOCKET
    socket_path.unlink(missing_ok=True)
    return socket_path


def _short_place(directory: Path) -> Path:
    """A directory of this user alone for the socket of a DIR whose path is too long."""
    name = "rsq-socket-" + hashlib.sha256(os.fsencode(directory)).hexdigest()[:16]
    place = Path(tempfile.gettempdir(), name)
    if len(os.fsencode(place / SOCKET)) > SOCKET_PATH_LIMIT:
        place = Path("/tmp", name)
    with contextlib.suppress(FileExistsError):
        place.mkdir(mode=0o700)
    status = place.lstat()
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.getuid():
        raise ConfigError(
            f"embedded:// cannot keep its socket in {place}, which belongs to somebody else. "
            f"Name a directory whose path is shorter than {SOCKET_PATH_LIMIT - len(SOCKET)} bytes."
        )
    place.chmod(0o700)
    return place


def remove_socket(directory: Path, socket_path: Path) -> None:
    with contextlib.suppress(OSError):
        socket_path.unlink(missing_ok=True)
        if socket_path.parent != directory:
            socket_path.parent.rmdir()


def log_tail(directory: Path, lines: int = 3) -> str:
    """The end of the server's log as part of a sentence."""
    log = directory / LOG
    text = ""
    with contextlib.suppress(OSError):
        said = [line for line in log.read_text(errors="replace").splitlines() if line.strip()]
        text = " | ".join(said[-lines:])
    return f"Its log, {log}, ends with: {text or '(nothing)'}"


def open_lock(path: Path) -> int:
    return os.open(path, os.O_RDWR | os.O_CREAT, 0o600)


def is_locked(path: Path) -> bool:
    """Whether any process holds this lock, shared or not."""
    try:
        lock = os.open(path, os.O_RDWR)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(lock)
    return False


@contextlib.contextmanager
def turn(directory: Path, timeout_s: float) -> Iterator[None]:
    """Be the only process that starts, joins or stops the server of this directory."""
    lock = os.open(directory / LOCK, os.O_RDWR)
    try:
        deadline = time.monotonic() + timeout_s
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() >= deadline:
                    raise RedisStreamError(
                        f"another process has been busy with the private server in {directory} "
                        f"for {timeout_s:g} s. End it (fuser {directory / LOCK}), then try again."
                    ) from None
            time.sleep(POLL_S)
        yield
    finally:
        with contextlib.suppress(OSError):
            fcntl.flock(lock, fcntl.LOCK_UN)  # for a copy that a forked child may hold, too
        os.close(lock)
