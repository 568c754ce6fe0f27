"""A password is in no log and in no list of processes, and the pool works with it."""

from __future__ import annotations

import signal
import socket
from pathlib import Path

import pytest

from redis_stream_queue import _exits
from tests.pool.complaints.conftest import StartPool
from tests.support.guarded import SECRET
from tests.support.pool import PoolProcess
from tests.support.servers import Server
from tests.support.waiting import wait_until


class TestPassword:
    """It is not in ps, not in the log, and the pool works with it."""

    @pytest.mark.parametrize("form", ["--url URL", "--url=URL", "--url first --url URL", "query"])
    def test_password_on_the_command_line(
        self, start_pool: StartPool, guarded_server: Server, form: str
    ) -> None:
        url = guarded_server.url
        args = {
            "--url URL": ["--url", url],
            "--url=URL": [f"--url={url}"],
            "--url first --url URL": ["--url", f"redis://:{SECRET}@first", "--url", url],
            "query": ["--url", f"redis://127.0.0.1:{guarded_server.port}?password={SECRET}"],
        }[form]

        pool = start_pool(*args, "--stream", "orders", "--log-level", "debug").wait_ready()

        assert_not_in_ps(pool)
        pid = pool.pid
        pool.send(signal.SIGUSR1)
        pool.wait_log("status: ")
        assert pool.drain() == _exits.OK
        assert SECRET not in pool.stderr + pool.stdout
        assert f"pid={pid} " in pool.stderr  # the process that was started is the one that runs

    def test_password_on_the_command_line_while_it_waits_for_redis(
        self, start_pool: StartPool
    ) -> None:
        with socket.create_server(("127.0.0.1", 0)) as silent:
            url = f"redis://:{SECRET}@127.0.0.1:{silent.getsockname()[1]}"
            pool = start_pool("--url", url, "--stream", "orders")
            wait_until(lambda: len(pool.processes()) == 4, 10, "master, template and two workers")
            assert_not_in_ps(pool)
            pool.close()
        assert SECRET not in pool.stderr + pool.stdout

    def test_url_in_the_environment_is_not_overruled(
        self, start_pool: StartPool, guarded_server: Server
    ) -> None:
        """--url is above REDIS_URL and RSQ_URL, also through the restart without it."""
        pool = start_pool(
            "--url", guarded_server.url, "--stream", "orders",
            url="redis://127.0.0.1:1", env={"RSQ_URL": "redis://127.0.0.1:2"},
        )  # fmt: skip
        pool.wait_ready()
        assert pool.drain() == _exits.OK


def assert_not_in_ps(pool: PoolProcess) -> None:
    processes = pool.processes()
    assert pool.pid in [p.pid for p in processes]
    shown = [Path(f"/proc/{p.pid}/cmdline").read_text() for p in processes]
    assert all("redis_stream_queue" in line for line in shown)
    assert not any(SECRET in line for line in shown)
