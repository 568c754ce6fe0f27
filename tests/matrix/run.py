"""The library's tests, faults included, against other servers and redis-pys: scripts/test --matrix.

One row after the other: each server, once as it is and once with ``?protocol=3``, with the newest
redis-py; then each redis-py with one server, and the oldest version of everything that
pyproject.toml allows.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import time
import tomllib
from dataclasses import dataclass
from pathlib import Path

from tests.support.binaries import ServerMissing, server_binary

SERVERS = ("redis-6.2", "redis-7.0", "redis-7.4", "redis-8.2", "valkey-8.1", "valkey-9.1")
REDIS_PYS = ("6.4.0", "7.0.1", "7.1.1", "7.2.2", "7.3.1", "7.4.1", "8.0.1")
TESTS = "tests/library"
# redis-py 7.2 to 7.4 warns of what its own RedisCluster passes to its connections
IGNORED = "ignore:Call to '__init__' function with deprecated usage:DeprecationWarning"
LOWEST = "lowest"
COUNTS = re.compile(r"(\d+) (passed|failed|errors?)")


@dataclass(frozen=True)
class Row:
    """client: a version of redis-py, or LOWEST, of all that the package needs; "" is what is
    installed. protocol: of RESP, as in a URL."""

    server: str
    protocol: int = 2
    client: str = ""

    @property
    def name(self) -> str:
        client = self.client and f" redis-py-{self.client}".replace(f"redis-py-{LOWEST}", LOWEST)
        return f"{self.server} resp{self.protocol}{client}"

    @property
    def packages(self) -> list[str]:
        """What to install before what the environment has."""
        if self.client != LOWEST:
            return [f"redis=={self.client}"] if self.client else []
        project = tomllib.loads(Path("pyproject.toml").read_text())["project"]
        bounds = [re.match(r"([\w-]+)(?:\[.*\])?>=([\d.]+)", d) for d in project["dependencies"]]
        return [f"{bound[1]}=={bound[2]}" for bound in bounds if bound]


ROWS = [
    *(Row(server, protocol) for server in SERVERS for protocol in (2, 3)),
    *(Row("valkey-9.1", client=version) for version in (*REDIS_PYS, LOWEST)),
]


def environment(row: Row) -> dict[str, str]:
    """With other packages before those of the environment, which stays as it is."""
    env = {**os.environ, "RSQ_TEST_SERVERS": row.server}
    if row.protocol != 2:
        env["RSQ_TEST_URL_QUERY"] = f"?protocol={row.protocol}"
    if row.packages:
        place = Path(sys.prefix, "matrix", "_".join(row.packages))
        if not (place / "redis").is_dir():
            command = [sys.executable, "-m", "pip", "--disable-pip-version-check", "install", "-q"]
            command += ["--no-deps", "--target", str(place), *row.packages]
            subprocess.run(command, check=True)
        env["PYTHONPATH"] = os.pathsep.join(filter(None, [str(place), env.get("PYTHONPATH")]))
    return env


def run(row: Row, pytest_args: list[str]) -> tuple[bool, str]:
    """Is it green, and its line of the table."""
    print(f"== {row.name}", flush=True)
    began_s = time.monotonic()
    try:
        server_binary(row.server)
    except ServerMissing as missing:
        return False, f"{row.name:<36} not run: {missing}"
    command = [sys.executable, "-m", "pytest", "-q", "-n", "4", "--dist", "loadfile"]
    command += ["-W", IGNORED, "-k", "not fakeredis", *(pytest_args or [TESTS])]
    output: list[str] = []
    with subprocess.Popen(
        command, env=environment(row), stdout=subprocess.PIPE, text=True, errors="replace"
    ) as tests:
        assert tests.stdout is not None
        for line in tests.stdout:
            output.append(line)
            print(line, end="", flush=True)
    counts = {what.rstrip("s"): number for number, what in COUNTS.findall(output[-1])}
    passed = counts.get("passed", "0")
    bad = " ".join(f"{counts[what]} {what}" for what in ("failed", "error") if what in counts)
    if tests.returncode and not bad:
        bad = f"pytest ended with {tests.returncode}"
    took_s = time.monotonic() - began_s
    verdict = bad or "green"
    return tests.returncode == 0, f"{row.name:<36} {passed:>5} passed  {verdict}  {took_s:.0f} s"


def main() -> int:
    parser = argparse.ArgumentParser(prog="scripts/test --matrix", description=__doc__)
    parser.add_argument("--row", default="", metavar="TEXT", help="only rows with this in the name")
    parser.add_argument("--list", action="store_true", help="print the names of the rows")
    options, pytest_args = parser.parse_known_args()
    rows = [row for row in ROWS if options.row == row.name]
    rows = rows or [row for row in ROWS if options.row in row.name]
    if not rows:
        parser.error(f"no row has {options.row!r} in its name; --list prints them")
    if options.list:
        print("\n".join(row.name for row in rows))
        return 0
    results = [run(row, pytest_args) for row in rows]
    print("\n" + "\n".join(line for _, line in results))
    return 0 if all(green for green, _ in results) else 1


if __name__ == "__main__":
    sys.exit(main())
