"""What is imported when it is asked for: names of the package, subcommands of rsq."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import redis_stream_queue
from redis_stream_queue.cli.rsq import COMMANDS, load
from tests.support.pool import plain_environment

PACKAGE = Path(redis_stream_queue.__file__)


def test_a_name_comes_from_where_type_checkers_are_told() -> None:
    told = {
        alias.name: node.module
        for node in ast.walk(ast.parse(PACKAGE.read_text()))
        if isinstance(node, ast.ImportFrom) and node.level
        for alias in node.names
    }

    assert told == redis_stream_queue._HOME
    assert sorted(told) == sorted(redis_stream_queue.__all__)
    for name in told:
        assert getattr(redis_stream_queue, name)
    shown = {name for name in dir(redis_stream_queue) if not name.startswith("__")}
    assert {*told, "client"} <= shown
    assert shown - {*told} == {m for m in redis_stream_queue._MODULES if "." not in m}


def test_what_is_not_there_is_no_attribute() -> None:
    with pytest.raises(AttributeError, match="has no attribute 'StreamConsumr'"):
        redis_stream_queue.StreamConsumr  # noqa: B018


def test_a_module_is_an_attribute_without_an_import_of_its_own() -> None:
    """As it was when the package imported them all."""
    run = "import redis_stream_queue as r; print(r.retry.RetryHandler, r.client.StreamClient)"
    assert b"StreamClient" in subprocess.check_output(
        [sys.executable, "-c", run], env=plain_environment(None)
    )


@pytest.mark.parametrize("command", sorted(COMMANDS))
def test_each_subcommand_is_there(command: str) -> None:
    assert load(command).name == command


@pytest.mark.parametrize("args", [["--help"], ["completion", "bash"], ["psh"]])
def test_what_needs_no_redis_loads_none(args: list[str]) -> None:
    """A shell waits for it at each TAB."""
    run = f"""
import atexit, sys
from redis_stream_queue.cli.rsq import main
atexit.register(lambda: print("loaded:", *{{"asyncio", "redis"}} & {{*sys.modules}}))
main({args}, prog_name="rsq")
"""
    done = subprocess.run(
        [sys.executable, "-c", run], env=plain_environment(None), capture_output=True, text=True
    )
    assert done.stdout.endswith("loaded:\n"), done
