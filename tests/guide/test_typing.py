"""What a type checker sees of tasks: nothing wrong in the shop, and each wrong call of them."""

from __future__ import annotations

import re
import subprocess
import sys

from tests.guide.conftest import ROOT

WRONG_CALLS = "tests/typing/wrong_calls.py"


def test_mypy_marks_exactly_the_wrong_lines() -> None:
    """Each at least once. (It reads what scripts/check has left in its cache.)"""
    lines = (ROOT / WRONG_CALLS).read_text().splitlines()
    wrong = [(WRONG_CALLS, n) for n, line in enumerate(lines, 1) if line.endswith("  # wrong")]

    done = subprocess.run(
        [sys.executable, "-m", "mypy", "--strict", "examples/shop", WRONG_CALLS],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
        check=False,
    )

    said = re.findall(r"^(\S+?):(\d+): error: ", done.stdout, re.MULTILINE)
    assert sorted({(name, int(line)) for name, line in said}) == wrong, done.stdout
