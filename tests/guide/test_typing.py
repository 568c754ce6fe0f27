"""What type checkers see of tasks: nothing wrong in the shop, and each wrong call of them."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import redis_stream_queue
import redis_stream_queue.pool
from tests.guide.conftest import ROOT

WRONG_CALLS = "tests/typing/wrong_calls.py"
EVERY_NAME = "tests/typing/every_name.py"


@pytest.mark.parametrize(
    "checker",
    [
        ["mypy", "--strict"],  # reads what scripts/check has left in its cache
        ["pyright", "--pythonpath", sys.executable],  # its settings are in pyproject.toml
    ],
    ids=lambda command: str(command[0]),
)
def test_exactly_the_wrong_lines_are_marked(checker: list[str]) -> None:
    """Each at least once; none in an app that uses every public name."""
    lines = (ROOT / WRONG_CALLS).read_text().splitlines()
    wrong = [(WRONG_CALLS, n) for n, line in enumerate(lines, 1) if line.endswith("  # wrong")]

    done = subprocess.run(
        [sys.executable, "-m", *checker, "examples/shop", WRONG_CALLS, EVERY_NAME],
        cwd=ROOT,
        env={**os.environ, "PYRIGHT_PYTHON_IGNORE_WARNINGS": "1"},  # or it asks for newer ones
        stdout=subprocess.PIPE,
        text=True,
        check=False,
    )

    said = re.findall(r"^ *(/?\w\S*?):(\d+):.*error: ", done.stdout, re.MULTILINE)
    found = {(str(Path(ROOT, name).relative_to(ROOT)), int(line)) for name, line in said}
    assert sorted(found) == wrong, done.stdout


def test_the_app_uses_every_public_name() -> None:
    names = set(re.findall(r"\w+", (ROOT / EVERY_NAME).read_text()))
    assert {*redis_stream_queue.__all__, *redis_stream_queue.pool.__all__} <= names
