"""The programs in examples/ run as they are."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
from pathlib import Path

import psutil
import pytest

from tests.guide.conftest import ROOT, Shell
from tests.support.waiting import wait_until

SHOP = ROOT / "examples" / "shop"
CODE_METRICS = ROOT / "examples" / "code_metrics"
POOL_AND_REPORT = "rsq-pool --burst app:handle; python report.py"

TWISTED = """
import os, json


class Knot:
    def tie(self, a, b):
        if a and b:
            return [x for x in a if x]
        def inner():
            while a:
                pass
        return inner
"""


def test_code_metrics_measures_every_file(shell: Shell, tmp_path: Path) -> None:
    """One message per file: measured, or reported as unparsable, and all acknowledged."""
    sources = tmp_path / "sources"
    sources.mkdir()
    (sources / "twisted.py").write_text(TWISTED)
    (sources / "python2.py").write_text("print 'hello'\n")
    (sources / "zeros.py").write_bytes(b"\0\0")
    for number in range(30):
        (sources / f"plain{number}.py").write_text(f"def f{number}():\n    pass\n")
    shell.environment["REDIS_URL"] = f"embedded://{shell.directory}/data"

    said = shell.run(f"cd {CODE_METRICS}; python push.py {sources}; {POOL_AND_REPORT}")

    assert "         5  Knot.tie  (sources/twisted.py:6)" in said
    assert "         2  Knot.tie.inner  (sources/twisted.py:9)" in said
    assert "files         33, unparsable 2" in said
    assert "functions     32" in said
    assert "acknowledged  33 of 33 messages, dead letters 0" in said


@pytest.mark.long
def test_code_metrics_says_when_files_are_missing(shell: Shell, tmp_path: Path) -> None:
    """The report fails, in a sentence, while not everything is handled."""
    (tmp_path / "one.py").write_text("")
    shell.environment["REDIS_URL"] = f"embedded://{shell.directory}/data"
    push = f"cd {CODE_METRICS}; python push.py {tmp_path}"

    assert "Nothing was handled yet" in shell.run(f"{push}; python report.py", exit_code=1)

    shell.run(f"cd {CODE_METRICS}; {POOL_AND_REPORT}")
    (tmp_path / "gone.py").write_text("")
    shell.run(push)
    (tmp_path / "gone.py").unlink()
    shell.run(f"cd {CODE_METRICS}; rsq-pool --burst --max-deliveries 1 app:handle", exit_code=1)
    said = shell.run(f"cd {CODE_METRICS}; python report.py", exit_code=1)
    assert "dead letters 1" in said
    assert "The counts do not match" in said


def test_basic_worker_handles_all_but_the_bad_order(shell: Shell) -> None:
    """One program pushes, handles, gives one up and watches; then it ends by itself."""
    said = shell.run(f"python {ROOT / 'examples' / 'basic_worker.py'}")

    assert "pushed 20 in all" in said
    assert "given up: order 19 (max_deliveries, 3 deliveries)" in said
    assert re.search(r"waiting 0, pending 0, done 19, dead 1, \d+/s\nhealthy: True \[\]", said)


def test_the_tests_of_the_shop_pass(shell: Shell) -> None:
    """In a copy, as in a project of somebody's own: pages and tasks, without a server. The settings
    of a checkout around it do not count, and its tasks are listed as they are written."""
    shutil.copytree(SHOP, shell.directory / "shop")
    shell.write("pytest.ini", "[pytest]\naddopts = --not-here\n")

    assert "6 passed" in shell.run("cd shop; python -m pytest -q -p no:cacheprovider")
    listed = shell.run("cd shop; rsq task list tasks:queue")
    assert "(to: str, subject: str, body: str = '') -> None\n" in listed


def test_ctrl_c_leaves_no_process_of_the_demo(shell: Shell, tmp_path: Path) -> None:
    """scripts/demo, interrupted while the pool works: exit code 130, pool and server are gone."""
    output = tmp_path / "output"
    shell.environment |= {"TMPDIR": str(tmp_path), "RSQ_DEMO_TEST": str(tmp_path)}
    with output.open("w") as file:
        demo = subprocess.Popen(
            ["python", "demo.py"],
            cwd=CODE_METRICS,
            env=shell.environment,
            stdout=file,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        wait_until(lambda: "rsq-worker-0" in of_this_demo(tmp_path), 30, "the pool works")
        os.killpg(demo.pid, signal.SIGINT)
        assert demo.wait(30) == 130, output.read_text()
        wait_until(lambda: not of_this_demo(tmp_path), 5, "nothing is left")
        assert not list(tmp_path.glob("rsq-embedded-*"))
    finally:
        demo.kill()
        demo.wait()


def of_this_demo(mark: Path) -> list[str]:
    """Its living processes: the demo, the master, the template, workers, the server."""
    found = []
    for process in psutil.process_iter():
        try:
            ours = process.environ().get("RSQ_DEMO_TEST") == str(mark)
            if process.status() != psutil.STATUS_ZOMBIE and (
                ours or str(mark) in " ".join(process.cmdline())
            ):
                found.append(process.name())
        except psutil.Error:
            continue
    return found
