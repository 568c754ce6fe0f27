"""The driver: ``scripts/bench [--rounds N] [--quick] [--json FILE] [NAME...]``."""

from __future__ import annotations

import os
import platform
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn

import click
import hiredis
import redis

from . import (
    backlog,
    boot_memory,
    compare,
    control,
    cpu,
    drain,
    latency,
    later,
    push,
    recovery,
    tasks,
)
from .bench import Bench
from .figures import Figure
from .server import BenchServer
from .table import table, write_json

Measure = Callable[[Bench], list[Figure]]

GROUPS: dict[str, Measure] = {
    "push": push.run,
    "drain": drain.run,
    "tasks": tasks.run,
    "cpu": cpu.run,
    "latency": latency.run,
    "later": later.run,
    "control": control.run,
    "recovery": recovery.run,
    "boot-memory": boot_memory.run,
    "backlog": backlog.run,
}
COMPARE = "compare"
ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
INTERRUPTED = 130


@click.command()
@click.argument("names", nargs=-1, type=click.Choice(list(GROUPS)))
@click.option("--rounds", type=click.IntRange(min=1), help="Of each figure.  [default: 5]")
@click.option("--quick", is_flag=True, help="Small sizes and one round: for trying out.")
@click.option(
    "--json",
    "json_file",
    type=click.Path(dir_okay=False, path_type=Path),
    default=Path("bench.json"),
    show_default=True,
    help="Where all values go.",
)
@click.option("--compare", "compared", is_flag=True, help="Celery, RQ, Dramatiq and 0.1.3, too.")
def main(
    names: Sequence[str], rounds: int | None, quick: bool, json_file: Path, compared: bool
) -> None:
    """Measure speed, latency, recovery, memory; print a table and write JSON.

    NAMEs: only these groups. Each figure stands beside what it is compared with, measured in the
    same run in turn; the ratio is the median of the rounds. Exit code 1 if something failed to
    run; goals that are missed do not count as that.
    """
    for number in ENDING:
        signal.signal(number, _interrupt)
    bench = Bench(Path(tempfile.mkdtemp(prefix="rsq-bench-")), rounds or (1 if quick else 5), quick)
    groups = {name: GROUPS[name] for name in names or ([] if compared else GROUPS)}
    if compared:
        groups[COMPARE] = compare.run
    try:
        sys.exit(_run(bench, groups, json_file))
    except KeyboardInterrupt:
        print("interrupted, all is stopped", file=sys.stderr)
        sys.exit(INTERRUPTED)
    finally:
        shutil.rmtree(bench.directory, ignore_errors=True)


def _interrupt(*_: object) -> NoReturn:
    """Stop everything once, and let no second Ctrl-C come in between."""
    for number in ENDING:
        signal.signal(number, signal.SIG_IGN)
    raise KeyboardInterrupt


def _run(bench: Bench, groups: dict[str, Measure], json_file: Path) -> int:
    about = _about(bench)
    figures: dict[str, list[Figure]] = {}
    failures: dict[str, str] = {}
    for name, measure in groups.items():
        bench.group = name
        try:
            figures[name] = measure(bench)
        except Exception as error:  # the other groups go on
            traceback.print_exc()
            failures[name] = f"{type(error).__name__}: {error}"
    write_json(json_file, about, figures, failures)
    print(", ".join(f"{key} {value}" for key, value in about.items() if key != "date"))
    print(table(figures))
    for name, why in failures.items():
        print(f"\n{name} failed to run: {why}")
    return 1 if failures else 0


def _about(bench: Bench) -> dict[str, Any]:
    with BenchServer() as server:
        version = server.version
    return {
        "date": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "cores": len(os.sched_getaffinity(0)),
        "python": platform.python_version(),
        "redis-py": redis.__version__,
        "hiredis": hiredis.__version__,
        "server": version,
        "rounds": bench.rounds,
        "quick": bench.quick,
    }


if __name__ == "__main__":
    main(prog_name="scripts/bench")
