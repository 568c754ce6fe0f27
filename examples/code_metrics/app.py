"""The handler: measure one Python file per message, and keep the result in Redis."""

from __future__ import annotations

import ast
import functools
import json
import os
import time
import warnings
from pathlib import Path
from typing import Any

import redis

from redis_stream_queue import StreamMessage, per_message, stream_handler
from redis_stream_queue.embedded import start_or_join

URL = os.environ.get("REDIS_URL", "redis://localhost:6379/0")
STREAM = "code_metrics"
RESULTS = "code_metrics:results"  # hash: path of a file -> its measures as JSON
KEPT = 10  # functions per file: enough for a list of the ten most complex of all

BRANCHES = (ast.If, ast.IfExp, ast.For, ast.AsyncFor, ast.While, ast.ExceptHandler, ast.match_case)
SCOPES = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)


@stream_handler(STREAM)
@per_message
def handle(message: StreamMessage) -> None:
    path = message.data["path"]
    measures = measure(Path(path).read_bytes())
    # The same file twice overwrites itself: a second delivery does no harm.
    result = {**measures, "worker": os.getpid(), "at": time.time()}
    connect().hset(RESULTS, path, json.dumps(result))


@functools.cache
def connect() -> redis.Redis:
    """This process's client, made at its first use and so after the fork."""
    if URL.startswith("embedded://"):
        server = start_or_join(URL.removeprefix("embedded://"))
        return redis.Redis(unix_socket_path=server.socket_path, decode_responses=True)
    return redis.Redis.from_url(URL, decode_responses=True)


def measure(source: bytes) -> dict[str, Any]:
    """Size, functions with their complexity, classes and imports of one file."""
    size = {"bytes": len(source), "lines": len(source.splitlines())}
    try:
        with warnings.catch_warnings(action="ignore"):
            tree = ast.parse(source)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        return {**size, "unparsable": f"{type(error).__name__}: {error}"}
    functions, classes, imports = look_at(tree)
    ranking = sorted(functions, key=lambda function: -function["complexity"])
    return {
        **size,
        "functions": len(functions),
        "classes": classes,
        "imports": sorted(imports),
        "most_complex": ranking[:KEPT],
    }


def look_at(tree: ast.AST) -> tuple[list[dict[str, Any]], int, set[str]]:
    """Functions, number of classes and imported modules.

    The cyclomatic complexity of a function is 1 + its branches; one that is defined inside
    another counts for itself.
    """
    functions: list[dict[str, Any]] = []
    classes, imports = 0, set()
    stack: list[tuple[ast.AST, str, dict[str, Any]]] = [(tree, "", {"complexity": 0})]
    while stack:
        node, scope, function = stack.pop()
        if isinstance(node, SCOPES):
            scope = f"{scope}.{node.name}".lstrip(".")
            if isinstance(node, ast.ClassDef):
                classes += 1
            else:
                function = {"name": scope, "line": node.lineno, "complexity": 1}
                functions.append(function)
        elif isinstance(node, ast.Import):
            imports |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            imports.add("." * node.level + (node.module or ""))
        function["complexity"] += branches(node)
        stack += [(child, scope, function) for child in ast.iter_child_nodes(node)]
    return functions, classes, imports


def branches(node: ast.AST) -> int:
    """How many more ways the code can go because of this node."""
    if isinstance(node, ast.BoolOp):
        return len(node.values) - 1
    if isinstance(node, ast.comprehension):
        return 1 + len(node.ifs)
    return int(isinstance(node, BRANCHES))
