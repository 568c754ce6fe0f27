"""No password in any text, and no connection without TLS where TLS was asked for."""

from __future__ import annotations

import contextlib
import logging
from pathlib import Path
from typing import Any

import psutil
import pytest

from redis_stream_queue import ConfigError, StreamClient, StreamProducer
from redis_stream_queue.connection.endpoint import endpoint_from_url, make_endpoint
from redis_stream_queue.pool import PoolConfig
from tests.support.rsq import rsq
from tests.support.servers import Server
from tests.support.waiting import wait_until

from .conftest import StartPool

SECRET = "s3cr3t"


@pytest.mark.parametrize(
    "mark", ["/", "?", "#", "/1?db=", "?client_name=", "?ssl=", "?socket_timeout="]
)
@pytest.mark.parametrize("scheme", ["redis", "rediss", "redis+cluster", "unix"])
@pytest.mark.parametrize("head", ["u:1234", ":", "u:a", ""])
def test_a_password_that_was_not_encoded_is_not_quoted(scheme: str, head: str, mark: str) -> None:
    for url in (f"{scheme}://{head}{mark}{SECRET}@h:1/0", f"{scheme}://{head}{mark}x {SECRET}@h"):
        with pytest.raises(ConfigError) as error:
            endpoint_from_url(url)
        assert SECRET not in str(error.value)
        assert "%2F" in str(error.value) or "percent-encode" in str(error.value)


@pytest.mark.parametrize(
    "host", [f"redis://u:{SECRET}@h", f"u:{SECRET}@h", f"h?password={SECRET}", f"{SECRET} h", "h/0"]
)
def test_a_url_as_the_host_is_refused_without_quoting_it(host: str) -> None:
    with pytest.raises(ConfigError, match="from_url") as error:
        StreamClient(host=host)
    assert SECRET not in str(error.value)


def test_settings_do_not_show_their_url() -> None:
    url = f"redis://u:{SECRET}@h?ssl_password={SECRET}"
    assert SECRET not in repr(PoolConfig(target="app:handler", url=url))
    endpoint = endpoint_from_url(url.replace("redis:", "rediss:"))
    assert SECRET not in repr(endpoint) + str(endpoint)


APP = """
import os, subprocess
from redis_stream_queue import per_message, stream_handler

@stream_handler("s", group="g")
@per_message
def handler(message):
    subprocess.run(["sh", "-c", "env; echo did it"])
"""


@pytest.mark.parametrize("form", ["password={}", "p%61ssword={}", "%70%61ssword={}"])
def test_a_password_on_the_command_line_is_in_no_process_list_and_not_inherited(
    start_pool: StartPool, raw: Any, tmp_path: Path, form: str
) -> None:
    with Server.start("valkey-9.1", tcp=True, password=SECRET) as server:
        url = f"redis://127.0.0.1:{server.port}/0?{form.format(SECRET)}"
        pool = start_pool(APP, "--workers", "1", "--url", url, url=None).wait_ready()
        with server.client() as client:
            client.xadd("s", {"data": "1"})
        for process in pool.processes():
            with contextlib.suppress(psutil.NoSuchProcess):  # one that helped to load the app
                assert SECRET not in " ".join(process.cmdline())
        wait_until(lambda: "did it" in pool.stdout, 10, "the handler has run")
        assert SECRET not in pool.stdout
        assert pool.drain() == 0
        assert SECRET not in pool.stderr


@pytest.mark.parametrize(
    "option",
    ["ssl_ca_certs=/x", "ssl_cert_reqs=none", "ssl_keyfile=/k", "ssl_check_hostname=False"],
)
@pytest.mark.parametrize("scheme", ["redis", "redis+cluster", "unix"])
def test_options_of_tls_without_tls_are_refused(scheme: str, option: str) -> None:
    where = "/run/redis.sock" if scheme == "unix" else "h:1"
    with pytest.raises(ConfigError, match=r"rediss://"):
        StreamClient.from_url(f"{scheme}://{where}?{option}")
    name, _, value = option.partition("=")
    with pytest.raises(ConfigError, match=name):
        StreamClient.from_url(f"{scheme}://{where}", **{name: value})


def test_sync_and_async_use_the_same_refusal() -> None:
    with pytest.raises(ConfigError, match="is for TLS"):
        make_endpoint(ssl_ca_certs="/x")
    with pytest.raises(ConfigError, match="is for TLS"):
        StreamProducer(StreamClient.from_url("redis://h?ssl_ca_certs=/x"), "s").push_sync(1)


@pytest.mark.parametrize(
    "option", ["ssl_cert_reqs=none", "ssl_cert_reqs=optional", "ssl_check_hostname=False"]
)
def test_verification_that_is_off_is_said_once_a_start(
    caplog: pytest.LogCaptureFixture, option: str
) -> None:
    for _ in range(2):
        with caplog.at_level(logging.WARNING):
            StreamClient.from_url(f"rediss://u:{SECRET}@{option[-3:]}.example?{option}")
    [record] = [r for r in caplog.records if "does not check who answers" in r.getMessage()]
    assert option.partition("=")[0] in record.getMessage()
    assert SECRET not in record.getMessage()


def test_verification_is_on_by_default(caplog: pytest.LogCaptureFixture) -> None:
    client = StreamClient.from_url("rediss://verified.example?ssl_ca_certs=/ca.pem")
    assert not client.endpoint.unverified
    assert not caplog.records


def test_rsq_does_not_show_it_either(pool_url: str) -> None:
    for url in (f"redis://u:1234/{SECRET}@h", f"redis://u:{SECRET}@127.0.0.1:1/0", f"x://{SECRET}"):
        done = rsq("stats", "s", url=url)  # looks for the secret in what it prints
        assert done.returncode in (2, 4)
