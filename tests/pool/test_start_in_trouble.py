"""Promises 7 and 8 at start: a refusal that passes is waited for, one that stays is named."""

from __future__ import annotations

import socket
import ssl
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.pool.scene import Scene
from tests.support.ledger import GROUP, NOTES_ENV, STREAM
from tests.support.pool import PoolProcess
from tests.support.waiting import wait_until

REDIS = 4  # the exit code

APP = f"""
import os
from redis_stream_queue import per_message, stream_handler

@stream_handler("{STREAM}", group="{GROUP}")
@per_message
def handler(message):
    with open(os.environ["{NOTES_ENV}"], "a") as notes:
        notes.write(f"{{message.id}} {{message.data}}\\n")
    if message.data == "dies":
        os._exit(1)
"""


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., PoolProcess]]:
    with ExitStack() as stack:

        def start(url: str, *args: str) -> PoolProcess:
            env = {NOTES_ENV: str(tmp_path / "notes")}
            pool = PoolProcess(APP, "--workers", "1", *args, url=url, cwd=tmp_path, env=env)
            return stack.enter_context(pool)

        yield start


REFUSALS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "NOREPLICAS": (("CONFIG SET", "min-replicas-to-write", "1"),
                   ("CONFIG SET", "min-replicas-to-write", "0")),
    "OOM": (("CONFIG SET", "maxmemory", "1"), ("CONFIG SET", "maxmemory", "0")),
    "READONLY": (("REPLICAOF", "127.0.0.1", "1"), ("REPLICAOF", "NO", "ONE")),
    "MASTERDOWN": (("REPLICAOF", "127.0.0.1", "1"), ("REPLICAOF", "NO", "ONE")),
}  # fmt: skip


@pytest.mark.parametrize("refusal", REFUSALS)
def test_a_refusal_that_passes_is_waited_for(
    scene: Scene, start: Callable[..., PoolProcess], refusal: str
) -> None:
    more = ("--replica-serve-stale-data", "no") if refusal == "MASTERDOWN" else ()
    server = scene.server("valkey-9.1", *more)
    begins, ends = REFUSALS[refusal]
    with server.client() as redis:
        redis.execute_command(*begins)
        pool = start(server.url)
        pool.wait_log("trying again|waiting up to")
        redis.execute_command(*ends)
        pool.wait_ready()
    assert pool.drain() == 0


def test_a_refusal_that_stays_is_named(scene: Scene, start: Callable[..., PoolProcess]) -> None:
    server = scene.server()
    with server.client() as redis:
        redis.config_set("min-replicas-to-write", 1)
    pool = start(server.url, "--connect-timeout", "0.5")
    assert pool.wait() == REDIS
    assert "NOREPLICAS" in pool.stderr
    assert "Traceback" not in pool.stderr


@pytest.mark.parametrize("name", ["valkey-9.1", "redis-6.2"])
def test_a_full_server_whose_group_exists(
    scene: Scene, start: Callable[..., PoolProcess], tmp_path: Path, name: str
) -> None:
    """The pool starts, handles what is there, and replaces a worker that dies: none of it needs
    what a full server refuses."""
    server = scene.server(name, "--maxmemory-policy", "noeviction")
    with server.client() as redis:
        redis.xgroup_create(STREAM, GROUP, "0", mkstream=True)
        for data in ('"a"', '"dies"', '"b"'):
            redis.xadd(STREAM, {"data": data})
        redis.config_set("maxmemory", 1)
        start(server.url, "--max-deliveries", "9").wait_ready()
        notes = tmp_path / "notes"
        wait_until(
            lambda: notes.exists() and {"a", "b"} <= set(notes.read_text().split()[1::2]),
            10,
            "the innocent messages are handled",
        )
        redis.config_set("maxmemory", 0)


@pytest.mark.parametrize("command", ["EVAL", "EVALSHA", "XCLAIM"])
def test_a_command_that_was_renamed_away(
    scene: Scene, start: Callable[..., PoolProcess], command: str
) -> None:
    pool = start(scene.server("valkey-9.1", "--rename-command", command, "").url)
    assert pool.wait() == REDIS
    assert f"does not know a command that consumers cannot do without (unknown command '{command}'"\
        in pool.stderr  # fmt: skip


@pytest.mark.parametrize(
    ("settings", "word"),
    [
        ({"maxmemory-policy": "allkeys-lru"}, "evicts keys"),
        ({"maxmemory-policy": "volatile-ttl"}, "evicts keys"),
        ({"appendonly": "no"}, "keeps nothing on disk"),
        ({"maxmemory": "1100kb"}, "of its maxmemory"),
    ],
)
def test_what_may_cost_messages_one_day_is_said(
    scene: Scene, start: Callable[..., PoolProcess], settings: dict[str, str], word: str
) -> None:
    server = scene.server()
    with server.client() as redis:
        redis.xgroup_create(STREAM, GROUP, "0", mkstream=True)
        for name, value in settings.items():
            redis.config_set(name, value)
    assert word in start(server.url).wait_ready().stderr


class TestTLS:
    def test_a_plain_port_spoken_to_in_tls(
        self, scene: Scene, start: Callable[..., PoolProcess]
    ) -> None:
        url = scene.server().url.replace("redis://", "rediss://")
        pool = start(f"{url}?socket_connect_timeout=1")
        assert pool.wait() == REDIS
        assert "does not speak TLS on that port" in pool.stderr

    def test_a_tls_port_spoken_to_plainly(
        self, start: Callable[..., PoolProcess], tmp_path: Path
    ) -> None:
        with tls_port(tmp_path) as port:
            pool = start(f"redis://127.0.0.1:{port}")
            assert pool.wait() == REDIS
        assert "expects TLS on that port: use rediss://" in pool.stderr

    def test_a_certificate_that_is_not_trusted(
        self, start: Callable[..., PoolProcess], tmp_path: Path
    ) -> None:
        with tls_port(tmp_path) as port:
            pool = start(f"rediss://127.0.0.1:{port}")
            assert pool.wait() == REDIS
        assert "is not trusted" in pool.stderr
        assert "ssl_ca_certs" in pool.stderr


class tls_port:
    """A port that speaks TLS, and closes on whoever does not."""

    def __init__(self, directory: Path) -> None:
        key, certificate = directory / "key.pem", directory / "certificate.pem"
        subprocess.run(
            ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2",
             "-subj", "/CN=localhost", "-addext", "subjectAltName=IP:127.0.0.1",
             "-keyout", key, "-out", certificate],
            check=True, capture_output=True,
        )  # fmt: skip
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._context.load_cert_chain(certificate, key)
        self._socket = socket.create_server(("127.0.0.1", 0))

    def __enter__(self) -> int:
        threading.Thread(target=self._serve, daemon=True).start()
        port: int = self._socket.getsockname()[1]
        return port

    def _serve(self) -> None:
        while True:
            try:
                plain, _ = self._socket.accept()
            except OSError:
                return
            try:
                self._context.wrap_socket(plain, server_side=True).close()
            except OSError:
                plain.close()

    def __exit__(self, *_: Any) -> None:
        self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()


def test_protected_mode(start: Callable[..., PoolProcess]) -> None:
    """What a fresh Redis says to another host, before it closes."""
    denied = b"-DENIED Redis is running in protected mode because protected mode is enabled\r\n"
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            while True:
                try:
                    connection, _ = listener.accept()
                except OSError:
                    return
                connection.sendall(denied)
                connection.close()

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        pool = start(f"redis://127.0.0.1:{listener.getsockname()[1]}")
        assert pool.wait() == REDIS
        listener.shutdown(socket.SHUT_RDWR)
        thread.join(5)
    assert "protected mode" in pool.stderr


def test_an_option_of_another_program_in_the_url(
    scene: Scene, start: Callable[..., PoolProcess]
) -> None:
    """It changes nothing in what we rely on: a lost group is made again."""
    server = scene.server("redis-8.2")
    pool = start(server.url + "?protocol=3&decode_responses=True").wait_ready()
    with server.client() as redis:
        redis.xgroup_destroy(STREAM, GROUP)
        wait_until(
            lambda: redis.exists(STREAM) and redis.xinfo_groups(STREAM), 5, "the group is back"
        )
    assert pool.drain() == 0
