"""rsq doctor names what is wrong with a real server, with the remedy."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator
from typing import Any

import pytest
from click.testing import CliRunner, Result

from redis_stream_queue import _exits
from redis_stream_queue._clock import wall_ms
from redis_stream_queue.cli.rsq import main
from redis_stream_queue.message import PendingEntry
from redis_stream_queue.operations import heartbeat
from redis_stream_queue.operations.stream_findings import StreamFacts, stream_findings
from tests.support.servers import Server, free_port
from tests.support.waiting import wait_until

FAULTS = (
    *("--maxmemory-policy", "allkeys-lru", "--appendonly", "no", "--save", ""),
    *("--cluster-enabled", "yes", "--cluster-config-file", "nodes.conf"),
)

WORKER = heartbeat.WorkerLine(0, 2, "ready", "", 0, 0, 0, 60)
RIGHTS = "on", ">pw", "~*", "+@all", "-eval", "-evalsha"


def is_whole(client: Any) -> bool:
    return bool(client.execute_command("CLUSTER INFO")["cluster_state"] == "ok")


def doctor(*args: str, url: str) -> Result:
    return CliRunner().invoke(main, ["doctor", *args], env={"REDIS_URL": url})


def findings(*args: str, url: str) -> dict[str, dict[str, Any]]:
    report = json.loads(doctor(*args, "--json", url=url).output)
    return {finding["name"]: finding for finding in report["findings"]}


@pytest.fixture(scope="module")
def sick(_no_process_left: None) -> Iterator[Server]:
    """A cluster of one node with six faults, of which user ``u`` (password pw) has one."""
    bus_port = "--cluster-port", str(free_port())  # of itself it would be 10,000 above the other
    with Server.start("valkey-9.1", tcp=True, extra_args=(*FAULTS, *bus_port)) as server:
        with server.client() as client:
            client.execute_command("CLUSTER ADDSLOTSRANGE", 0, 16383)
            wait_until(lambda: is_whole(client), 15, "the cluster is there")
            client.execute_command("ACL", "SETUSER", "u", *RIGHTS)
            client.xgroup_create("orders", "g", "0", mkstream=True)
            client.xadd("orders", {"data": "1"})
            client.config_set("maxmemory", 10_000_000)  # with 1 MB the stream would be evicted
        yield server


def test_six_faults_are_named_with_their_remedies(sick: Server) -> None:
    url = f"redis+cluster://u:pw@127.0.0.1:{sick.port}"
    found = findings("orders", "--dlq-stream", "orders_dlq", url=url)
    shown = doctor("orders", "--dlq-stream", "orders_dlq", url=url)

    remedies = {
        "eviction": "noeviction",
        "persistence": "appendonly yes",
        "little_memory": "Raise maxmemory",
        "permission": "ACL SETUSER name +eval",
        "slots": "'{orders}_dlq'",
        "unread_group": "XGROUP DESTROY orders g",
    }
    assert [name for name, remedy in remedies.items() if remedy not in found[name]["remedy"]] == []
    assert all(finding["what"] for finding in found.values())
    assert shown.exit_code == _exits.FAILURE
    assert [line for line in shown.output.splitlines() if "    do:  " in line]
    assert shown.output.index("fatal: ") < shown.output.index("serious: ")
    assert "pw" not in shown.output.replace("--", "")


def test_what_a_server_cannot_do_much_longer() -> None:
    """It cannot save, has hardly a connection left, hangs up early, may use a byte of memory; and a
    group is paused by hand."""
    args = ("--enable-protected-configs", "yes")
    with (
        Server.start("valkey-9.1", tcp=True, extra_args=args) as server,
        server.client() as client,
    ):
        client.xgroup_create("orders", "g", "0", mkstream=True)
        for group in ((), ("--group", "g")):
            CliRunner().invoke(main, ["pause", "orders", *group], env={"REDIS_URL": server.url})
        client.config_set("dir", "/proc/self")  # nothing can be written there
        client.bgsave()
        saved = "rdb_last_bgsave_status"
        wait_until(lambda: client.info("persistence")[saved] == "err", 10, "it has failed")
        client.config_set("timeout", 5)
        client.config_set("maxclients", 2)
        client.config_set("maxmemory", 1)
        found = findings("orders", url=server.url)
    remedies = {
        "cannot_save": "See its log",
        "connections": "Raise maxclients",
        "timeout": "Set timeout 0",
        "memory": "raise maxmemory",
        "paused": "rsq resume orders; rsq resume orders --group g",
    }
    assert [name for name, remedy in remedies.items() if remedy not in found[name]["remedy"]] == []
    assert found["memory"]["what"].endswith("of memory, and may use 1 byte (maxmemory)")


def test_a_plain_url_of_a_cluster_is_named(sick: Server) -> None:
    assert "redis+cluster://" in findings("orders", url=sick.url)["cluster_url"]["remedy"]


def test_a_healthy_server(redis_url: str, real_server: Server) -> None:
    """On each kind of server: no finding where there is none, hints end with 0."""
    with real_server.client() as client:
        client.xgroup_create("orders", "g", "0", mkstream=True)
        client.xgroup_createconsumer("orders", "g", "a")
        healthy = doctor("orders", url=redis_url)
        client.xadd("orders_dlq", {"data": "1"})
        hinted = doctor("orders", url=redis_url)
        client.set("orders_dlq", "x")
        wrong = findings("orders", url=redis_url)

    assert (healthy.exit_code, healthy.output[:10]) == (_exits.OK, "0 findings")
    assert (hinted.exit_code, hinted.output.partition("\n")[0]) == (
        _exits.OK,
        "hint: 1 dead letter(s) lie in 'orders_dlq'",
    )
    assert wrong["key_type"]["what"].endswith("is a string, not a stream")


def test_what_holds_up_trimming_is_named() -> None:
    """An old entry that is not finished, in a stream that has grown long."""
    info = {"name": "g", "pending": 1, "last-delivered-id": "9-0", "lag": 0}
    held = PendingEntry("5-0", "worker", 100, 2)

    def found(length: int, oldest: PendingEntry | None) -> list[str]:
        facts = StreamFacts(
            "orders", length, "orders_dlq", 0, [(info, [{"name": "worker", "idle": 5}], oldest)]
        )
        return [finding.what for finding in stream_findings(facts, [])]

    assert found(200_000, None) == found(1000, held) == []
    assert found(200_000, PendingEntry(f"{wall_ms()}-0", "worker", 100, 2)) == []
    [what] = found(200_000, held)
    assert "has not finished 5-0" in what
    assert "held by worker, renewed 100 ms ago" in what


def test_a_claim_that_is_shorter_than_calls_is_named() -> None:
    """Only if a call takes longer, and never the default."""
    info = {"name": "g", "pending": 1, "last-delivered-id": "9-0", "lag": 0}
    facts = StreamFacts("orders", 9, "orders_dlq", 0, [(info, [{"name": "w", "idle": 5}], None)])

    def found(claim_ms: int, ran_ms: int) -> list[str]:
        line = dataclasses.replace(WORKER, message_id="5-0", since_ms=wall_ms() - ran_ms)
        beat = heartbeat.Heartbeat(
            *("web", 1, "1", "app:handler", "orders", "g", "orders_dlq", 3, claim_ms),
            *("running", 0, wall_ms(), 0, 0, 0, 0, 0.0, (line,), 0.0),
        )
        return [finding.name for finding in stream_findings(facts, [beat])]

    assert found(500, 5000) == ["early_claim"]
    assert found(500, 100) == found(10_000, 3_600_000) == []


def test_streams_of_pools_that_run(pool_url: str, pool_server: Server) -> None:
    """Without a name: those that pools say they read; with settings that differ, that is said."""
    assert findings(url=pool_url).keys() == {"no_pool"}
    assert "no_stream" in findings("nothing", url=pool_url)
    with pool_server.client() as client:
        seconds, _ = client.time()
        for most, claim_ms in ((3, 500), (5, 600_000)):
            beat = heartbeat.Heartbeat(
                *("web", 1, "1", "app:handler", "shop_orders", "g", "shop_lost", most, claim_ms),
                *("running", 0, seconds * 1000, 0, 0, 0, 0, 0.0, (WORKER,), 50.0),
            )
            client.set(f"shop_{heartbeat.POOL}{most}", heartbeat.encode(beat))
            client.zadd(
                f"shop_{heartbeat.INDEX}", {f"{heartbeat.POOL}{most}": seconds * 1000 + 9000}
            )
        client.xgroup_create("shop_orders", "g", "0", mkstream=True)
        client.xadd("shop_lost", {"data": "1"})
    found = findings("--prefix", "shop", url=pool_url)

    others = {"unread_group", "dead_letters", "memory_limit"}
    assert found.keys() == {"mixed_settings", "late_claim", *others}
    assert "is 600 s; the longest call that runs now has taken 0.0 s" in found["late_claim"]["what"]
    assert "--max-memory-per-child 120" in found["memory_limit"]["remedy"]
    assert "3 deliveries, 500 ms and 5 deliveries, 600000 ms" in found["mixed_settings"]["what"]
