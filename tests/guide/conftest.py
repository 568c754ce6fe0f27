"""What the guide's tests run commands with: a directory of their own and our commands on PATH."""

from __future__ import annotations

import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from tests.support.extras import OPENTELEMETRY
from tests.support.leaks import MARK

sys.path.insert(0, str(OPENTELEMETRY))  # for test_hooks.py, which imports it at its top

ROOT = Path(__file__).resolve().parents[2]
TIMEOUT_S = 60


class Shell:
    """Runs commands in ``directory`` as a reader of the README would in a terminal."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory / "work"
        self.directory.mkdir()
        commands = directory / "bin"
        commands.mkdir()
        python = commands / "python"
        python.write_text(f'#!/bin/sh\nexec "{sys.executable}" "$@"\n')
        python.chmod(0o755)
        project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
        for name, target in project["scripts"].items():
            module, _, function = target.partition(":")
            command = commands / name
            command.write_text(
                f"#!{sys.executable}\nimport sys\nfrom {module} import {function}\n"
                f"sys.exit({function}())\n"
            )
            command.chmod(0o755)
        own = {k: v for k, v in os.environ.items() if k == MARK or not k.startswith("RSQ_")}
        own.pop("REDIS_URL", None)
        self.environment = {
            **own,
            "PATH": f"{commands}{os.pathsep}{os.environ['PATH']}",
            "PYTHONPATH": str(ROOT),
            "PYTHONUNBUFFERED": "1",
        }

    def write(self, name: str, text: str) -> None:
        """Make a file in the directory."""
        (self.directory / name).write_text(text)

    def run(self, commands: str, exit_code: int = 0) -> str:
        """Run commands one after the other, stopping at the first that fails; returns what they
        said. Fails unless they end with ``exit_code``.
        """
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", commands],
            cwd=self.directory,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=TIMEOUT_S,
            check=False,
        )
        assert done.returncode == exit_code, f"{commands}\n{done.stdout}"
        return done.stdout


@pytest.fixture
def shell(tmp_path: Path) -> Shell:
    """A terminal in an empty directory."""
    return Shell(tmp_path)
