"""Where Redis is: URLs and arguments are read exactly, and no error shows a secret."""

from __future__ import annotations

import contextlib
import inspect
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from redis.asyncio.connection import AbstractConnection

from redis_stream_queue import ConfigError
from redis_stream_queue.connection.endpoint import Endpoint, endpoint_from_url, make_endpoint

SECRET = "s3cr3t"


@pytest.mark.parametrize(
    ("url", "wanted"),
    [
        ("redis://localhost:6379/0", {}),
        ("redis://", {}),
        ("redis://h", {"nodes": (("h", 6379),)}),
        ("redis://h:1/5", {"nodes": (("h", 1),), "db": 5}),
        ("redis://h:1?db=5", {"nodes": (("h", 1),), "db": 5}),
        ("redis://:pw@h", {"nodes": (("h", 6379),), "password": "pw"}),
        ("redis://u:p%40w@h", {"nodes": (("h", 6379),), "username": "u", "password": "p@w"}),
        ("redis://[::1]:7", {"nodes": (("::1", 7),)}),
        ("rediss://h:6380/0", {"nodes": (("h", 6380),), "ssl": True}),
        ("unix:///run/r.sock", {"path": "/run/r.sock"}),
        ("unix://:pw@/run/r.sock?db=2", {"path": "/run/r.sock", "password": "pw", "db": 2}),
        ("redis+cluster://h:1", {"nodes": (("h", 1),), "cluster": True}),
        ("redis+cluster://h1:1,h2:2", {"nodes": (("h1", 1), ("h2", 2)), "cluster": True}),
        (
            "rediss+cluster://u:pw@h1:1,h2",
            {"nodes": (("h1", 1), ("h2", 6379)), "cluster": True, "ssl": True,
             "username": "u", "password": "pw"},
        ),
    ],
)  # fmt: skip
def test_urls(url: str, wanted: dict[str, Any]) -> None:
    made = endpoint_from_url(url)
    assert made == Endpoint(**wanted)
    shown = endpoint_from_url(str(made))
    assert (shown.nodes, shown.path, shown.ssl) == (made.nodes, made.path, made.ssl)


def test_options_come_on_top_of_the_url() -> None:
    made = endpoint_from_url("redis://h/1", socket_timeout=2.0, client_name="me", password="pw")
    assert (made.socket_timeout, made.client_name, made.password, made.db) == (2.0, "me", "pw", 1)


def test_tls_options_reach_the_connection() -> None:
    made = endpoint_from_url("rediss://h", ssl_ca_certs="/ca.pem")
    assert made.connection_kwargs()["ssl_ca_certs"] == "/ca.pem"


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"db": -1}, "db"),
        ({"db": "x"}, "db"),
        ({"max_connections": 0}, "max_connections"),
        ({"max_connections": True}, "max_connections"),
        ({"pool_timeout": -1}, "pool_timeout"),
        ({"pool_timeout": float("nan")}, "pool_timeout"),
        ({"socket_timeout": 0}, "socket_timeout"),
        ({"socket_timeout": "5"}, "socket_timeout"),
        ({"socket_connect_timeout": -1}, "socket_connect_timeout"),
        ({"ssl": "yes"}, "ssl"),
        ({"socket_keepalive": 1}, "socket_keepalive"),
        ({"socket_keepalive_options": 5}, "socket_keepalive_options"),
        ({"nodes": (("", 1),)}, "host"),
        ({"nodes": ((None, 1),)}, "host"),
        ({"nodes": (("h", 0),)}, "port"),
        ({"nodes": (("h", 65536),)}, "port"),
        ({"nodes": (("h", "x"),)}, "port"),
        ({"username": 5}, "username"),
        ({"password": 5}, "password"),
        ({"client_name": 5}, "client_name"),
        ({"sockt_timeout": 5}, "sockt_timeout.*Did you mean 'socket_timeout'"),
        ({"ssl_ca_certs": ["x"]}, "ssl_ca_certs"),
    ],
    ids=str,
)
def test_bad_arguments_are_named(settings: dict[str, Any], named: str) -> None:
    with pytest.raises(ConfigError, match=named):
        make_endpoint(**settings)


@pytest.mark.parametrize(
    "url",
    [
        f"redis:{SECRET}@h:1",
        f"{SECRET}",
        f"user:{SECRET}@host:6379",
        f"{SECRET}://h",
        f"redis://u:{SECRET}@h:port",
        f"redis://u:{SECRET}@h:99999",
        f"redis://u:{SECRET}@h:{SECRET}",
        f"redis://u:{SECRET}#x@h:1",
        f"redis://u:{SECRET}/x@h:1",
        f"redis://u:{SECRET}@h/notanumber",
        f"redis+cluster://u:{SECRET}@h:1/3",
        f"redis+cluster://u:{SECRET}@h:port",
        f"redis://u:{SECRET}@[::1",
        f"redis://h?password={SECRET}&nonsense=1",
        f"redis://h?db={SECRET}",
        f"redis://h?socket_timeout={SECRET}",
        f"redis://h?{SECRET}=1",
        f"unix://u:{SECRET}@",
        f"http://u:{SECRET}@h",
    ],
)
def test_errors_about_a_url_never_show_its_secrets(url: str) -> None:
    """A ConfigError without the password, and without a cause that holds it."""
    said: ConfigError | None = None
    try:
        made = endpoint_from_url(url)
    except ConfigError as error:
        said = error
    else:
        assert SECRET not in f"{made} {made!r}"
    if said is not None:
        assert SECRET not in str(said)
        assert said.__cause__ is None
        assert said.__suppress_context__ or said.__context__ is None


@pytest.mark.parametrize(
    "made",
    [
        Endpoint(password=SECRET),
        Endpoint(options=(("ssl_password", SECRET),)),
        endpoint_from_url(f"redis://u:{SECRET}@h:1/0"),
        endpoint_from_url("rediss://h", ssl_ca_data=SECRET),
    ],
)
def test_neither_str_nor_repr_shows_secrets(made: Endpoint) -> None:
    assert SECRET not in f"{made} {made!r}"


@pytest.mark.parametrize(
    "settings",
    [
        {"ssl_ca_data": [SECRET]},
        {"password": [SECRET]},
        {"username": "u", "password": SECRET, "db": -1},
        {"ssl": f"{SECRET}x", "password": "other"},
        {"pasword": SECRET},
    ],
    ids=["option", "password", "beside", "ssl", "misspelt"],
)
def test_errors_about_arguments_never_show_secrets(settings: dict[str, Any]) -> None:
    with pytest.raises(ConfigError) as caught:
        make_endpoint(**settings)
    if "ssl" not in settings:
        assert SECRET not in str(caught.value)


def test_equal_endpoints_share_connections() -> None:
    """An endpoint is a dictionary key: the same place, the same key."""
    assert hash(endpoint_from_url("redis://h:1/0")) == hash(make_endpoint(nodes=(("h", 1),)))
    assert endpoint_from_url("redis://h:1/0") != endpoint_from_url("redis://h:1/1")
    assert endpoint_from_url("redis://u:a@h") != endpoint_from_url("redis://u:b@h")


def test_a_connection_is_told_redis_py_s_version_instead_of_reading_it_from_disk() -> None:
    """But for a cluster: RedisCluster does not take the argument in redis-py 7.2 to 7.4."""
    known = "driver_info" in inspect.signature(AbstractConnection).parameters
    assert ("driver_info" in make_endpoint().connection_kwargs()) is known
    assert "driver_info" not in make_endpoint(cluster=True).connection_kwargs()
    assert "driver_info" not in endpoint_from_url("redis://h?lib_name=x").connection_kwargs()


@given(st.text())
def test_any_text_is_an_endpoint_or_a_config_error(url: str) -> None:
    with contextlib.suppress(ConfigError):
        endpoint_from_url(url)


@given(
    scheme=st.sampled_from(["redis", "rediss", "unix", "redis+cluster", "rediss+cluster"]),
    rest=st.text(alphabet="ab1:@/?&=%[],.# ", max_size=25),
)
def test_any_url_is_an_endpoint_or_a_config_error(scheme: str, rest: str) -> None:
    with contextlib.suppress(ConfigError):
        endpoint_from_url(f"{scheme}://{rest}")


def test_ports_and_databases_may_be_text() -> None:
    """As they come out of the environment."""
    endpoint = make_endpoint(nodes=(("host", "6380"),), db="3", pool_timeout=None)
    assert endpoint.nodes == (("host", 6380),)
    assert (endpoint.db, endpoint.pool_timeout) == (3, None)


@pytest.mark.parametrize("around", ["{} ", " {}", "{}\n", "{}\r\n", "\ufeff{}", "\t{}\t"])
def test_blanks_around_a_url_are_not_part_of_it(around: str) -> None:
    """Secrets in files and panels come with them."""
    plain = "redis://:secret@h:1/2"
    assert endpoint_from_url(around.format(plain)) == endpoint_from_url(plain)


@pytest.mark.parametrize("scheme", ["redis", "redis+cluster", "unix"])
@pytest.mark.parametrize("option", ["ssl_cert_reqs=none", "ssl_ca_certs=/ca.pem"])
def test_options_of_tls_need_tls(scheme: str, option: str) -> None:
    with pytest.raises(ConfigError, match=option.partition("=")[0]):
        endpoint_from_url(f"{scheme}://h/0?{option}")
    endpoint_from_url(f"rediss://h/0?{option}")
