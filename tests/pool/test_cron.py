"""Periodic messages and pools: each tick once, whoever dies, and a deploy that changes them."""

from __future__ import annotations

import signal
import time
from collections import Counter
from datetime import datetime
from pathlib import Path

import redis

from tests.support.pool import PoolProcess
from tests.support.waiting import wait_until
from tests.support.wrong_clock import wrong_clock

APP = """
from redis_stream_queue import Every, per_message, stream_handler

@stream_handler("beats", group="g", periodic=[Every("beat", SECONDS, {"code": CODE})])
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
    """The clocks of their hosts are wrong, and the new code has other times."""
    places = [tmp_path / name for name in ("a", "b")]
    for place in places:
        place.mkdir()
    source = APP.replace("CODE", "1").replace("SECONDS", "0.1")

    def host(number: int, shift_s: int) -> PoolProcess:
        env = wrong_clock(places[number], shift_s)
        return PoolProcess(source, "--workers", "1", url=pool_url, cwd=places[number], env=env)

    with redis.Redis.from_url(pool_url) as server, host(0, 3600) as first:
        with host(1, -3600) as second:
            first.wait_ready()
            second.wait_ready()
            wait_until(lambda: len(ticks(server)) >= 5, 10, "some ticks")
            second.send(signal.SIGKILL)
            before = len(ticks(server))
            wait_until(lambda: len(ticks(server)) >= before + 3, 10, "the other one goes on")
        fresh = APP.replace("CODE", "22").replace("SECONDS", "0.3")
        (places[0] / "app.py").write_text(fresh)
        first.send(signal.SIGHUP)
        wait_until(lambda: '{"code":22}' in ticks(server)[-1][2], 15, "the new code's payload")
        time.sleep(0.4)
        found = ticks(server)
        assert first.drain() == 0

    assert max(Counter(tick for tick, _, _ in found).values()) == 1
    of_new = [datetime.fromisoformat(tick) for tick, _, payload in found if '"code":22' in payload]
    assert all(round(tick.timestamp() * 10) % 3 == 0 for tick in of_new)
    codes = [payload for _, _, payload in found]
    assert codes == sorted(codes)  # nothing of the old code behind the new


def test_of_a_thousand_each_ticks(pool_url: str, tmp_path: Path) -> None:
    """However much they are together."""
    many = 'periodic=[Every(f"beat{n}", 0.5, "x" * 500) for n in range(1000)]'
    source = APP.replace('periodic=[Every("beat", SECONDS, {"code": CODE})]', many)
    with (
        redis.Redis.from_url(pool_url) as server,
        PoolProcess(source, "--workers", "1", url=pool_url, cwd=tmp_path),
    ):

        def ticking() -> int:
            return len({fields[b"rsq:cron"] for _, fields in server.xrange("beats")})

        wait_until(lambda: ticking() == 1000, 15, "each has ticked")


OTHER = """
from redis_stream_queue import per_message, stream_handler

@stream_handler("mails", group="g")
@per_message
def handler(message):
    pass
"""


def test_times_of_fresh_code_count_once_that_code_is_kept(pool_url: str, tmp_path: Path) -> None:
    """Not when its first worker starts: another crew may not start with it, and all stays."""
    # (Fresh code is of another size: bytecode of the same second and size counts as its own.)
    app = APP.replace("SECONDS", "0.1")
    old, fresh = app.replace("CODE", "1"), app.replace("CODE", "22")
    (tmp_path / "other.py").write_text(OTHER)
    args = ("--workers", "1", "other:handler")
    with (
        redis.Redis.from_url(pool_url) as server,
        PoolProcess(old, *args, url=pool_url, cwd=tmp_path) as pool,
    ):
        pool.wait_ready()
        wait_until(lambda: ticks(server), 10, "a tick")
        (tmp_path / "app.py").write_text(fresh)
        (tmp_path / "other.py").write_text("import time; time.sleep(1); raise ValueError")
        pool.send(signal.SIGHUP)
        pool.wait_log("reload failed")
        before = len(ticks(server))
        wait_until(lambda: len(ticks(server)) >= before + 2, 10, "it goes on")
        assert {payload for _, _, payload in ticks(server)} == {'{"code":1}'}

        (tmp_path / "other.py").write_text(OTHER)
        pool.send(signal.SIGHUP)
        wait_until(lambda: ticks(server)[-1][2] == '{"code":22}', 15, "the times of the fresh code")
        pool.send(signal.SIGHUP)
        pool.wait_log("all workers have been replaced")


def test_a_schedule_that_cannot_be_is_one_sentence(pool_url: str, tmp_path: Path) -> None:
    source = APP.replace('Every("beat", SECONDS, {"code": CODE})', 'Every("beat", 1, "x" * 20_000)')
    with PoolProcess(source, "--workers", "1", url=pool_url, cwd=tmp_path) as pool:
        assert pool.wait() == 3
        assert "periodic message 'beat' has a payload" in pool.stderr
        assert "Traceback" not in pool.stderr
