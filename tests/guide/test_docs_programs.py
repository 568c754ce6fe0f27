"""The programs and commands on the pages in docs/ run as they stand there."""

from __future__ import annotations

import ast
import json
import re
import subprocess
import sys
import urllib.request
from typing import Any

import pytest

import redis_stream_queue
from tests.guide.conftest import ROOT, Shell
from tests.guide.test_readme import FILE_NAME, blocks_of
from tests.support.servers import free_port
from tests.support.waiting import wait_until

DOCS = ROOT / "docs"
POPOTO = DOCS / "coming-from-popoto.md"


def program(page: str, name: str) -> str:
    """The text of one program of a page."""
    [text] = [b.text for b in blocks_of(DOCS / page) if b.text.startswith(f"# {name}\n")]
    return text


@pytest.fixture
def reader(shell: Shell, pool_url: str) -> Shell:
    """Somebody whose REDIS_URL leads to an empty server."""
    shell.environment["REDIS_URL"] = pool_url
    return shell


def test_popoto_page_does_the_same_in_three_ways(reader: Shell) -> None:
    """Each program handles what was added before it."""
    for block in blocks_of(POPOTO):
        if block.language == "python":
            reader.write(FILE_NAME.match(block.text)[1], block.text)

    said = [reader.run(b.text) for b in blocks_of(POPOTO) if b.language == "sh"]

    assert [sorted(re.findall(r"order (\S+)", text)) for text in said] == [
        ["a-1", "b-2", "c-3"]
    ] * 3


def test_plain_health_endpoint_answers(reader: Shell) -> None:
    """The state of the group and the counters of the consumers, beside a consumer that works."""
    reader.write("health_plain.py", program("health.md", "health_plain.py"))
    port = free_port()
    reader.environment["PORT"] = str(port)
    endpoint = subprocess.Popen(
        [sys.executable, "health_plain.py"], cwd=reader.directory, env=reader.environment
    )

    def ask() -> tuple[int, Any]:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}", timeout=5) as answer:
                return answer.status, json.load(answer)
        except OSError:  # it does not listen yet
            return 0, None

    def acked() -> bool:
        status, said = ask()
        return status == 200 and said["metrics"][0]["total_acked"] == 2

    try:
        reader.run("rsq push orders '{\"n\": 1}' '{\"n\": 2}'")
        wait_until(acked, 10, "both are done, and it says so")
    finally:
        endpoint.kill()
        endpoint.wait()


@pytest.mark.parametrize("name", ["health_fastapi.py", "health_django.py"])
def test_health_endpoints_of_frameworks_use_names_that_exist(name: str) -> None:
    """The frameworks are not installed here: the rest of it compiles and imports."""
    tree = ast.parse(program("health.md", name))
    ours = [
        alias.name
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and node.module == "redis_stream_queue"
        for alias in node.names
    ]
    assert ours
    assert [each for each in ours if not hasattr(redis_stream_queue, each)] == []
