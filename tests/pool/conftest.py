"""Fixtures of the tests of pools: a ledger, pools on its server, and scenes with a server each."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.pool.scene import Scene
from tests.support.ledger import SOURCE, Ledger
from tests.support.pool import PoolProcess

StartPool = Callable[..., PoolProcess]


@pytest.fixture
def ledger(pool_url: str, tmp_path: Path) -> Iterator[Ledger]:
    """The ledger of pools that run in tmp_path."""
    made = Ledger(pool_url, tmp_path / "notes")
    yield made
    made.close()


@pytest.fixture
def start_pool(pool_url: str, tmp_path: Path) -> Iterator[StartPool]:
    """Start a pool on the app with modes; all of them are gone after the test."""
    with ExitStack() as stack:

        def start(*args: str, target: str = "app:handler", ready: bool = True) -> PoolProcess:
            pool = stack.enter_context(
                PoolProcess(SOURCE, *args, url=pool_url, cwd=tmp_path, target=target)
            )
            return pool.wait_ready() if ready else pool

        yield start


@pytest.fixture
def scene(tmp_path: Path, record_property: Callable[[str, object], None]) -> Iterator[Scene]:
    """Servers, proxies, pools and consumers of the test's own; all of them are gone after it."""
    with ExitStack() as stack:
        yield Scene(stack, tmp_path, record_property)


@pytest.fixture
def imported(
    pool_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[[str], Any]]:
    """Writes tasks_app.py for the pool, and imports it here."""
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("REDIS_URL", pool_url)

    def write(source: str) -> Any:
        (tmp_path / "tasks_app.py").write_text(source)
        return importlib.import_module("tasks_app")

    yield write
    sys.modules.pop("tasks_app", None)
