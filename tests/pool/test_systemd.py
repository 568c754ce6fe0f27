"""The shipped unit under a real systemd; as root: ``pytest -m soak tests/pool/test_systemd.py``."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from click.testing import CliRunner

from redis_stream_queue.cli.rsq import main as rsq
from tests.support.ledger import SOURCE, Ledger
from tests.support.servers import Server
from tests.support.systemd import PACKAGES, PYTHON, REPOSITORY, Systemd
from tests.support.waiting import wait_until

UNIT = "shop.service"
NOTES = "/var/lib/rsq-pool/shop/notes"
FASTER = f"""
[Service]
ExecStart=
ExecStart={PYTHON} -m redis_stream_queue.cli.rsq_pool --workers 3 app:handler
Environment=LD_LIBRARY_PATH=/opt/python/lib PYTHONPATH={REPOSITORY}:{PACKAGES}
Environment=PYTHONDONTWRITEBYTECODE=1 RSQ_TEST_NOTES={NOTES}
WatchdogSec=2
RestartSec=0.2
TimeoutStopSec=2
StandardOutput=null
StandardError=append:/run/shop.log
"""


class Inside(Ledger):
    """The ledger of a pool in there."""

    def __init__(self, url: str, file: Path, inside: Systemd) -> None:
        super().__init__(url, file)
        self._inside, self._copy = inside, file

    def look(self) -> Inside:
        self._copy.write_text(self._inside.run("cat", NOTES, check=False))
        return self

    @contextmanager
    def load(self) -> Iterator[list[str]]:
        """Messages of 20 ms, pushed all the time."""
        ids: list[str] = []
        over = threading.Event()

        def push() -> None:
            while not over.wait(0.02):
                ids.extend(self.push({"s": 0.02}, {"s": 0.02}))

        feeder = threading.Thread(target=push)
        feeder.start()
        try:
            yield ids
        finally:
            over.set()
            feeder.join()


def reloads(inside: Systemd) -> int:
    return inside.run("cat", "/run/shop.log").count("all workers have been replaced")


def workers(inside: Systemd) -> list[str]:
    return inside.run("pgrep", "rsq-worker", check=False).split()


@pytest.mark.soak
def test_started_reloaded_killed_stopped_and_nothing_is_lost(tmp_path: Path) -> None:
    """Ready, fresh code under load, code that does not start, a worker killed, the master stopped
    and started again by the watchdog, a drain longer than TimeoutStopSec: nothing is lost, and
    nothing runs twice but what was killed."""
    made = CliRunner().invoke(
        rsq, ["systemd", "app:handler", "--directory", "/srv/shop", "--name", "shop"]
    )
    units = {UNIT: made.output, f"{UNIT}.d/faster.conf": FASTER}
    with Server.start("valkey-9.1", tcp=True) as server, Systemd(units) as inside:
        ledger = Inside(server.url, tmp_path / "notes", inside)
        inside.write("/etc/rsq/shop.env", f"REDIS_URL={server.url}\n")
        inside.write("/srv/shop/app.py", SOURCE)
        inside.run("systemctl", "start", UNIT)
        assert inside.shown(UNIT, "ActiveState") == "active"
        assert len(workers(inside)) == 3

        with ledger.load() as ids:
            inside.write("/srv/shop/app.py", SOURCE.replace('note("ended"', 'note("renewed"'))
            inside.run("systemctl", "reload", UNIT)
            wait_until(lambda: ledger.look().notes.of("renewed"), 20, "the new code runs")
            wait_until(lambda: reloads(inside) == 1, 20, "all have been replaced")
            before = workers(inside)
            inside.write("/srv/shop/app.py", "import no_such_thing\n")
            inside.run("systemctl", "reload", UNIT)
            wait_until(
                lambda: "reload failed" in inside.shown(UNIT, "StatusText"), 20, "it is said why"
            )
            assert "No module named 'no_such_thing'" in inside.shown(UNIT, "StatusText")
            wait_until(lambda: len(workers(inside)) == 3, 10, "the old ones stay")
            assert set(workers(inside)) & set(before)
            inside.write("/srv/shop/app.py", SOURCE)
            killed = {workers(inside)[0]}
            inside.run("kill", "-KILL", *killed)
            wait_until(lambda: len(workers(inside)) == 3, 20, "it is replaced")
            master = inside.shown(UNIT, "MainPID")
            killed.update(workers(inside))
            inside.run("kill", f"-{signal.SIGSTOP:d}", master)
            wait_until(
                lambda: inside.shown(UNIT, "MainPID") not in ("0", master),
                20,
                "another master",
            )
            wait_until(lambda: inside.shown(UNIT, "ActiveState") == "active", 20, "it is ready")
            assert inside.shown(UNIT, "NRestarts") == "1"
        ledger.wait(lambda: ledger.is_settled(ids), "all is handled", 60)

        long = ledger.push({"s": 4.0})[0]
        wait_until(lambda: ledger.look().executions()[long], 10, "a long message runs")
        inside.run("systemctl", "stop", UNIT)
        assert inside.shown(UNIT, "Result") == "success", inside.says
        done = {note.id for note in [*ledger.look().ended(), *ledger.notes.of("renewed")]}
        assert not ledger.letters()
        assert done == {*ids, long}
        runs: dict[str, list[str]] = {}
        for note in ledger.started():
            runs.setdefault(note.id, []).append(str(note.pid))
        assert {pid for pids in runs.values() for pid in pids[:-1]} <= killed
        ledger.close()
