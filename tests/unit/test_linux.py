"""What Linux says about our limits."""

from __future__ import annotations

from pathlib import Path

import pytest

from redis_stream_queue.pool import _linux
from redis_stream_queue.pool._linux import cpu_limit, usable_cores


@pytest.fixture
def own(tmp_path: Path) -> Path:
    """As in a systemd unit; a container shows its own group as the root."""
    (tmp_path / "own").write_text("1:name=systemd:/\n0::/system.slice/app.service\n")
    (tmp_path / "system.slice/app.service").mkdir(parents=True)
    return tmp_path / "own"


@pytest.mark.parametrize(
    ("text", "limit"),
    [("200000 100000\n", 2.0), ("50000 100000\n", 0.5), ("max 100000\n", None), ("odd", None)],
)
def test_cpu_limit_of_the_group(tmp_path: Path, own: Path, text: str, limit: float | None) -> None:
    (tmp_path / "system.slice/app.service/cpu.max").write_text(text)
    assert cpu_limit(tmp_path, own) == limit


def test_no_limit_is_known(tmp_path: Path, own: Path) -> None:
    assert cpu_limit(tmp_path, own) is None
    assert cpu_limit(tmp_path, tmp_path / "missing") is None


@pytest.mark.parametrize(
    ("limit", "cores"), [(None, 4), (2.0, 2), (1.5, 2), (0.1, 1), (0.0, 1), (64.0, 4)]
)
def test_cores_within_the_limit(
    monkeypatch: pytest.MonkeyPatch, limit: float | None, cores: int
) -> None:
    monkeypatch.setattr(_linux.os, "sched_getaffinity", lambda _: {0, 1, 2, 3})
    monkeypatch.setattr(_linux, "cpu_limit", lambda: limit)
    assert usable_cores() == cores
