"""The programs and commands on the pages in docs/ run as they stand there."""

from __future__ import annotations

import re

import pytest

from tests.guide.conftest import ROOT, Shell
from tests.guide.test_readme import FILE_NAME, blocks_of

DOCS = ROOT / "docs"
POPOTO = DOCS / "coming-from-popoto.md"


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
