"""docs/runbook.md: its commands run here as they stand there, on the trouble that they are about,
and print what the page says. What examples/ has for deployment fits to the same pool."""

from __future__ import annotations

import json
import re
import shlex
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml
from click.testing import CliRunner
from prometheus_client.parser import text_string_to_metric_families

from redis_stream_queue import StreamClient, StreamProducer
from redis_stream_queue.cli.rsq import main
from redis_stream_queue.pool import PoolMetrics
from redis_stream_queue.pool.histogram import BUCKETS, Histogram
from redis_stream_queue.pool.master.http.prometheus import render
from redis_stream_queue.pool.master.http.snapshot import Part, Snapshot
from redis_stream_queue.pool.master.observation import Observation
from redis_stream_queue.pool.task_times import TaskMetrics
from tests.guide.conftest import ROOT
from tests.guide.test_readme import blocks_of
from tests.support.pool import PoolProcess
from tests.support.servers import Server, free_port
from tests.support.waiting import wait_until

RUNBOOK = ROOT / "docs" / "runbook.md"
APP = """
import time
from redis_stream_queue import per_message, stream_handler

@stream_handler("orders", max_deliveries=2, retry_delay_ms=50)
@per_message
def handle(message):
    if "slow" in message.data:
        time.sleep(600)
    if "address" not in message.data:
        raise ValueError("the customer has no address")
"""
EXAMPLES = ROOT / "examples"
DASHBOARD = json.loads((EXAMPLES / "grafana" / "dashboard.json").read_text())
ALERTS = yaml.safe_load((EXAMPLES / "grafana" / "alerts.yaml").read_text())["groups"][0]["rules"]
EXPRESSIONS = [target["expr"] for panel in DASHBOARD["panels"] for target in panel["targets"]]
EXPRESSIONS += [rule["expr"] for rule in ALERTS]
DEPLOYMENT = yaml.safe_load((EXAMPLES / "kubernetes" / "deployment.yaml").read_text())
POD = DEPLOYMENT["spec"]["template"]["spec"]
[CONTAINER] = POD["containers"]
PROBES = [CONTAINER[name]["httpGet"]["path"] for name in CONTAINER if name.endswith("Probe")]
NAME, BY = re.compile(r"rsq_\w+"), re.compile(r"by \(([^)]*)\)")
ID = re.compile(r"\d{13}-\d+")
HOST = re.escape(socket.gethostname())
VARYING = (  # what differs from machine to machine and from second to second
    (re.compile(rf"\b{HOST}\b|(?<=_){HOST}(?=_)"), "web1"),
    (re.compile(r"_web1_\w{4}\b"), "_web1_xxxx"),
    (re.compile(r"redis://[\d.:]+"), "redis://server"),
    (re.compile(r"[\d.]+ (ms|s|min)\b"), "so long"),
    (re.compile(r"\d+"), "n"),
    (re.compile(r" +"), " "),
)


def as_shown(text: str) -> str:
    for pattern, instead in VARYING:
        text = pattern.sub(instead, text)
    return text.strip()


def commands(section: str) -> Iterator[tuple[str, str]]:
    """Each command of a section, and what the page says that it prints."""
    for block in blocks_of(RUNBOOK):
        if block.section == section and block.language == "console":
            for part in block.text.split("$ ")[1:]:
                command, _, output = part.partition("\n")
                yield command, output


class Scene:
    """A reader at the runbook. ids: in Redis, of the commands that name one."""

    def __init__(self, url: str) -> None:
        self._environment = {"REDIS_URL": url}
        self.ids: dict[str, str] = {}

    def run(self, command: str) -> str:
        """What ``rsq ...`` prints, on both of its outputs."""
        program, *args = shlex.split(command)
        assert program == "rsq"
        return CliRunner().invoke(main, args, env=self._environment).output

    def read(self, section: str) -> None:
        """Do what it says, and see what it shows; ``...`` stands for any lines."""
        found = list(commands(section))
        assert found
        for command, output in found:
            real = self.ids.get(" ".join(command.split()[:3]), "")
            said = self.run(ID.sub(real, command))
            wanted, *rest = as_shown(output).split("...")
            got = as_shown(said)
            assert got == wanted if not rest else got.startswith(wanted), said


def check_examples(http: str) -> None:
    """What examples/ ask a pool for is there: probes, metrics, labels that they are grouped by."""
    for path in PROBES:
        assert httpx.get(f"http://{http}{path}").status_code == 200
    text = httpx.get(f"http://{http}/metrics").text + of_a_queue()
    families = list(text_string_to_metric_families(text))
    labels = {s.name: s.labels.keys() for f in families for s in f.samples}
    for expression in EXPRESSIONS:
        names = NAME.findall(expression)
        assert names
        for name in names:
            given = {*labels[name], "instance"}  # that is Prometheus' own
            for grouped in BY.findall(expression):
                assert {label.strip() for label in grouped.split(",")} <= given


def of_a_queue() -> str:
    """The metrics of a pool that has run a task."""
    observation = Observation("app:queue")
    observation.stream = observation.group = "work"
    nothing = Histogram([0] * BUCKETS, 0.0)
    task = TaskMetrics(nothing, 0, nothing)
    part = Part(observation, PoolMetrics(tasks={"resize": task}))
    return render(Snapshot(0.0, "running", [part], {}), openmetrics=False).decode()


def test_runbook(tmp_path: Path, pool_server_tcp: Server) -> None:
    server = pool_server_tcp
    producer = StreamProducer(StreamClient.from_url(server.url), "orders")
    scene = Scene(server.url)
    http = f"127.0.0.1:{free_port()}"
    args = ("--workers", "2", "--graceful-timeout", "1", "--http", http)
    with (
        PoolProcess(APP, *args, url=server.url, cwd=tmp_path, target="app:handle") as pool,
        server.client() as redis,
    ):
        pool.wait_ready()
        producer.push_many_sync([{"number": n} for n in range(3)])
        wait_until(lambda: redis.xlen("orders_dlq") == 3, 15, "three are dead")
        slow = producer.push_many_sync([{"slow": 1, "address": 1}])
        slow += producer.push_many_sync([{"slow": 1, "address": 1}])
        wait_until(lambda: heard_of(redis, slow), 15, "both workers hang, and all know it")
        producer.push_many_sync([{"address": n} for n in range(500)])
        scene.read("Lag grows")

        scene.ids = {"rsq show orders": slow[0], "rsq cancel orders": slow[0]}
        scene.read("A worker hangs")
        wait_until(lambda: not lag(redis), 15, "the worker is free again")

        scene.ids = {"rsq dlq show": redis.xrange("orders_dlq")[0][0].decode()}
        scene.read("Letters pile up")
        check_examples(http)

        redis.config_set("maxmemory", 64 << 20)
        redis.setrange("filler", 66 << 20, b"x")
        redis.config_set("maxmemory", 64 << 20)
        scene.read("Redis is full")
        redis.delete("filler")

        scene.read("A deploy went wrong")
        scene.run(f"rsq cancel orders {slow[1]}")
        assert pool.drain() == 0


def heard_of(redis: Any, ids: list[str]) -> bool:
    """Do the heartbeats say that these run?"""
    beats = b"".join(redis.get(key) or b"" for key in redis.zrange("rsq:pools", 0, -1))
    return all(entry_id.encode() in beats for entry_id in ids)


def lag(redis: Any) -> int:
    [group] = redis.xinfo_groups("orders")
    return int(group["lag"])


@pytest.fixture
def pool_server_tcp(_no_process_left: None) -> Iterator[Server]:
    with Server.start("valkey-9.1", tcp=True) as server:
        yield server
