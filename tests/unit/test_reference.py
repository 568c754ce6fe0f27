"""The reference pages have every public name, and a name without its docstring stops them."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pdoc.doc
import pytest

import redis_stream_queue
from redis_stream_queue import pool
from scripts import reference

ROOT = Path(__file__).resolve().parents[2]


def test_every_public_name_has_its_place(tmp_path: Path) -> None:
    """Built as in CI, warnings are errors; lines about parameters are a list."""
    subprocess.run(
        [sys.executable, "-W", "error", ROOT / "scripts" / "reference.py", tmp_path],
        check=True,
        cwd=ROOT,
    )

    for module in (redis_stream_queue, pool):
        page = (tmp_path / f"{module.__name__.replace('.', '/')}.html").read_text()
        assert [name for name in module.__all__ if f'id="{name}"' not in page] == []
    page = (tmp_path / "redis_stream_queue.html").read_text()
    assert re.search(r"<li><code>.*max_deliveries</a></code>: deliveries before", page)
    assert re.search(r"<td><code>.*total_acked.*</code></td>\s*<td>messages</td>", page)


THINGS = '''
class Bare:
    def __init__(self, size_mb: int) -> None: ...

    def shrink(self) -> None: ...


class Shy:
    """A thing."""

    def __init__(self, size_mb: int) -> None: ...

    def grow(self, by_mb: int) -> None:
        """Grow."""
'''


def test_what_is_missing_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A class or method without a docstring, a parameter without a word."""
    name = "redis_stream_queue_things"
    (tmp_path / f"{name}.py").write_text(THINGS)
    monkeypatch.syspath_prepend(tmp_path)

    assert set(reference.faults(pdoc.doc.Module.from_name(name))) == {
        f"{name}.Bare has no docstring",
        f"{name}.Bare.shrink has no docstring",
        f"the docstring of {name}.Bare does not mention size_mb",
        f"the docstring of {name}.Shy does not mention size_mb",
        f"the docstring of {name}.Shy.grow does not mention by_mb",
    }
