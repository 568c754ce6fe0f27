"""What those who change the code rely on: the workflow, the pages about the how and the why."""

from __future__ import annotations

import os
import re
import tomllib
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
RECORDS = sorted((ROOT / "docs" / "decisions").glob("*.md"))
PARTS = ["Context", "Decision", "Why", "What was measured", "What it costs", "What would change it"]


def test_the_workflow_runs_ci_on_every_python_that_is_claimed() -> None:
    """It is YAML, it runs .ci/run and nothing else of ours, and leaves no claimed Python out."""
    workflow = yaml.safe_load((ROOT / ".github" / "workflows" / "ci.yml").read_text())
    [job] = workflow["jobs"].values()
    pythons = job["strategy"]["matrix"]["python"]
    claimed = re.findall(r"Python :: (3\.\d+)", "\n".join(PROJECT["classifiers"]))

    assert [step["run"] for step in job["steps"] if "run" in step] == [".ci/run --cov"]
    assert PROJECT["requires-python"] == f">={pythons[0]}"
    assert set(claimed) <= set(pythons)


def test_the_commands_of_contributing_are_there() -> None:
    """Each script that the page names can be run, and each file and folder exists."""
    named = set(
        re.findall(r"(?:scripts|tests|docs|\.ci)/[\w./]*\w", (ROOT / "CONTRIBUTING.md").read_text())
    )

    assert [name for name in named if not (ROOT / name).exists()] == []
    scripts = [ROOT / name for name in named if name.startswith(("scripts/", ".ci/"))]
    assert [script for script in scripts if not os.access(script, os.X_OK)] == []


@pytest.mark.parametrize("record", RECORDS, ids=lambda record: record.stem)
def test_a_record_of_a_decision_has_its_parts(record: Path) -> None:
    """All of them, in order, and design.md leads there."""
    assert re.findall(r"^## (.+)$", record.read_text(), re.MULTILINE) == PARTS
    assert f"(decisions/{record.name})" in (ROOT / "docs" / "design.md").read_text()
