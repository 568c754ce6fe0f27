"""Promises 1, 2, 3, 6 and 8 under random faults: nothing is lost, no innocent is buried, nothing
runs twice without a reason."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.leaks import child_processes_of_this_session
from tests.support.pool import plain_environment
from tests.support.waiting import wait_until

ROOT = Path(__file__).resolve().parents[2]
SEED = 20
DRAIN_S = 130  # the driver gives up sooner
CLEANUP_S = 60


@pytest.mark.long
@pytest.mark.timeout(240)
def test_thirty_seconds_of_chaos() -> None:
    """Two hosts, one Redis, and 30 s of faults."""
    _run(seconds=30, seed=SEED)


@pytest.mark.soak
@pytest.mark.timeout(900)
def test_ten_minutes_of_chaos() -> None:
    """The same for 600 s."""
    _run(seconds=600, seed=SEED + 1)


@pytest.mark.long
def test_an_interrupted_run_leaves_nothing_behind(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    """Ctrl-C in the midst of the storm: the driver says so, and no file and no process is left."""
    directory = tmp_path_factory.mktemp("c")  # short: a unix socket's path has to fit
    before = child_processes_of_this_session()  # servers that the tests share
    driver = _start("--seconds", "60", env={"TMPDIR": str(directory)})
    try:
        assert driver.stdout is not None
        driver.stdout.readline()
        with pytest.raises(subprocess.TimeoutExpired):
            driver.wait(timeout=6)
        driver.send_signal(signal.SIGINT)
        assert driver.wait(timeout=CLEANUP_S) == 130
    finally:
        _end(driver)
    assert list(directory.iterdir()) == []
    wait_until(
        lambda: not set(child_processes_of_this_session([directory])) - set(before),
        5,
        "all processes are gone",
    )


def _run(*, seconds: int, seed: int) -> None:
    driver = _start("--seconds", str(seconds), "--seed", str(seed))
    try:
        said, _ = driver.communicate(timeout=seconds + DRAIN_S)
    finally:
        _end(driver)
    print(said)
    assert driver.returncode == 0, said


def _start(*arguments: str, env: dict[str, str] | None = None) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "tests.chaos.run", *arguments],
        cwd=ROOT,
        env={**plain_environment(None), **(env or {})},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def _end(driver: subprocess.Popen[str]) -> None:
    """In good order, so that it ends what it has started."""
    if driver.poll() is None:
        os.kill(driver.pid, signal.SIGTERM)
        driver.wait(timeout=CLEANUP_S)
    if driver.stdout is not None:
        driver.stdout.close()
