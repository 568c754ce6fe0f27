"""Promise 8, no silent stop: a handler that runs for ever without a time limit is made known."""

from __future__ import annotations

import os
import re
import signal
from pathlib import Path

from tests.pool.scene import Scene
from tests.support.pool import ROOT

LIMIT_MS = 400
# Read by every interpreter at its start; the product's own limit is 10 minutes.
SHORTER = f"""
from redis_stream_queue.pool.master import health
health.LONG_HANDLER_MS = {LIMIT_MS}
"""


def test_a_long_handler_is_named_in_the_log_and_in_the_metrics(
    scene: Scene, tmp_path: Path
) -> None:
    """Once for each message, with its worker and for how long; a quick one is not named."""
    shorter = tmp_path / "shorter"
    shorter.mkdir()
    (shorter / "sitecustomize.py").write_text(SHORTER)
    env = {"PYTHONPATH": os.pathsep.join([str(shorter), str(ROOT)])}
    pool, trial = scene.pool(scene.server(), "--log-level", "debug", env=env)
    quick = trial.push()
    trial.wait_run(quick)
    long = [trial.push(s=2), trial.push(s=2)]
    pid = {entry_id: trial.wait_run(entry_id, "started").pid for entry_id in long}
    for entry_id in long:
        pool.wait_log(rf"WARNING .*pid={pid[entry_id]} has been handling message {entry_id} for")

    pool.send(signal.SIGUSR1)

    pool.wait_log(r"status: 2 workers \(2 busy\)")
    for entry_id in long:
        line = pool.wait_log(rf"WorkerMetrics\(slot=\d, pid={pid[entry_id]}, .*busy_ms=(\d+)")
        assert int(line[1]) > LIMIT_MS
    for entry_id in long:
        trial.wait_run(entry_id)
    assert len(re.findall("has been handling message", pool.stderr)) == len(long)
