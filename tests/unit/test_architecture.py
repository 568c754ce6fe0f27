"""The rooms of the package, as docs/design.md shows them: what is where, and who imports whom."""

from __future__ import annotations

import ast
import graphlib
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = "redis_stream_queue"
MOST_LINES, MOST_LINES_OF_A_FUNCTION = 400, 60
# still to be split; whoever has split one takes it out of here
DESIGN = (ROOT / "docs" / "design.md").read_text()
SECTION = DESIGN.partition("## Where things are\n")[2].partition("\n## ")[0]
# what is pure neither talks to the world nor asks it for the time or for luck
WORLD = {
    *("asyncio", "click", "ctypes", "fcntl", "logging", "mmap", "multiprocessing", "os", "pathlib"),
    *("psutil", "random", "redis", "secrets", "select", "selectors", "signal", "socket", "ssl"),
    *("subprocess", "tempfile", "threading", "time"),
}


# -- docs/design.md --------------------------------------------------------------------------------


def tables() -> Iterator[list[list[str]]]:
    """Cells of each table of the section without code marks; the heading is the first row."""
    for table in re.findall(r"(?:^\|.*\n)+", SECTION, re.MULTILINE):
        lines = [line.strip().strip("|").replace("`", "") for line in table.splitlines()]
        yield [[c.strip() for c in x.split("|")] for x in lines if not x.startswith("---")]


(_, *_floors), *_rooms = tables()
FLOORS = [name.split(", ") for _, name in _floors]  # the uppermost first
DESCRIBED = {
    ("" if room == f"{PACKAGE}/" else room) + file: text
    for (room, _), *files in _rooms
    for file, text in files
}
PURE = sorted(file for file, text in DESCRIBED.items() if text.endswith("; pure"))


def floor(file: str) -> int:
    """0 is the uppermost floor."""
    named = [n for n, names in enumerate(FLOORS) if file in names]
    room = file[: file.rfind("/") + 1]
    found = named or [n for n, names in enumerate(FLOORS) if room in names]
    assert len(found) == 1, f"{file} is not on one floor of docs/design.md but on {len(found)}"
    return found[0]


# -- the tree --------------------------------------------------------------------------------------

SOURCES = {str(p.relative_to(ROOT / PACKAGE)): p for p in (ROOT / PACKAGE).rglob("*.py")}
DOORS = {file for file in SOURCES if Path(file).name == "__init__.py"}  # import for their users
TREES = {file: ast.parse(path.read_text()) for file, path in SOURCES.items()}


def file_of(parts: list[str]) -> str | None:
    """The file of a module of ours, given its dotted name in parts; None if there is none."""
    names = ("/".join([*parts, "__init__.py"]), "/".join(parts) + ".py")
    return next((name for name in names if name in SOURCES), None)


def imports(file: str) -> Iterator[str]:
    """Files of ours and modules of others that are imported there, also within functions."""
    for node in ast.walk(TREES[file]):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and not node.level:
            assert node.module
            yield node.module
        elif isinstance(node, ast.ImportFrom):
            above = file.split("/")[: -node.level]
            parts = [*above, *(node.module.split(".") if node.module else [])]
            for alias in node.names:
                target = file_of([*parts, alias.name]) or file_of(parts)
                assert target, f"{file} imports what is not there: {ast.unparse(node)}"
                yield target


OURS = {file: {name for name in imports(file) if name in SOURCES} for file in SOURCES}


def edges(source: str = "", target: str = "") -> set[tuple[str, str]]:
    """Imports of ours from files that begin with the one to files that begin with the other."""
    return {
        (file, name)
        for file, names in OURS.items()
        for name in names
        if file not in DOORS and file.startswith(source) and name.startswith(target)
    }


# -- tests -----------------------------------------------------------------------------------------


def test_the_tables_show_every_file_and_no_other() -> None:
    """Also each room, and each floor has something on it."""
    inside = {file for file in SOURCES if Path(file).name not in ("__init__.py", "__main__.py")}
    rooms = {room for (room, _), *_ in _rooms} - {f"{PACKAGE}/"}

    assert inside - set(DESCRIBED) == set(), "without a line in docs/design.md"
    assert sorted(DESCRIBED) == sorted(inside)
    assert rooms == {file[: file.rfind("/") + 1] for file in inside} - {""}
    assert {floor(file) for file in inside} == set(range(len(FLOORS)))
    assert [n for names in FLOORS for n in names if n not in rooms and n not in inside] == []


def test_no_import_goes_up() -> None:
    """Not even one within a function."""
    assert [(a, b) for a, b in sorted(edges()) if floor(b) < floor(a)] == []


def test_no_import_goes_in_a_circle() -> None:
    """Not even through a function."""
    graphlib.TopologicalSorter(OURS).prepare()  # raises CycleError, which shows the circle


def test_nobody_inside_goes_through_a_door() -> None:
    """What a room offers its users, others in the package import where it is."""
    assert [(a, b) for a, b in sorted(edges()) if b in DOORS] == []


def test_workers_and_master_know_nothing_of_each_other() -> None:
    """They share protocol, pipe and scoreboard."""
    assert edges("pool/worker/", "pool/master/") | edges("pool/master/", "pool/worker/") == set()


def test_only_rsq_pool_knows_the_pool() -> None:
    """Rsq runs where no pool can."""
    assert {file for file, _ in edges("", "pool/") if not file.startswith("pool/")} == {
        "cli/rsq_pool.py"
    }


@pytest.mark.parametrize("file", PURE)
def test_what_is_pure_does_no_io(file: str) -> None:
    """It imports nothing that talks to the world, nor another file that is not pure."""
    values = set(FLOORS[-1]) - {"_clock.py", "_lazy_timer.py", "_log.py"}
    others = set(imports(file)) - OURS[file]

    assert {name.partition(".")[0] for name in others} & WORLD == set()
    assert OURS[file] <= {*PURE, *values}


def test_a_file_that_says_it_is_pure_is_called_so() -> None:
    """And the other way round."""
    saying = [f for f, t in TREES.items() if re.search(r"\b[Pp]ure\b", ast.get_docstring(t) or "")]

    assert sorted(saying) == PURE


def test_no_module_and_no_function_is_too_long() -> None:
    modules = {f for f, p in SOURCES.items() if len(p.read_text().splitlines()) > MOST_LINES}
    functions = {
        f"{file}: {node.name}"
        for file, tree in TREES.items()
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and (node.end_lineno or 0) - node.lineno >= MOST_LINES_OF_A_FUNCTION
    }

    assert modules | functions == set()
