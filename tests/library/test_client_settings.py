"""What a client is told wrongly it says at once, and it never says the password."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import pytest
from redis.asyncio.connection import SSLConnection

from redis_stream_queue import ConfigError, StreamClient
from redis_stream_queue.connection.exchange import OUTAGES
from tests.support.servers import Server

SECRET = "p4ss:w@rd/?#%"


class TestWrongArguments:
    """ConfigError at construction, naming the argument."""

    @pytest.mark.parametrize(
        ("name", "value"),
        [
            *(("host", value) for value in ("", None, 5)),
            *(
                ("port", value)
                for value in (0, -1, 65536, "x", "-1", "65536", "6379.0", True, None)
            ),
            *(("db", value) for value in (-1, "-1", "x", "1.5", "9" * 5000, 1.5, True)),
            ("username", 5),
            ("password", b"secret"),
            *(("prefix", value) for value in (None, 5)),
            *(("max_connections", value) for value in (0, "9", None)),
            *(("pool_timeout", value) for value in (-1, "5", float("nan"))),
            ("client_name", 5),
            *(("ssl", value) for value in ("yes", None, 1)),
            *(("socket_timeout", value) for value in (0, -1, "3")),
            *(("socket_connect_timeout", value) for value in (0, -1, "3")),
            ("socket_keepalive", "yes"),
            ("socket_keepalive_options", [1]),
        ],
    )
    def test_of_the_constructor(self, name: str, value: Any) -> None:
        with pytest.raises(ConfigError, match=name):
            StreamClient(**{name: value})

    @pytest.mark.parametrize("options", [{"max_conections": 5}, {"nonsense": 1}])
    def test_unknown_option(self, options: dict[str, Any]) -> None:
        with pytest.raises(ConfigError, match=next(iter(options))):
            StreamClient.from_url("redis://localhost", **options)

    @pytest.mark.parametrize("nodes", [[], None, [{}], [{"port": 1}], "node1:6379", [("a", 1)]])
    def test_cluster_nodes(self, nodes: Any) -> None:
        with pytest.raises(ConfigError, match="startup_nodes"):
            StreamClient.from_cluster(nodes)

    @pytest.mark.parametrize("url", ["", None, 5, "localhost", "http://x", "redis://h:port"])
    def test_url(self, url: Any) -> None:
        with pytest.raises(ConfigError, match=r"(?i)url"):
            StreamClient.from_url(url)

    def test_client_name_that_redis_would_refuse(self) -> None:
        with pytest.raises(ConfigError, match="client_name"):
            StreamClient(client_name="two words")


class TestSecrets:
    """A password reaches no text that the package makes."""

    @pytest.mark.parametrize(
        "make",
        [
            lambda: StreamClient("127.0.0.1", 1, password=SECRET),
            lambda: StreamClient.from_url("redis://:p4ss@127.0.0.1:1"),
            lambda: StreamClient.from_url("unix:///nowhere.sock?password=p4ss"),
            lambda: StreamClient.from_cluster([{"host": "127.0.0.1", "port": 1}], password=SECRET),
            pytest.param(
                lambda: StreamClient.from_url("rediss://127.0.0.1:1", ssl_password=SECRET),
                marks=pytest.mark.skipif(
                    "ssl_password" not in inspect.signature(SSLConnection).parameters,
                    reason="redis-py before 7.2 has no ssl_password",
                ),
            ),
        ],
    )
    async def test_of_a_client(self, make: Callable[[], StreamClient]) -> None:
        client = make()
        with pytest.raises(OUTAGES) as caught:
            await client.stream_len("s")
        await client.close()
        for words in (str(client), repr(client), repr(client.endpoint), str(client.endpoint),
                      str(caught.value), repr(caught.value)):  # fmt: skip
            assert "p4ss" not in words

    @pytest.mark.parametrize(
        "url",
        [
            "http://:p4ss@host",
            "redis://:p4ss@host:port",
            "redis://:p4ss@host/shop",
            "redis://:p4ss/w@host",
            "redis://:p4ss?w@host",
            "redis://:p4ss#w@host",
            "redis+cluster://:p4ss@host/3",
            "unix://:p4ss@",
            ":p4ss@host:6379",
        ],
    )
    def test_of_a_url_that_cannot_be_read(self, url: str) -> None:
        with pytest.raises(ConfigError) as caught:
            StreamClient.from_url(url)
        error: BaseException | None = caught.value
        while error is not None:
            assert "p4ss" not in str(error)
            error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)

    async def test_wrong_password(self) -> None:
        """The server's own words, without what was sent."""
        with Server.start("valkey-9.1", password="right") as server:
            wrong = server.url.replace("right", "p4ss")
            client = StreamClient.from_url(wrong)
            with pytest.raises(OUTAGES, match="invalid username-password") as caught:
                await client.stream_len("s")
            assert "p4ss" not in f"{caught.value!r} {client!r}"
            await client.close()
            right = StreamClient.from_url(server.url)
            assert await right.stream_len("s") == 0
            await right.close()
