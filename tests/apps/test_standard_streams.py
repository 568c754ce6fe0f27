"""A pool that is started without standard streams, with an odd environment, on an odd host."""

from __future__ import annotations

from typing import Any

import pytest

APP = """
@handled
@per_message
def handler(message):
    subprocess.run(["sh", "-c", "read line; echo to stdout; echo to stderr >&2"])
    print("printed")
    print("printed", file=sys.stderr)
    note("fds", [os.path.basename(os.readlink(f"/proc/self/fd/{n}")) for n in (0, 1, 2)])
"""


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&-", ">&- 2>&-", "<&- >&- 2>&-"])
def test_closed_standard_streams_are_dev_null(scene: Any, closed: str) -> None:
    """In every process: no file of ours gets their numbers, and nobody fails at printing."""
    pool = scene.start(APP, ready=False, shell=closed)
    scene.push({}, {})
    notes = scene.wait_notes("fds", 2)
    names = ["null", pool.stdout_name, pool.stderr_name]
    wanted = [
        "null" if mark in closed.split() else name
        for name, mark in zip(names, ("<&-", ">&-", "2>&-"), strict=True)
    ]
    assert notes == 2 * [f"fds {wanted}"]
    assert pool.drain() == 0
    assert "Traceback" not in pool.stderr + pool.stdout


UNKNOWN = {
    "RSQ_WORKER": "did you mean RSQ_WORKERS",
    "RSQ_GRACEFULL_TIMEOUT": "did you mean RSQ_GRACEFUL_TIMEOUT",
    "RSQ_ZZZ": "--help names the options",
}


def test_a_variable_that_is_no_setting_is_named(scene: Any) -> None:
    """With the one that may have been meant; settings that are one are not."""
    env = {**dict.fromkeys(UNKNOWN, "1"), "RSQ_LOG_LEVEL": "info", "RSQ_BATCH_SIZE": "auto"}
    pool = scene.start(APP, env=env)
    for name, hint in UNKNOWN.items():
        assert f"the environment variable {name} is no setting of rsq-pool" in pool.stderr
        assert hint in pool.stderr
    assert pool.stderr.count("is no setting") == len(UNKNOWN)
