"""What is there for deployment names options, signals and pages that exist."""

from __future__ import annotations

import re
import shlex

import yaml

from redis_stream_queue._options import TARGET, URL_FILE
from redis_stream_queue._pool_config import OPTIONS, PoolConfig
from redis_stream_queue.cli.rsq_pool import main
from tests.guide.conftest import ROOT
from tests.guide.test_runbook import ALERTS, CONTAINER, POD, RUNBOOK

KUBERNETES = ROOT / "examples" / "kubernetes"
UNIT = (ROOT / "redis_stream_queue" / "cli" / "rsq-pool@.service").read_text()


def test_the_pod_has_time_to_drain_and_needs_no_right() -> None:
    """Longer than the graceful timeout; its variables are options; nothing is written."""
    known = (*OPTIONS, TARGET, URL_FILE)
    variables = {name for option in known for name in option.environment}

    assert (
        POD["terminationGracePeriodSeconds"]
        >= PoolConfig(target="app:handle").graceful_timeout_s + 10
    )
    assert {variable["name"] for variable in CONTAINER["env"]} <= variables
    assert POD["securityContext"]["runAsNonRoot"]
    assert CONTAINER["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }


def test_the_image_starts_a_pool_that_the_probes_reach() -> None:
    """Its command line is one of ours, on all addresses and the port that the pod names."""
    dockerfile = (KUBERNETES / "Dockerfile").read_text()
    lists = dict(re.findall(r"^(ENTRYPOINT|CMD) \[(.*)\]$", dockerfile, re.MULTILINE))
    program, *args = shlex.split(f"{lists['ENTRYPOINT']} {lists['CMD']}".replace(",", ""))
    context = main.make_context(program, args)

    assert program == "rsq-pool"
    assert "app:handle" in str(context.params)
    assert context.params["http"] == f"0.0.0.0:{CONTAINER['ports'][0]['containerPort']}"
    assert re.search(r"^USER [1-9]\d*:", dockerfile, re.MULTILINE)


def test_it_scales_by_what_waits_and_by_what_is_pending() -> None:
    """Both of the group that the handler of the example has, and as the deployment is called."""
    scaled, _ = yaml.safe_load_all((KUBERNETES / "scaledobject.yaml").read_text())
    lag, pending = (trigger["metadata"] for trigger in scaled["spec"]["triggers"])
    app = (KUBERNETES / "app.py").read_text()

    assert scaled["spec"]["scaleTargetRef"]["name"] == "orders"
    assert f'@stream_handler("{lag["stream"]}")' in app
    assert {lag["consumerGroup"], pending["consumerGroup"]} == {f"{lag['stream']}_workers"}
    assert "lagCount" in lag
    assert "pendingEntriesCount" in pending


def test_each_alert_leads_to_a_section_of_the_runbook() -> None:
    sections = re.findall(r"^## (.+)$", RUNBOOK.read_text(), re.MULTILINE)
    anchors = {f"docs/runbook.md#{section.lower().replace(' ', '-')}" for section in sections}

    assert {rule["annotations"]["runbook"] for rule in ALERTS} <= anchors


def test_the_unit_ends_nothing_for_a_system_call_that_it_forbids() -> None:
    """And has what brings its exposure to 1.3 (systemd-analyze security --offline=true)."""
    for line in (
        "SystemCallFilter=@system-service",
        "SystemCallFilter=~@privileged @resources",
        "SystemCallErrorNumber=EPERM",
        "PrivateUsers=yes",
        "CapabilityBoundingSet=",
        "DynamicUser=yes",
    ):
        assert f"\n{line}\n" in UNIT
