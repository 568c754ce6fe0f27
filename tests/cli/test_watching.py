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
from tests.support.guarded import limited_user
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


@pytest.mark.parametrize(
    ("name", "value", "why", "healthy"),
    [
        ("maxmemory", "1", "used memory > 'maxmemory'", True),  # it can still be acknowledged
        ("replicaof", "127.0.0.1 1", "read only replica", False),
        ("min-replicas-to-write", "1", "Not enough good replicas to write", False),
    ],
)
def test_what_redis_refuses_is_said(
    pool_server: Server, pool_url: str, name: str, value: str, why: str, healthy: bool
) -> None:
    """Where no pool can write its heartbeat none is seen; where none can acknowledge all is ill."""
    with pool_server.client() as client:
        client.xgroup_create("orders", "g", "0", mkstream=True)
        client.xgroup_createconsumer("orders", "g", "a")
        if name == "replicaof":
            client.replicaof(*value.split())
        else:
            client.config_set(name, value)
        try:
            seen = rsq("running", "--json", url=pool_url)
            shown = rsq("running", "orders", url=pool_url).output
            top = rsq("top", "--once", url=pool_url).output
            doctor = rsq("doctor", url=pool_url).output
            health = rsq("health", "orders", url=pool_url)
        finally:
            client.replicaof("NO", "ONE") if name == "replicaof" else client.config_set(name, 0)
    unseen = json.loads(seen.output)["unseen"]
    assert unseen.startswith("no pool is seen: ")
    assert "no pool of 'orders' is seen: " in shown
    assert all(why in said for said in (unseen, shown, top, doctor))
    assert health.exit_code == (_exits.OK if healthy else _exits.FAILURE)
    assert healthy or why in health.output


def test_a_pool_that_may_not_write_its_heartbeat(guarded_server: Server) -> None:
    """Its consumers say that something works; and who may not read heartbeats hears that."""
    blind = limited_user(guarded_server, "~orders*", "+@all")
    url = guarded_server.url
    with guarded_server.client() as client:
        client.xgroup_create("orders", "g", "0", mkstream=True)
        client.xreadgroup("g", "a", {"orders": ">"})
        shown = rsq("running", "orders", url=url).output
        other = rsq("running", url=url).output
        told = rsq("doctor", url=blind).output
    assert "but 1 of its consumers have done something within 15 s" in shown
    assert "no pool is seen: none runs, or it has another database" in other
    assert "no pool is seen: this user may not read what pools write" in told


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

    def completed(module: str, name: str, words: str, at: str = "1") -> str:
        variable = f"_{name.upper().replace('-', '_')}_COMPLETE"
        run = f"from redis_stream_queue.cli.{module} import main; main(prog_name={name!r})"
        asked = {"COMP_WORDS": words, "COMP_CWORD": at, variable: "bash_complete"}
        command = [sys.executable, "-c", run]
        return subprocess.check_output(command, env={**os.environ, **asked}, text=True)

    assert "_RSQ_POOL_COMPLETE=bash_complete" in script
    assert completed("rsq", "rsq", "rsq he") == "plain,health\n"
    assert completed("rsq_pool", "rsq-pool", "rsq-pool --config x", "2") == "file,x\n"
    assert "plain,--graceful-timeout" in completed("rsq_pool", "rsq-pool", "rsq-pool --gr")
