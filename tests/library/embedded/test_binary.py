"""Which server program is started."""

from __future__ import annotations

from pathlib import Path

import pytest

from redis_stream_queue.embedded import binary, start_or_join
from redis_stream_queue.exceptions import ConfigError
from tests.library.embedded.conftest import client_of
from tests.support.binaries import server_binary


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
