"""embedded:// is one private server per directory, for as long as it is wanted."""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
import signal
import socket
import stat
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from redis_stream_queue.embedded import server as embedded
from redis_stream_queue.embedded import start_or_join
from redis_stream_queue.exceptions import RedisStreamError
from tests.library.embedded.conftest import client_of, lives
from tests.support.waiting import wait_until


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
