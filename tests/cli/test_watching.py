"""rsq pending, health, consumers prune, systemd and completion."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from redis_stream_queue import _exits
from redis_stream_queue.cli.rsq import main
from tests.support.servers import Server


def rsq(*args: str, url: str = "redis://127.0.0.1:1") -> Result:
    return CliRunner().invoke(main, args, env={"REDIS_URL": url})


@pytest.fixture
def orders(real_server: Server, redis_url: str) -> str:
    """orders: 5 entries; group ``g`` has read 3: ``a`` holds 2, one waits for its retry; the oldest
    was pushed 10 s ago. Returns the URL."""
    with real_server.client() as client:
        seconds, _ = client.time()
        client.xgroup_create("orders", "g", id="0", mkstream=True)
        for n in range(5):
            client.xadd("orders", {"data": str(n)}, id=f"{(seconds - 10) * 1000}-{n + 1}")
        read: Any = client.xreadgroup("g", "a", {"orders": ">"}, count=3)
        client.xclaim("orders", "g", "g:retry:65536", 0, [read[0][1][0][0]], justid=True)
        client.xgroup_createconsumer("orders", "g", "gone")
    return redis_url


def test_pending(orders: str) -> None:
    found = json.loads(rsq("pending", "orders", "--json", url=orders).output)["pending"]
    table = rsq("pending", "orders", "--limit", "1", url=orders).output.splitlines()

    assert [entry["state"] for entry in found] == ["waits for retry", "held", "held"]
    assert 50_000 < found[0]["due_in_ms"] <= 65_536
    assert [entry["consumer"] for entry in found] == ["g:retry:65536", "a", "a"]
    assert table[0].split() == ["message", "deliveries", "how", "it", "is", "held", "by"]
    assert table[2:] == ["3 are pending; --limit shows more than the oldest 1"]
    assert "waits for a retry, due in " in table[1]


def test_health(orders: str, real_server: Server) -> None:
    """Exit code and sentences: lag, age, nobody there."""
    fine = rsq("health", "orders", url=orders)
    late = rsq("health", "orders", "--max-lag", "1", "--max-age-s", "5", "--json", url=orders)
    with real_server.client() as client:
        client.xgroup_create("orders", "nobody", id="0")
    alone = rsq("health", "orders", "--group", "nobody", url=orders)

    assert (fine.exit_code, fine.output) == (0, "orders, group g: healthy, lag 2\n")
    assert late.exit_code == _exits.FAILURE
    [group] = json.loads(late.output)["groups"]
    assert group["issues"][0] == "lag 2 is above 1"
    assert "oldest undelivered message has waited 1" in group["issues"][1]
    assert 10_000 <= group["oldest_waiting_ms"] < 60_000
    assert (alone.exit_code, alone.output) == (1, "orders, group nobody: no consumer reads\n")


def test_health_without_a_group_or_a_stream(redis_url: str, real_server: Server) -> None:
    with real_server.client() as client:
        client.xadd("orders", {"data": "1"})

    assert rsq("health", "orders", url=redis_url).exit_code == _exits.FAILURE
    assert "nobody reads it" in rsq("health", "orders", url=redis_url).output
    assert "there is no stream 'other'" in rsq("health", "other", url=redis_url).output
    assert rsq("health", "orders").exit_code == _exits.REDIS


def test_prune(orders: str, real_server: Server) -> None:
    """Who holds messages stays."""
    time.sleep(0.01)
    assert rsq("consumers", "prune", "orders", url=orders).output == (
        "removed: 0 consumers of orders\n"
    )
    removed = rsq("consumers", "prune", "orders", "--idle-s", "0.005", "--json", url=orders).output
    with real_server.client() as client:
        left = {c["name"] for c in client.xinfo_consumers("orders", "g")}

    assert json.loads(removed) == {"removed": [{"group": "g", "consumer": "gone"}]}
    assert left == {b"a", b"g:retry:65536"}


def test_systemd(tmp_path: Path) -> None:
    """The unit is the one that is shipped, with this app in it; systemd finds no fault in it."""
    shop = tmp_path / "the shop %i"
    shop.mkdir()
    unit = rsq(
        "systemd", "app:handle", "--directory", str(shop), "--name", "shop", "--user", "joe"
    ).output

    assert f"\nWorkingDirectory={shop}\n".replace("%", "%%") in unit
    assert f'\nExecStart="{sys.prefix}/bin/rsq-pool" app:handle\n' in unit
    assert "\nEnvironmentFile=/etc/rsq/shop.env\n" in unit
    assert "\nUser=joe\n" in unit
    assert "DynamicUser" not in unit
    assert "%i" not in unit.replace("%%i", "")
    for wrong in (["app"], ["app:x", "--name", "a b"], ["app:x", "--user", "a\nExecStartPre=x"]):
        assert rsq("systemd", *wrong).exit_code == _exits.USAGE


def test_the_shell_completes() -> None:
    """What bash asks at TAB is answered, for both commands; and bash can read the script."""
    script = rsq("completion", "bash").output
    bash = shutil.which("bash")
    assert bash
    subprocess.run([bash, "-n"], input=script, text=True, check=True)

    def completed(module: str, name: str, words: str) -> str:
        variable = f"_{name.upper().replace('-', '_')}_COMPLETE"
        run = f"from redis_stream_queue.cli.{module} import main; main(prog_name={name!r})"
        asked = {"COMP_WORDS": words, "COMP_CWORD": "1", variable: "bash_complete"}
        command = [sys.executable, "-c", run]
        return subprocess.check_output(command, env={**os.environ, **asked}, text=True)

    assert "_RSQ_POOL_COMPLETE=bash_complete" in script
    assert completed("rsq", "rsq", "rsq he") == "plain,health\n"
    assert "plain,--graceful-timeout" in completed("rsq_pool", "rsq-pool", "rsq-pool --gr")
