"""Directories with an embedded server, and other processes that use it."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
import redis

from redis_stream_queue.embedded import EmbeddedServer, start_or_join

# A process that uses the server of argv[1], says so, and leaves when its standard input ends.
USER = """
import sys
from redis_stream_queue.embedded import start_or_join
server = start_or_join(sys.argv[1])
print(server.pid, int(server.owned), server.directory, flush=True)
sys.stdin.read()
"""


class User:
    """Another process that uses the server of a directory."""

    def __init__(self, directory: Path | str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", USER, str(directory)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self._answer: list[str] = []

    def _answered(self) -> list[str]:
        if not self._answer:
            assert self.process.stdout is not None
            self._answer = self.process.stdout.readline().split(maxsplit=2)
        return self._answer

    @property
    def server_pid(self) -> int:
        return int(self._answered()[0])

    @property
    def owned(self) -> bool:
        return self._answered()[1] == "1"

    @property
    def directory(self) -> Path:
        return Path(self._answered()[2].strip())

    def leave(self) -> None:
        self.process.communicate(timeout=20)
        assert self.process.returncode == 0

    def kill(self) -> None:
        self.process.kill()
        self.process.communicate(timeout=20)


@pytest.fixture
def user() -> Iterator[Callable[[Path | str], User]]:
    users: list[User] = []

    def start(directory: Path | str) -> User:
        users.append(User(directory))
        return users[-1]

    yield start
    for other in users:
        other.kill()


@pytest.fixture
def directory(tmp_path: Path) -> Iterator[Path]:
    """A directory for a server, which is ended afterwards whatever the test did."""
    place = tmp_path / "data"
    yield place
    if place.is_dir():
        start_or_join(place).stop()


@pytest.fixture
def temporary_root(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Where temporary directories are made, also by other processes; a short path."""
    with tempfile.TemporaryDirectory(prefix="rsq-t") as root:
        monkeypatch.setenv("TMPDIR", root)
        monkeypatch.setattr("tempfile.tempdir", None)
        yield Path(root)
        monkeypatch.undo()


def client_of(server: EmbeddedServer) -> redis.Redis:
    return redis.Redis(unix_socket_path=server.socket_path, socket_timeout=5)


def lives(pid: int) -> bool:
    return psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
