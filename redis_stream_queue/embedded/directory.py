"""The directory of a private server: its files, its socket and its locks (see server.py).

Other users of the machine may have been there before us, and may race with us. So nobody else may
be able to write to the directory, nor to replace it; and a file that is there already is opened
only if it is one of ours, never through a link.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import stat
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from ..exceptions import ConfigError, RedisStreamError
from .process import POLL_S

LOCK, USERS, ALIVE = "server.lock", "server.users", "server.alive"
SOCKET, LOG = "server.sock", "server.log"
SOCKET_PATH_LIMIT = 103  # bytes: 107 on Linux, 103 on macOS
SHORT_PLACE = "rsq-socket-"
DATA = ("appendonlydir", "dump.rdb")  # what the server itself opens
MOST_LINKS = 40  # symbolic links in one path; the kernel's own limit
OTHERS_WRITE = stat.S_IWGRP | stat.S_IWOTH
LOG_TAIL, LOG_LINES = 4096, 3  # bytes, and lines of them


def usable_directory(directory: Path) -> Path:
    """Make the directory if it is missing; returns its absolute path.

    Raises ConfigError if this user cannot write to the directory, or if other users could write to
    it or replace it.
    """
    try:
        path = _own_path(directory.expanduser())
        os.close(open_lock(path / LOCK))
        _check_data(path)
    except ConfigError:
        raise
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


def _own_path(path: Path) -> Path:
    """Follow the path directory by directory, make what is missing; returns it without links.

    Each directory must belong to us or to root, and nobody else may be able to replace it. So what
    this check has seen stays true. Source: openat2(2), and the kernel's protected_symlinks.
    """
    todo = list(reversed(path.absolute().parts[1:]))
    here, links = Path("/"), 0
    while todo:
        name = todo.pop()
        step = here.parent if name == ".." else here / name
        try:
            status = step.lstat()
        except FileNotFoundError:
            with contextlib.suppress(FileExistsError):  # made just now: its owner is checked below
                step.mkdir(mode=0o700)
            status = step.lstat()
        if status.st_uid not in (0, os.geteuid()):
            raise _not_ours(path, f"{step} belongs to another user (uid {status.st_uid})")
        if stat.S_ISLNK(status.st_mode):
            links += 1
            if links > MOST_LINKS:
                raise OSError(f"{step} is a link that leads nowhere")
            target = Path(os.readlink(step))
            here = Path("/") if target.is_absolute() else here
            todo += reversed(target.parts[1:] if target.is_absolute() else target.parts)
        elif not stat.S_ISDIR(status.st_mode):
            raise OSError(errno.ENOTDIR, "it is a file" if not todo else "Not a directory")
        elif todo and _others_may_replace_in(status):
            raise _not_ours(path, f"other users can write to {step}")
        else:
            here = step
    status = here.lstat()
    if status.st_uid != os.geteuid():
        raise _not_ours(path, f"it belongs to another user (uid {status.st_uid})")
    if status.st_mode & OTHERS_WRITE:
        raise _not_ours(path, "other users can write to it (chmod go-w mends that)")
    return here


def _others_may_replace_in(status: os.stat_result) -> bool:
    """Can other users replace our files in this directory? Not where the sticky bit is (/tmp)."""
    own_group = status.st_gid == os.getegid()
    writers = stat.S_IWOTH if own_group else OTHERS_WRITE
    return bool(status.st_mode & writers and not status.st_mode & stat.S_ISVTX)


def _not_ours(path: Path, reason: str) -> ConfigError:
    return ConfigError(
        f"embedded:// needs a directory of this user alone, got {str(path)!r}: {reason}. "
        "Name another one: embedded://DIR"
    )


def _check_data(directory: Path) -> None:
    """Raise ConfigError if a data file of the server belongs to others or is a link."""
    for name in DATA:
        place = directory / name
        for path in [place, *(place.iterdir() if is_private(place) else ())]:
            with contextlib.suppress(FileNotFoundError):
                status = path.lstat()
                if not _is_ours(status) or stat.S_ISLNK(status.st_mode):
                    raise _not_ours(directory, f"{path} is not a file of this user alone")


def is_private(path: Path) -> bool:
    """Is this path a directory of this user, where nobody else can write?"""
    try:
        status = path.lstat()
    except OSError:
        return False
    return stat.S_ISDIR(status.st_mode) and _is_ours(status)


def _is_ours(status: os.stat_result) -> bool:
    return status.st_uid == os.geteuid() and not status.st_mode & OTHERS_WRITE


def socket_record(directory: Path, socket_path: Path) -> bytes:
    """The text of server.alive: the socket's path, without DIR where it lies in DIR.

    DIR may be mounted under another path in another container.
    """
    return os.fsencode(SOCKET if socket_path.parent == directory else socket_path)


def recorded_socket(directory: Path) -> Path:
    """The socket of the server that runs or ran in this directory.

    A recorded path counts only if it is in a directory of this user, made by _short_place().
    """
    record = b""
    with (
        contextlib.suppress(FileNotFoundError),
        open(open_own(directory / ALIVE, os.O_RDONLY), "rb") as alive,
    ):
        record = alive.read(4096).replace(b"\0", b"")
    short = Path(os.fsdecode(record))
    if (
        short.name == SOCKET
        and short.parent.name.startswith(SHORT_PLACE)
        and is_private(short.parent)
    ):
        return short
    return directory / SOCKET


def new_socket(directory: Path) -> Path:
    """The path for the socket of a server that is about to start; removes a stale socket."""
    socket_path = directory / SOCKET
    if len(os.fsencode(socket_path)) > SOCKET_PATH_LIMIT:
        remove_socket(directory, recorded_socket(directory))  # of a server that was killed
        return _short_place() / SOCKET
    socket_path.unlink(missing_ok=True)
    return socket_path


def _short_place() -> Path:
    """A new directory of this user alone for the socket of a DIR whose path is too long."""
    longest = SOCKET_PATH_LIMIT - len(f"/{SHORT_PLACE}12345678/{SOCKET}")
    fits = len(os.fsencode(tempfile.gettempdir())) <= longest
    return Path(tempfile.mkdtemp(prefix=SHORT_PLACE, dir=None if fits else "/tmp"))


def remove_socket(directory: Path, socket_path: Path) -> None:
    """Remove the socket, and its directory if that was made for the socket alone."""
    with contextlib.suppress(OSError):
        socket_path.unlink(missing_ok=True)
        if socket_path.parent != directory:
            socket_path.parent.rmdir()


def log_tail(directory: Path) -> str:
    """A sentence that quotes the last LOG_LINES lines of the server's log."""
    log = directory / LOG
    text = ""
    with contextlib.suppress(OSError):
        with open(open_own(log, os.O_RDONLY), "rb") as file:
            file.seek(max(os.fstat(file.fileno()).st_size - LOG_TAIL, 0))
            tail = file.read(LOG_TAIL).decode(errors="replace")
        text = " | ".join([line for line in tail.splitlines() if line.strip()][-LOG_LINES:])
    return f"Its log, {log}, ends with: {text or '(nothing)'}"


def open_own(path: Path, flags: int) -> int:
    """Open a file of this user; returns its descriptor. flags: as for os.open().

    Raises ConfigError if the path is a link or no plain file, or if other users own it or can write
    to it.
    """
    try:
        file = os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, 0o600)
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.ENXIO):
            raise _not_ours(path.parent, f"{path} is no plain file") from None
        raise
    status = os.fstat(file)
    if not stat.S_ISREG(status.st_mode) or not _is_ours(status) or status.st_nlink > 1:
        os.close(file)
        raise _not_ours(path.parent, f"{path} is not a file of this user alone")
    return file


def open_lock(path: Path) -> int:
    """Open a lock file of this user, made if missing; returns its descriptor."""
    return open_own(path, os.O_RDWR | os.O_CREAT)


def is_locked(path: Path) -> bool:
    """Whether any process holds this lock, shared or not."""
    try:
        lock = open_own(path, os.O_RDWR)
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
    """Be the only process that starts, joins or stops the server of this directory.

    Raises RedisStreamError if another process does so for longer than ``timeout_s``.
    """
    lock = open_own(directory / LOCK, os.O_RDWR)
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
            fcntl.flock(lock, fcntl.LOCK_UN)  # closing is not enough: a forked child has a copy
        os.close(lock)
