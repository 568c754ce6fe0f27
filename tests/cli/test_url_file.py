"""Secrets from files: --url-file, REDIS_URL_FILE, systemd's credentials, and what goes first."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
import redis

from redis_stream_queue.cli.config_file import _is_ours
from tests.support.pool import PoolProcess
from tests.support.rsq import rsq

USAGE, REDIS = 2, 4
WRONG = "redis://127.0.0.1:1/0"


def stats(
    *args: str, url: str | None = None, cwd: Path | None = None, **env: str
) -> subprocess.CompletedProcess[str]:
    return rsq("stats", "orders", *args, url=url, cwd=cwd, env=env)


@pytest.fixture
def secret(pool_url: str, tmp_path: Path) -> Path:
    with redis.Redis.from_url(pool_url) as client:
        client.xadd("orders", {"data": "1"})
    path = tmp_path / "redis-url"
    path.write_text(pool_url + "\n")
    return path


def test_where_it_is_read_from(secret: Path) -> None:
    """What is typed goes before what is in the environment."""
    assert stats("--url-file", str(secret)).returncode == 0
    assert stats("--url-file", str(secret), url=WRONG).returncode == 0
    assert stats(REDIS_URL_FILE=str(secret)).returncode == 0
    assert stats(CREDENTIALS_DIRECTORY=str(secret.parent)).returncode == 0
    assert stats("--url", WRONG, "--url-file", str(secret)).returncode == 4


@pytest.mark.parametrize(("content", "why"), [(None, "No such file"), ("", "is empty")])
def test_a_file_that_does_not_do(tmp_path: Path, content: str | None, why: str) -> None:
    path = tmp_path / "url"
    if content is not None:
        path.write_text(content)
    done = stats("--url-file", str(path))
    assert done.returncode == USAGE
    assert why in done.stderr
    assert "Traceback" not in done.stderr


def test_a_pipe_gives_what_is_written_into_it(secret: Path, tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    writer = subprocess.Popen(["cp", secret, pipe])
    assert stats("--url-file", str(pipe)).returncode == 0
    assert writer.wait() == 0
    assert "is larger than 1 MB" in stats("--url-file", "/dev/zero").stderr


def nothing(path: Path) -> None:
    path.symlink_to("nowhere")


def a_circle(path: Path) -> None:
    path.symlink_to(path.name)


def a_bad_name(path: Path) -> None:
    path.write_text('url_file = "a\\u0000b"')


@pytest.mark.parametrize(
    ("make", "why"),
    [
        (os.mkfifo, "it is a pipe, and nobody writes into it"),
        (os.mkdir, "Is a directory"),
        (nothing, "No such file"),
        (a_circle, "Too many levels"),
        (a_bad_name, "null byte."),
    ],
)
def test_what_is_no_file_of_options(make: Callable[[Path], None], why: str, tmp_path: Path) -> None:
    """It neither blocks nor ends in a traceback; and a pyproject.toml like that is none of ours."""
    make(tmp_path / "rsq.toml")
    done = stats(cwd=tmp_path)
    assert done.returncode == USAGE
    assert f"cannot be read: {why}" in done.stderr.replace("embedded null", "null")
    if make is not a_bad_name:
        (tmp_path / "rsq.toml").rename(tmp_path / "pyproject.toml")
        assert stats(url=WRONG, cwd=tmp_path).returncode == REDIS


def test_of_the_pool(secret: Path, tmp_path: Path) -> None:
    app = """
from redis_stream_queue import per_message, stream_handler

@stream_handler("orders")
@per_message
def handler(message): ...
"""
    with PoolProcess(app, "--workers", "1", "--url-file", str(secret), url=None, cwd=tmp_path) as p:
        p.wait_ready()
        assert p.drain() == 0


def test_the_pool_s_file_says_where_redis_is(secret: Path, tmp_path: Path) -> None:
    """Also what stands before every stream name; options of the pool are left to it."""
    settings = tmp_path / "rsq.toml"
    settings.write_text(f'workers = 8\nurl = "{secret.read_text().strip()}"\n')
    assert stats(cwd=tmp_path).returncode == 0
    assert stats(cwd=tmp_path, url=WRONG).returncode == 4
    settings.write_text(settings.read_text() + 'prefix = "shop"\n')
    assert "there is no stream 'shop_orders'" in stats(cwd=tmp_path).stderr
    assert "shop" not in stats("--prefix", "", cwd=tmp_path).stdout
    for text, sentence in [
        ("url = 5", "rsq.toml: url must be text"),
        ("prefx = 'shop'", "rsq.toml: 'prefx' is no option of rsq-pool. Did you mean 'prefix'?"),
        ("worker = 8", "rsq.toml: 'worker' is no option of rsq-pool. Did you mean 'workers'?"),
    ]:
        settings.write_text(text)
        wrong = stats(cwd=tmp_path)
        assert (wrong.returncode, sentence in wrong.stderr) == (USAGE, True)


def test_a_file_of_another_user_is_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """It could send what is pushed to a server of theirs."""
    path = tmp_path / "rsq.toml"
    path.touch()
    assert _is_ours(path)
    if os.getuid() == 0:
        os.chown(path, 4242, -1)
    monkeypatch.setattr(os, "geteuid", lambda: 4343)
    assert not _is_ours(path)
    assert "belongs to another user and is left out" in capsys.readouterr().err
