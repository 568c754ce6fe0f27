"""rsq stats tells what is there, on each kind of server."""

from __future__ import annotations

import json
import os
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest

from redis_stream_queue import _exits
from tests.cli.kit import ID, WAIT_S, said
from tests.support.cluster import Cluster
from tests.support.rsq import RSQ, rsq
from tests.support.servers import Server


@pytest.fixture
def busy_stream(real_server: Server, redis_url: str) -> str:
    """orders: 6 entries; group ``g`` has read 4: ``a`` holds 1, ``b`` holds 2, one waits for its
    retry. 2 dead letters. Returns the URL.
    """
    with real_server.client() as client:
        client.xgroup_create("orders", "g", id="0", mkstream=True)
        for n in range(6):
            client.xadd("orders", {"data": str(n)})
        read: Any = client.xreadgroup("g", "a", {"orders": ">"}, count=2)
        client.xreadgroup("g", "b", {"orders": ">"}, count=2)
        failed = read[0][1][0][0]
        client.xclaim("orders", "g", "g:retry:65536", 0, [failed], justid=True)
        for _ in range(2):
            client.xadd("orders_dlq", {"data": "x"})
    return redis_url


def add(server: Server, *keys: str) -> None:
    """An entry in each of these streams."""
    with server.client() as client:
        for key in keys:
            client.xadd(key, {"data": "1"})


class TestStats:
    def test_table(self, busy_stream: str) -> None:
        done = rsq("stats", "orders", url=busy_stream)

        assert done.returncode == _exits.OK, done.stderr
        shown = re.sub(r"idle .*", "idle T", done.stdout)
        shown = re.sub(r"\d+-\d+, to be tried again in [\d.]+ (s|min)", "ID, LATER", shown)
        assert shown == (
            "stream             orders\n"
            "length             6\n"
            "dead letters       2  in orders_dlq\n"
            "oldest unfinished  group g has not finished ID, LATER\n"
            "\n"
            "group              g\n"
            "lag                2\n"
            "pending            4\n"
            "waiting for retry  1\n"
            "consumers          2\n"
            "                   b  pending 2, idle T\n"
            "                   a  pending 1, idle T\n"
        )

    def test_json(self, busy_stream: str) -> None:
        report = json.loads(rsq("stats", "orders", "--json", url=busy_stream).stdout)

        [group] = report.pop("groups")
        assert "group g has not finished" in report.pop("oldest_unfinished")
        assert report == {
            "stream": "orders", "length": 6, "dlq_stream": "orders_dlq", "dead_letters": 2,
            "scheduled": 0,
            "paused": [],
        }  # fmt: skip
        consumers = {c["name"]: c["pending"] for c in group.pop("consumers")}
        assert consumers == {"a": 1, "b": 2}
        assert ID.fullmatch(group.pop("last_delivered_id"))
        assert group == {"group": "g", "lag": 2, "pending": 4, "waiting_for_retry": 1}

    def test_all_groups_unless_one_is_named(self, real_server: Server, busy_stream: str) -> None:
        with real_server.client() as client:
            client.xgroup_create("orders", "audit", id="0")

        def groups(*args: str) -> dict[str, int]:
            done = rsq("stats", "orders", "--json", *args, url=busy_stream)
            return {g["group"]: g["lag"] for g in json.loads(done.stdout)["groups"]}

        assert groups() == {"audit": 6, "g": 2}
        assert groups("--group", "audit") == {"audit": 6}

    def test_stream_without_a_group(self, pool_server: Server, pool_url: str) -> None:
        """It has a length, and no group is made up for it."""
        add(pool_server, "orders", "orders")
        report = json.loads(rsq("stats", "orders", "--json", url=pool_url).stdout)
        assert (report["length"], report["groups"]) == (2, [])
        assert "none yet" in rsq("stats", "orders", url=pool_url).stdout

    def test_what_is_not_there(self, pool_server: Server, pool_url: str) -> None:
        text = said(rsq("stats", "orders", "--prefix", "shop", url=pool_url), _exits.FAILURE)
        assert "there is no stream 'shop_orders' on unix://" in text

        add(pool_server, "orders")
        text = said(rsq("stats", "orders", "--group", "g", url=pool_url), _exits.FAILURE)
        assert "stream 'orders' has no group 'g'. It has none yet." in text

        with pool_server.client() as client:
            client.xgroup_create("orders", "a", id="0")
        text = said(rsq("stats", "orders", "--group", "g", url=pool_url), _exits.FAILURE)
        assert "stream 'orders' has no group 'g'. It has a." in text

    def test_dead_letter_stream_and_prefix(self, pool_server: Server, pool_url: str) -> None:
        add(pool_server, "shop_orders", "shop_orders_dlq", "shop_lost", "shop_lost")

        def dead(*args: str) -> tuple[str, int]:
            done = rsq("stats", "orders", "--prefix", "shop", "--json", *args, url=pool_url)
            report = json.loads(done.stdout)
            return report["dlq_stream"], report["dead_letters"]

        assert dead() == ("shop_orders_dlq", 1)
        assert dead("--dlq-stream", "lost") == ("shop_lost", 2)


def test_cluster(real_cluster: Cluster, cluster_url: str, lines_file: Path) -> None:
    """On a cluster the dead letters are where the pool puts them."""
    done = rsq("push", "orders", "--group", "g", "--file", str(lines_file), url=cluster_url)
    assert done.stdout == "pushed 2500 messages to orders\n", done.stderr

    report = json.loads(rsq("stats", "orders", "--json", url=cluster_url).stdout)

    assert (report["length"], report["dlq_stream"]) == (2500, "{orders}_dlq")
    assert [(g["group"], g["lag"]) for g in report["groups"]] == [("g", 2500)]


def test_embedded_server_keeps_the_messages(tmp_path: Path) -> None:
    url = f"embedded://{tmp_path}/data"
    assert rsq("push", "orders", "1", "2", url=url).returncode == _exits.OK
    assert json.loads(rsq("stats", "orders", "--json", url=url).stdout)["length"] == 2


def test_a_reader_that_has_left_is_no_trouble_of_redis(pool_server: Server, pool_url: str) -> None:
    """``rsq dlq list orders | head -1``"""
    with pool_server.client() as client:
        client.xadd("orders_dlq", {"data": "1"})
    ours, theirs = os.pipe()
    os.close(ours)
    command = [*RSQ, "dlq", "list", "orders", "--url", pool_url]
    done = subprocess.run(command, stdout=theirs, stderr=subprocess.PIPE, timeout=WAIT_S)
    os.close(theirs)
    assert (done.returncode, done.stderr) == (_exits.FAILURE, b"")
