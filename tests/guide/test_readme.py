"""The README does what it says: its programs and commands run here as they stand there.

Blocks marked ``python`` name their file in the first line; blocks marked ``sh`` are run; blocks
marked ``console``, ``toml`` or ``yaml`` are for other machines.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.guide.conftest import ROOT, Shell

README = (ROOT / "README.md").read_text()
FILE_NAME = re.compile(r"# (\w+\.py)\n")


@dataclass(frozen=True)
class Block:
    """One fenced block: the heading above it, its language, its text."""

    section: str
    language: str
    text: str


def blocks_of(page: Path) -> list[Block]:
    """The fenced blocks of a page, in their order."""
    found, section, language, lines = [], "", "", []
    for line in page.read_text().splitlines():
        if line.startswith("```"):
            if language:
                found.append(Block(section, language, "\n".join(lines) + "\n"))
                language = ""
            else:
                language, lines = line[3:], []
        elif language:
            lines.append(line)
        elif line.startswith("#"):
            section = line.lstrip("# ")
    return found


BLOCKS = blocks_of(ROOT / "README.md")


@pytest.fixture
def reader(shell: Shell) -> Shell:
    """Somebody who has copied all programs of the README."""
    for block in BLOCKS:
        if block.language == "python":
            shell.write(FILE_NAME.match(block.text)[1], block.text)
    return shell


def run_section(reader: Shell, section: str) -> str:
    """Run the commands of one section; returns what they said."""
    commands = [b.text for b in BLOCKS if b.section == section and b.language == "sh"]
    assert commands, f"no commands under {section!r}"
    return reader.run("\n".join(commands))


def test_the_first_run_handles_every_order(reader: Shell) -> None:
    """The commands of the first run, and those of streams, with their two files and no others."""
    for section in ("First run", "Streams"):
        said = run_section(reader, section)

        assert sorted(re.findall(r"order (\d)", said)) == ["0", "1", "2"]


def test_a_batch_handler_gets_lists(reader: Shell) -> None:
    """A handler without @per_message is called with a list."""
    said = run_section(reader, "Handlers")

    batches = re.findall(r"orders \[([\d, ]+)\]", said)
    assert sorted(", ".join(batches).split(", ")) == ["0", "1", "2"]


def test_a_handler_may_ask_for_another_delivery_or_reject(reader: Shell) -> None:
    """Retry delivers again, Reject makes a dead letter; --burst then exits with 1."""
    pay = (reader.directory / "push.py").read_text().replace("orders", "payments")
    reader.write(
        "pay.py", pay.replace('{"number": number}', '{"amount": number} if number else {}')
    )
    reader.run("python pay.py")

    said = reader.run("rsq-pool --url embedded://./data --burst retry:handle", exit_code=1)

    assert sorted(re.findall(r"paid (\d)", said)) == ["1", "2"]
    assert "no amount" in said


def test_a_shell_pushes_and_looks(reader: Shell) -> None:
    """rsq push makes a message that rsq stats counts and a pool handles."""
    said = run_section(reader, "From a shell")

    assert re.search(r"^length +1$", said, re.MULTILINE)
    assert "order 7" in reader.run("rsq-pool --url embedded://./data --burst app:handle")


def test_the_library_works_without_a_pool(reader: Shell) -> None:
    """An asyncio program produces and consumes by itself."""
    said = run_section(reader, "Async library")

    assert "mails to ['ada', 'grace']" in said
    assert "2 acknowledged" in said


def test_every_option_can_be_set_in_the_environment(reader: Shell) -> None:
    """RSQ_WORKERS=1 does what --workers 1 does."""
    said = reader.run(
        "python push.py; RSQ_WORKERS=1 RSQ_LOG_FORMAT=json "
        "rsq-pool --url embedded://./data --burst app:handle"
    )

    assert "with 1 worker(s)" in said
    assert '"level": "info"' in said


def test_no_example_is_left_out() -> None:
    """Every program names its file, and every command block is run above."""
    assert {b.language for b in BLOCKS} <= {"python", "sh", "console", "toml", "yaml"}
    assert all(FILE_NAME.match(b.text) for b in BLOCKS if b.language == "python")
    run_above = {"First run", "Streams", "Handlers", "From a shell", "Async library"}
    assert {b.section for b in BLOCKS if b.language == "sh"} == run_above


def test_its_commands_can_be_executed() -> None:
    for command in ("scripts/demo", "scripts/test"):
        assert command in README
        assert (ROOT / command).stat().st_mode & 0o111
