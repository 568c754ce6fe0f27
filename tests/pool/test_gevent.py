"""An app that patches its process with gevent, in asyncio's loop and beside uvloop."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.extras import UVLOOP
from tests.support.ledger import SOURCE, Ledger
from tests.support.pool import PoolProcess

APP = (
    """
from gevent import monkey
monkey.patch_all()
"""
    + SOURCE
    + """
import sys, threading
import gevent

plain_note = note

def note(kind, message):
    assert ("uvloop" in sys.modules) == ("UVLOOP" in os.environ)
    assert monkey.is_module_patched("threading")
    plain_note(kind, message)

def finish(message):
    thread = threading.Thread(target=note, args=("ended", message))
    gevent.spawn(thread.start).join()
    thread.join()
"""
)


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
def test_an_app_of_gevent_handles_short_and_long_messages_once(
    pool_url: str, tmp_path: Path, ledger: Ledger, loop: str
) -> None:
    """A long one outlives its lease several times over; the drain waits for the last."""
    env = {"PYTHONPATH": str(UVLOOP), "UVLOOP": "1"} if loop == "uvloop" else {}
    args = ("--workers", "2", "--min-idle-claim-ms", "400")
    pool = PoolProcess(APP, *args, url=pool_url, cwd=tmp_path, env=env)
    with pool:
        pool.wait_ready()
        workers = pool.workers()
        ids = ledger.push(*({} for _ in range(50)), {"s": 1.5})
        ledger.wait_ended(51)
        ids += ledger.push({"s": 0.5})
        ledger.wait_started(52)
        assert pool.workers() == workers
        assert pool.drain() == 0
        assert ledger.executions() == dict.fromkeys(ids, 1)
        assert len(ledger.ended()) == 52
        assert ledger.pending() == 0
