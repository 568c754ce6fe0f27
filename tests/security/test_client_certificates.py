"""rediss:// with an authority of one's own, to a server that wants certificates of its clients."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from redis_stream_queue import StreamClient, StreamProducer
from tests.support.certificates import Authority
from tests.support.pool import PoolProcess
from tests.support.rsq import rsq
from tests.support.servers import Server
from tests.support.tlsfront import TLSFront

REDIS = 4
APP = """
from redis_stream_queue import per_message, stream_handler

@stream_handler("work", group="crew")
@per_message
def handler(message):
    print("got", message.data, flush=True)
"""


@dataclass
class Walled:
    """url: of the server, without the files. ours, strangers: a certificate and its key."""

    url: str
    authority: Path
    ours: tuple[Path, Path]
    strangers: tuple[Path, Path]

    def reached_with(self, certificate: Path | None, key: Path | None) -> str:
        options = f"?ssl_ca_certs={self.authority}&socket_connect_timeout=2"
        options += f"&ssl_certfile={certificate}" if certificate else ""
        return f"{self.url}{options}" + (f"&ssl_keyfile={key}" if key else "")


@pytest.fixture(scope="module")
def walled(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Walled]:
    directory = tmp_path_factory.mktemp("certificates")
    authority, other = Authority(directory, "ca"), Authority(directory, "other")
    with (
        Server.start("valkey-9.1", tcp=True) as server,
        TLSFront(server.port, authority.server()) as front,
    ):
        yield Walled(front.url, authority.pem, authority.sign("ours"), other.sign("stranger"))


def test_library_pool_and_rsq_work(walled: Walled, tmp_path: Path) -> None:
    url = walled.reached_with(*walled.ours)
    producer = StreamProducer(StreamClient.from_url(url), "work")
    producer.push_sync(1)

    async def push() -> None:
        await producer.push(2)
        await producer.close()

    asyncio.run(push())
    assert rsq("push", "work", "3", url=url).returncode == 0
    with PoolProcess(APP, "--workers", "1", "--burst", url=url, cwd=tmp_path) as pool:
        assert pool.wait() == 0
        assert sorted(pool.stdout.split()) == ["1", "2", "3", "got", "got", "got"]


@pytest.mark.parametrize(
    ("certificate", "key", "said"),
    [
        (None, None, "wants a client certificate"),
        ("stranger.pem", "stranger.key", "refuses the client certificate"),
        ("ours.pem", "stranger.key", "is no certificate in PEM with its private key"),
        ("ours.pem", None, "is no certificate in PEM with its private key"),
        ("gone.pem", "ours.key", "cannot be read"),
        ("ours.ext", "ours.key", "is no certificate in PEM with its private key"),
    ],
)
def test_what_is_wrong_is_one_sentence(
    walled: Walled, certificate: str | None, key: str | None, said: str
) -> None:
    def path(name: str | None) -> Path | None:
        return walled.authority.parent / name if name else None

    url = walled.reached_with(path(certificate), path(key))
    for words in (("push", "work", "1"), ("stats", "work")):
        ran = rsq(*words, url=url)
        assert (ran.returncode, ran.stdout) == (REDIS, "")
        assert said in ran.stderr
        assert len(ran.stderr.splitlines()) == 1


def test_a_pool_says_it_too(walled: Walled, tmp_path: Path) -> None:
    url = walled.reached_with(*walled.strangers)
    with PoolProcess(APP, url=url, cwd=tmp_path) as pool:
        assert pool.wait() == REDIS
        assert "refuses the client certificate" in pool.stderr
