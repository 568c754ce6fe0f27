"""Several targets in one pool: each has workers, a stream and a recovery of its own."""

from __future__ import annotations

import functools
import json
import os
import signal
import urllib.request
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import redis

from redis_stream_queue import StreamClient, StreamProducer
from tests.support.ledger import SOURCE, Ledger
from tests.support.pool import PoolProcess
from tests.support.servers import Server, free_port
from tests.support.waiting import wait_until

APP = (
    SOURCE
    + """
@stream_handler("orders", retry_delay_ms=10, max_deliveries=2)
@per_message
def orders(message):
    act(message)

@stream_handler("mails", workers=1, nice=7)
@per_message
def mails(message):
    act(message)
"""
)


def push(url: str, stream: str, *messages: dict[str, Any]) -> list[str]:
    return StreamProducer(StreamClient.from_url(url), stream).push_many_sync(list(messages))


def test_each_crew_has_its_size_its_stream_and_its_recovery(
    pool_url: str, ledger: Ledger, tmp_path: Path
) -> None:
    """A flood in one keeps the other waiting for nothing; its deaths are recovered and its letters
    are written; HUP replaces all; a crew of which fresh code has no handler any more stops that."""
    port = free_port()
    args = ("--workers", "3", "--http", f"127.0.0.1:{port}", "app:orders=2")
    env = {"RSQ_WORKERS": "8"}
    with PoolProcess(APP, *args, url=pool_url, cwd=tmp_path, target="app:mails", env=env) as pool:
        pool.wait_ready()
        pids = pool.workers()
        push(pool_url, "orders", *({"s": 0.3} for _ in range(20)))
        ledger.wait_started(2)
        push(pool_url, "mails", {"to": "a"})
        ledger.wait(lambda: any("to" in n.data for n in ledger.ended()), "the mail is sent")
        ended = ledger.ended()
        [mail] = [note for note in ended if "to" in note.data]
        assert ended.index(mail) < 10  # it waits for none of the orders, which take 3 s
        assert os.getpriority(os.PRIO_PROCESS, mail.pid) == 7
        push(pool_url, "orders", {"do": "die"})
        letters = redis.Redis.from_url(pool_url)
        wait_until(lambda: letters.xlen("orders_dlq") == 1, 20, "a letter of orders")
        assert mail.pid in pool.workers()

        def shows(line: str) -> bool:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics") as answer:
                return line in answer.read().decode()

        for counted in (
            'rsq_messages_acked_total{group="mails_workers",stream="mails"} 1.0',
            'rsq_messages_dead_total{group="orders_workers",stream="orders"} 1.0',
        ):
            wait_until(functools.partial(shows, counted), 5, f"{counted} is shown")

        pool.send(signal.SIGHUP)
        pool.wait_log("all workers have been replaced")
        wait_until(lambda: not set(pids) & set(pool.workers()), 10, "the old ones have gone")
        assert len(pool.workers()) == len(pids)
        (tmp_path / "app.py").write_text(APP.replace("def mails", "def e_mails"))
        pids = pool.workers()
        pool.send(signal.SIGHUP)
        pool.wait_log("reload failed: .* Why: cannot load 'app:mails': module 'app' has no 'mails'")
        wait_until(lambda: pool.workers() == pids, 10, "all old ones stay, and no new one")
        assert pool.drain() == 0
        assert "app:mails reads stream mails" in pool.stderr


def test_what_is_about_the_server_is_told_once_for_all_crews(
    pool_url: str, pool_server: Server, tmp_path: Path
) -> None:
    """A worry at the start; then that it is full, also where the heartbeat is all that is written.
    Who asks the pool to end is answered twice at most."""
    port = free_port()
    args = ("--http", f"127.0.0.1:{port}", "app:mails", "app:orders=1")
    with ExitStack() as stack:
        client = stack.enter_context(pool_server.client())
        stack.callback(client.config_set, "maxmemory-policy", "noeviction")
        client.config_set("maxmemory-policy", "allkeys-lru")
        pool = stack.enter_context(
            PoolProcess(APP, *args, url=pool_url, cwd=tmp_path, target=None)
        ).wait_ready()
        assert pool.stderr.count("evicts keys") == 1

        def trouble() -> str:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/status") as answer:
                return str(json.load(answer)["redis_error"])

        assert trouble() == ""
        client.config_set("maxmemory-policy", "noeviction")
        stack.callback(client.config_set, "maxmemory", 0)
        client.config_set("maxmemory", 1)
        wait_until(lambda: "maxmemory" in trouble(), 10, "the status says that Redis is full")
        pool.send(signal.SIGUSR1)
        pool.wait_log("status: REDIS FAILS .command not allowed when used memory > 'maxmemory'")
        client.config_set("maxmemory", 0)
        pool.wait_log("Redis answers again")
        wait_until(lambda: not trouble(), 5, "the status says that it is over")
        assert pool.stderr.count("Redis answers again") == 1
        wait_until(functools.partial(_ended_by_many_signals, pool), 20, "the pool has ended")
        assert pool.wait() == 0
        assert pool.stderr.count("SIGTERM again") == 1


def _ended_by_many_signals(pool: PoolProcess) -> bool:
    if pool.alive:
        pool.send(signal.SIGTERM)
    return not pool.alive


def test_the_decorators_size_holds_where_nobody_else_says_one(
    pool_url: str, tmp_path: Path
) -> None:
    """And targets may come from a file, or from the environment."""
    (tmp_path / "rsq.toml").write_text('target = ["app:orders=2", "app:mails"]\nburst = true\n')
    with PoolProcess(APP, url=pool_url, cwd=tmp_path, target=None) as pool:
        assert pool.wait() == 0
        assert "app:mails reads stream mails as group mails_workers" in pool.stderr
        assert pool.stderr.count("with 1 worker(s)") == 1
        assert pool.stderr.count("with 2 worker(s)") == 1
    env = {"RSQ_TARGET": "app:mails app:orders=1"}
    with PoolProcess(None, url=pool_url, cwd=tmp_path, target=None, env=env) as pool:
        assert pool.wait() == 0
        assert pool.stderr.count("with 1 worker(s)") == 2


@pytest.mark.parametrize(
    ("targets", "sentence"),
    [
        (["app:mails", "app:mails=2"], "the target app:mails is there twice"),
        (["app:mails=0"], "the number of workers of app:mails must be a whole number from 1 to"),
        (["app:mails=two"], "the target must be module:function, as in app:handler, got"),
        (["--stream", "s", "app:mails", "app:orders"], "--stream is for one target, but there are"),
        (["app:handler", "app:batch"], "read the same stream 'work' as the same group 'crew'"),
        (["app:orders", "app:no"], "cannot load 'app:no': module 'app' has no 'no'"),
    ],
)
def test_what_cannot_be_is_said(
    pool_url: str, tmp_path: Path, targets: list[str], sentence: str
) -> None:
    """And nothing has been started then."""
    with PoolProcess(APP, *targets, url=pool_url, cwd=tmp_path, target=None) as pool:
        assert pool.wait() == (3 if "cannot load" in sentence else 2)
        assert sentence in pool.stderr
