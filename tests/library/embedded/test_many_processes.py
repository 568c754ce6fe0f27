"""One server for all processes of a directory, whoever comes, goes, forks or is killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from redis_stream_queue.embedded import server as embedded
from redis_stream_queue.embedded import start_or_join
from redis_stream_queue.exceptions import RedisStreamError
from tests.library.embedded.conftest import User, client_of, lives
from tests.support.servers import Server

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
