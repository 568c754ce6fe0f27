"""Periodic messages and pools: each tick once, whoever dies, and a deploy that changes them."""

from __future__ import annotations

import signal
import time
from collections import Counter
from pathlib import Path

import redis

from tests.support.pool import PoolProcess
from tests.support.waiting import wait_until

APP = """
from redis_stream_queue import Every, per_message, stream_handler

@stream_handler("beats", group="g", periodic=[Every("beat", 0.1, {"code": CODE})])
@per_message
def handler(message):
    pass
"""


def ticks(server: redis.Redis) -> list[tuple[str, int, str]]:
    """Tick, how many it stands for, and payload of all that was pushed."""
    return [
        (f[b"rsq:tick"].decode(), int(f.get(b"rsq:missed", b"0")), f[b"data"].decode())
        for _, f in server.xrange("beats")
    ]


def test_each_tick_is_pushed_once_while_pools_die_and_code_changes(
    pool_url: str, tmp_path: Path
) -> None:
    places = [tmp_path / name for name in ("a", "b")]
    for place in places:
        place.mkdir()
    source = APP.replace("CODE", "1")
    args = ("--workers", "1")
    with (
        redis.Redis.from_url(pool_url) as server,
        PoolProcess(source, *args, url=pool_url, cwd=places[0]) as first,
    ):
        with PoolProcess(source, *args, url=pool_url, cwd=places[1]) as second:
            first.wait_ready()
            second.wait_ready()
            wait_until(lambda: len(ticks(server)) >= 5, 10, "some ticks")
            second.send(signal.SIGKILL)
            before = len(ticks(server))
            wait_until(lambda: len(ticks(server)) >= before + 3, 10, "the other one goes on")
        (places[0] / "app.py").write_text(APP.replace("CODE", "2"))
        first.send(signal.SIGHUP)
        wait_until(lambda: '{"code":2}' in ticks(server)[-1][2], 15, "the new code's payload")
        time.sleep(0.3)
        found = ticks(server)
        assert first.drain() == 0

    assert max(Counter(tick for tick, _, _ in found).values()) == 1
    codes = [payload for _, _, payload in found]
    assert codes == sorted(codes)  # nothing of the old code behind the new


def test_a_schedule_that_cannot_be_is_one_sentence(pool_url: str, tmp_path: Path) -> None:
    source = APP.replace('Every("beat", 0.1, {"code": CODE})', 'Every("beat", 1, "x" * 20_000)')
    with PoolProcess(source, "--workers", "1", url=pool_url, cwd=tmp_path) as pool:
        assert pool.wait() == 3
        assert "periodic message 'beat' has a payload" in pool.stderr
        assert "Traceback" not in pool.stderr
