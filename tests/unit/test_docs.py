"""The tables in README.md and docs/ say what the code does."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest
from click.testing import CliRunner

from redis_stream_queue import _exits
from redis_stream_queue.cli.rsq_pool import main
from redis_stream_queue.delivery import fate
from redis_stream_queue.pool.master import states
from redis_stream_queue.pool.master.states import MOVES, WorkerState
from scripts import options_table

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
README = ROOT / "README.md"
PAGES = [*ROOT.glob("*.md"), *DOCS.rglob("*.md"), *ROOT.glob("examples/*/*.md")]
LINK = re.compile(r"\]\((?!https?:)([^)#\s]*)(#([^)\s]*))?\)")
OPTION = re.compile(r"^  (--[\w-]+)(.*?)(?=^  --|\Z)", re.MULTILINE | re.DOTALL)
DEFAULT = re.compile(r"\[default: ((?:\([^)]*\)|[^\];])+)")


def rows(page: Path, heading: str) -> list[list[str]]:
    """Cells of the table whose first line begins with ``heading``, without code marks."""
    lines = page.read_text().splitlines()
    start = next(i for i, line in enumerate(lines) if line.startswith(f"| {heading} |"))
    found = []
    for line in lines[start + 2 :]:
        if not line.startswith("|"):
            break
        found.append([cell.strip().replace("`", "") for cell in line.strip("|").split("|")])
    return found


def table_lines(text: str) -> list[str]:
    return [line for line in text.splitlines() if line.startswith("|")]


def help_text() -> str:
    """What rsq-pool --help shows."""
    return CliRunner().invoke(main, ["--help"]).output


# -- docs/states.md --------------------------------------------------------------------------------


def test_states_page_has_every_state_and_its_moves() -> None:
    """The table lists the states in their order, each with the moves that are legal."""
    table = {
        state: set(filter(None, nexts.split(", ")))
        for state, _, nexts in rows(DOCS / "states.md", "state")
    }

    assert table == {s.name: {n.name for n in nexts} for s, nexts in MOVES.items()}
    assert list(table) == [state.name for state in WorkerState]


def test_states_page_shows_the_same_picture() -> None:
    """The picture is the one in states.py."""
    drawn = [line.strip() for line in (states.__doc__ or "").splitlines() if "─" in line]

    assert [
        line.strip() for line in (DOCS / "states.md").read_text().splitlines() if "─" in line
    ] == drawn


# -- docs/recovery.md ------------------------------------------------------------------------------


def test_recovery_page_has_the_table_of_fate() -> None:
    """The first table is the one on top of fate.py, word for word."""
    table = table_lines(fate.__doc__ or "")

    assert table
    assert table_lines((DOCS / "recovery.md").read_text())[: len(table)] == table


def test_recovery_page_explains_every_fate() -> None:
    """Each fate has a line that says what it means."""
    explained = re.findall(r"^- \*\*(\w+)\*\*", (DOCS / "recovery.md").read_text(), re.MULTILINE)

    assert sorted(explained) == sorted(f.name for f in fate.Fate)


# -- docs/operations.md ----------------------------------------------------------------------------


def test_operations_page_has_every_finding() -> None:
    """Of rsq doctor, by its name."""
    sources = "".join(path.read_text() for path in (ROOT / "redis_stream_queue").rglob("*.py"))
    names = re.findall(r'\bFinding\(\s*"(\w+)"', sources)
    listed = [
        name for cell, _ in rows(DOCS / "operations.md", "finding") for name in cell.split(", ")
    ]

    assert sorted(listed) == sorted(names)


# -- options ---------------------------------------------------------------------------------------


def test_readme_has_the_table_of_options() -> None:
    """As scripts/docs writes it: what --help shows, but --version and --help."""
    assert options_table.made() in README.read_text()
    shown = re.findall(r"^  (--[\w-]+)", help_text(), re.MULTILINE)
    assert [name for name, *_ in rows(README, "option")] == shown[:-2]


def test_help_and_table_give_the_same_defaults() -> None:
    """Every one that --help shows; an option without one is off or none."""
    shown = dict.fromkeys((name for name, *_ in rows(README, "option")), "")
    for name, rest in OPTION.findall(help_text().partition("Options:\n")[2]):
        if default := DEFAULT.search(" ".join(rest.split())):
            shown[name] = default[1].strip(' ()"')
    for name, default, _ in rows(README, "option"):
        if default not in ("off", "none"):
            assert default == shown[name].removesuffix(".0"), name
        else:
            assert shown[name] in ("", "none"), name


# -- exit codes and signals ------------------------------------------------------------------------


@pytest.mark.parametrize("page", [README, DOCS / "signals.md"], ids=lambda page: page.name)
def test_exit_codes_are_all_there(page: Path) -> None:
    """One line for each exit code."""
    codes = {value for value in vars(_exits).values() if isinstance(value, int)}

    assert {int(code) for code, _ in rows(page, "code")} == codes


@pytest.mark.parametrize("name", ["TERM", "INT", "QUIT", "USR1"])
def test_signals_are_all_there(name: str) -> None:
    """What --help names, both pages explain."""
    assert name in CliRunner().invoke(main, ["--help"]).output
    for page, heading in ((README, "signal to the master"), (DOCS / "signals.md", "signal")):
        assert any(name in row[0] for row in rows(page, heading)), page.name


# -- links -----------------------------------------------------------------------------------------


def anchors(page: Path) -> set[str]:
    """What a link into a page can name: its headings."""
    headings = re.findall(r"^#+ (.+)", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", h).strip().lower().replace(" ", "-") for h in headings}


def test_every_link_leads_somewhere() -> None:
    """To a file, and to a heading in it."""
    dead = []
    for page in PAGES:
        for target, _, anchor in LINK.findall(page.read_text()):
            found = page.parent / target if target else page
            if not found.exists() or (anchor and anchor not in anchors(found)):
                dead.append(f"{page.relative_to(ROOT)}: {target}#{anchor}")

    assert dead == []


def test_the_readme_names_every_extra() -> None:
    install = README.read_text().partition("## Install\n")[2].partition("\n## ")[0]
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]

    missing = {*extras["optional-dependencies"]} - set(re.findall(r"`(\w+)`", install))
    assert missing == {"dev", "msgpack"}  # ours, and one that is always installed


def test_the_readme_lists_every_page() -> None:
    listed = README.read_text().partition("## Documentation\n")[2].partition("\n## ")[0]

    assert {p.name for p in DOCS.glob("*.md")} <= {Path(t).name for t, *_ in LINK.findall(listed)}


# -- pictures --------------------------------------------------------------------------------------


def test_pictures_hold_no_semicolon() -> None:
    """It ends a statement of Mermaid, wherever it stands."""
    pages = {page.name: page.read_text() for page in DOCS.rglob("*.md")}
    pictures = [
        (name, picture)
        for name, text in pages.items()
        for picture in re.findall(r"^```mermaid\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    ]

    assert pictures
    assert [name for name, picture in pictures if ";" in picture] == []
