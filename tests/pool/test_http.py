"""--http: probes and metrics of a real pool, whatever strangers send, workers die or Redis does."""

from __future__ import annotations

import os
import re
import resource
import select
import signal
import socket
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx
import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families

from redis_stream_queue import ConfigError, StreamClient, StreamProducer
from redis_stream_queue.pool import PoolConfig
from tests.support.ledger import SOURCE, STREAM, Ledger
from tests.support.pool import PoolProcess
from tests.support.servers import Server, free_port
from tests.support.waiting import wait_until

StartPool = Callable[..., PoolProcess]
CREW = (("group", "crew"), ("stream", STREAM))
LIVE = b"GET /livez HTTP/1.1\r\nHost: x\r\n"
LAST = LIVE + b"Connection: close\r\n\r\n"
ODD = {  # what strangers send, and the statuses of the answers
    LIVE + b"\r\n" + LAST: [200, 200],
    LAST.replace(b"/livez", b"/livez?x=%2f"): [200],
    LAST.replace(b"1.1", b"1.0"): [200],
    LAST.replace(b"GET", b"HEAD"): [200],
    LAST.replace(b"/livez", b"//livez/.."): [401],
    LAST.replace(b"/livez", b"/passwd").replace(b"GET", b"POST"): [401],
    LIVE.replace(b"GET", b"DELETE") + b"Content-Length: 9\r\n\r\nhalf": [405],
    LIVE + b"Transfer-Encoding: chunked\r\n\r\nno number": [200],
    LAST.replace(b"Host: x\r\n", b""): [400],
    LAST.replace(b"/livez", b"/livez\xff"): [400],
    LAST.replace(b"\r\n", b"\r\nHost: y\r\n", 1): [400],
    LIVE + b"X: " + b"x" * 100_000: [431],
    LIVE.replace(b"/livez", b"/" + b"x" * 100_000): [414],
    LAST.replace(b"/livez", b"/" + b"x" * 50_000): [414],
    LIVE + b"X: " + b"x" * 50_000 + b"\r\n\r\n": [431],
    (LIVE + b"\r\n") * 2000 + LAST: [200] * 2001,
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\r\n\r\n": [400],  # TLS
}
OPENMETRICS = {"Accept": "application/openmetrics-text; version=1.0.0"}


@pytest.fixture
def port() -> int:
    return free_port()


def samples(port: int) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    """Each sample of a scrape; no two have the same name and labels."""
    answer = httpx.get(f"http://127.0.0.1:{port}/metrics", headers=OPENMETRICS)
    assert answer.headers["content-type"].startswith("application/openmetrics-text")
    found = [
        ((sample.name, tuple(sorted(sample.labels.items()))), sample.value)
        for family in text_string_to_metric_families(answer.text)
        for sample in family.samples
    ]
    assert len(dict(found)) == len(found)
    return dict(found)


def answers(port: int, sent: bytes) -> list[int]:
    """The statuses of all that this is answered with until the connection ends."""
    with socket.create_connection(("127.0.0.1", port), timeout=4) as client:
        client.sendall(sent)
        received = b"".join(iter(lambda: client.recv(65536), b""))
    return [int(status) for status in re.findall(rb"^HTTP/1\.1 (\d+) ", received, re.MULTILINE)]


def total(port: int, name: str, *labels: tuple[str, str]) -> float:
    return samples(port).get((name, tuple(sorted([*CREW, *labels]))), 0.0)


def status(port: int) -> Any:
    """The crew of /status."""
    answer = httpx.get(f"http://127.0.0.1:{port}/status")
    assert answer.headers["cache-control"] == "no-store"
    return answer.json()["crews"][0]


def test_counters_equal_the_ledger_though_workers_die(
    start_pool: StartPool, ledger: Ledger, port: int, pool_url: str
) -> None:
    """Nothing that is counted falls, and in the end all is counted once; what a killed worker had
    timed is not lost with it."""
    pool = start_pool("--workers", "2", "--http", f"127.0.0.1:{port}")
    ids, seen = ledger.push(*({"s": 0.01} for _ in range(60)), {"do": "reject"}), [0.0]
    for round_ in range(3):
        ledger.wait_ended(15 * (round_ + 1))
        wait_until(lambda: len(pool.workers()) == 2, 15, "two workers")
        os.kill(pool.workers()[0], signal.SIGKILL)
        seen.append(total(port, "rsq_messages_acked_total"))
    ledger.wait_settled(ids)
    wait_until(lambda: total(port, "rsq_messages_acked_total") == 60, 15, "60 messages are counted")

    assert seen == sorted(seen)
    wait_until(lambda: total(port, "rsq_messages_dead_total") == 1, 15, "the dead one is, too")
    assert 61 - 3 <= total(port, "rsq_message_wait_seconds_count") <= 61
    handled = total(port, "rsq_handler_duration_seconds_count")
    assert 61 - 3 <= handled <= len(ledger.started())
    assert total(port, "rsq_handler_duration_seconds_sum") > 0.009 * (handled - 3)
    assert total(port, "rsq_worker_cpu_seconds_total", ("slot", "0")) > 0.03  # all lives
    assert total(port, "rsq_worker_restarts_total", ("reason", "signal")) == 3
    by_reason = "rsq_messages_dead_by_reason_total"
    assert total(port, by_reason, ("reason", "rejected")) == 1
    assert samples(port)["rsq_reloads_total", (("result", "failed"),)] == 0
    wait_until(lambda: total(port, "rsq_dead_letters") == 1, 15, "Redis was asked")
    [letter] = status(port)["letters"]
    assert (letter["reason"], letter["original_id"]) == ("rejected", ids[-1])
    assert status(port)["waiting"]["count"] == total(port, "rsq_message_wait_seconds_count")
    StreamProducer(StreamClient.from_url(pool_url), STREAM).push_sync({}, delay_ms=10)
    late = "rsq_scheduled_lateness_seconds"
    wait_until(lambda: total(port, f"{late}_count") == 1, 15, "one was moved")
    assert 0 <= total(port, f"{late}_sum") < 10
    plain = httpx.get(f"http://127.0.0.1:{port}/metrics")
    assert plain.headers["content-type"].startswith("text/plain; version=")


@pytest.mark.long
def test_probes(start_pool: StartPool, ledger: Ledger, port: int, pool_server: Server) -> None:
    """Alive without Redis, which the status says; not ready while it drains; asked under a foreign
    name: no answer. What handlers raise is grouped by its type."""
    args = ("--workers", "1", "--min-idle-claim-ms", "2000")
    pool = start_pool(*args, "--http", f"127.0.0.1:{port}")
    url = f"http://127.0.0.1:{port}"
    assert httpx.get(f"{url}/readyz").status_code == 200
    assert httpx.head(f"{url}/livez").status_code == 200
    assert httpx.get(f"{url}/metrics", headers={"Host": "evil.example"}).status_code == 403
    assert httpx.post(f"{url}/livez").status_code == 405
    for host, code in {
        "evil.example": 403,
        "localhost.evil.example": 403,
        "LocalHost:80": 200,
        "localhost.": 200,
        "[::1]": 200,
    }.items():
        assert httpx.get(f"{url}/status", headers={"Host": host}).status_code == code, host
    assert httpx.get(f"{url}/passwd").status_code == 404
    ledger.push({"do": "raise"}, {"do": "raise"})
    wait_until(lambda: len(status(port)["failures"]) == 1, 15, "a failure is shown")
    wait_until(lambda: status(port)["failures"][0]["count"] >= 2, 15, "both are")
    wait_until(lambda: total(port, "rsq_messages_retried_total") >= 2, 15, "both are tried again")
    assert total(port, "rsq_redis_errors_total") == 0

    pool_server.pause()
    assert httpx.get(f"{url}/livez").status_code == 200
    assert httpx.get(f"{url}/metrics").status_code == 200
    wait_until(lambda: status(port)["redis"]["error"], 15, "the status says that Redis is away")
    pool_server.resume()
    wait_until(lambda: not status(port)["redis"]["error"], 15, "and that it is back")
    assert total(port, "rsq_redis_errors_total") > 0

    [entry_id] = ledger.push({"do": "sleep", "s": 60})
    wait_until(lambda: entry_id in ledger.executions(), 15, "it runs")
    wait_until(lambda: status(port)["workers"][0]["message_id"] == entry_id, 5, "this is told")
    assert status(port)["workers"][0]["message_ms"] > 0
    assert status(port)["workers"][0]["state"] == "busy"
    before = status(port)["workers"][0]["redis_errors"]
    with pool_server.client() as client:  # a lease cannot be renewed
        client.execute_command("ACL", "SETUSER", "default", "-evalsha", "-eval")
        wait_until(lambda: status(port)["workers"][0]["redis_errors"] > before, 10, "it counts")
        client.execute_command("ACL", "SETUSER", "default", "+@all")
    pool.send(signal.SIGTERM)
    wait_until(lambda: httpx.get(f"{url}/readyz").status_code == 503, 5, "it is not ready")
    assert httpx.get(f"{url}/livez").status_code == 200


def test_the_page_needs_nothing_from_elsewhere(
    start_pool: StartPool, ledger: Ledger, port: int, tmp_path: Path
) -> None:
    """Beyond loopback status and page are for who knows the token, as a bearer or a password."""
    (tmp_path / "token").write_text("s3cret\n")
    start_pool("--workers", "1", "--http", f"0.0.0.0:{port}", "--http-token-file", "token")
    url = f"http://127.0.0.1:{port}"
    for path in ("/", "/page.css", "/page.js", "/troubles.js", "/status"):
        refused = httpx.get(url + path, auth=("", "wrong"))
        assert (refused.status_code, refused.headers["www-authenticate"][:5]) == (401, "Basic")
        answer = httpx.get(url + path, auth=("me", "s3cret"))
        assert answer.status_code == 200
        assert answer.headers["content-security-policy"].startswith("default-src 'self'; ")
        assert set(re.findall(r"https?://[^\s\"']+", answer.text)) <= {"http://www.w3.org/2000/svg"}
    bearer = {"Authorization": "Bearer s3cret", "Host": "pool.example"}
    assert httpx.get(f"{url}/status", headers=bearer).status_code == 200
    assert httpx.get(f"{url}/metrics", headers={"Host": "pool.example"}).status_code == 200
    garbage = {"Authorization": b"Bearer \xff\xfe"}
    assert httpx.get(f"{url}/status", headers=garbage).status_code == 401
    for sent, statuses in ODD.items():
        assert answers(port, sent) == statuses, sent[:60]


def test_silent_and_mad_clients_delay_nobody(
    start_pool: StartPool, ledger: Ledger, port: int
) -> None:
    """1,000 connections at once: those that are too many are refused, all are gone after a while,
    what is handled meanwhile is handled; and what they send is not in the log."""
    pool = start_pool("--workers", "1", "--http", f"127.0.0.1:{port}")
    files = len(os.listdir(f"/proc/{pool.pid}/fd"))
    through = select.poll()
    with ExitStack() as stack:
        for number in range(1000):
            client = stack.enter_context(socket.socket())
            client.setblocking(number < 64)
            client.connect_ex(("127.0.0.1", port))
            if number < 64:
                client.sendall(b"GET /metrics HTTP/1.1\r\nX: " if number % 2 else os.urandom(99))
            through.register(client, select.POLLOUT)
        wait_until(lambda: len(through.poll(0)) == 1000, 20, "each is accepted or refused")
        wait_until(
            lambda: len(os.listdir(f"/proc/{pool.pid}/fd")) <= files + 180, 5, "most are refused"
        )
        ledger.wait_settled(ledger.push(*({"do": "ok"} for _ in range(50))))
        wait_until(
            lambda: len(os.listdir(f"/proc/{pool.pid}/fd")) <= files + 10,  # some go to Redis
            20,
            "they are gone",
        )
    assert httpx.get(f"http://127.0.0.1:{port}/livez").status_code == 200
    assert pool.drain() == 0
    assert "Error" not in pool.stderr
    assert "Traceback" not in pool.stderr


def test_clients_leave_descriptors_for_the_pool(
    start_pool: StartPool, ledger: Ledger, port: int
) -> None:
    """Of 64: strangers hold as many connections as they get, and what a worker ran is recovered, it
    is replaced, and fresh code is loaded."""
    pool = start_pool("--workers", "2", "--http", f"127.0.0.1:{port}")
    resource.prlimit(pool.pid, resource.RLIMIT_NOFILE, (64, 64))
    with ExitStack() as stack:
        for _ in range(150):
            stack.enter_context(socket.create_connection(("127.0.0.1", port), timeout=4))
        old = pool.workers()
        ledger.push({"do": "die_first"})
        ledger.wait_ended(1)
        wait_until(lambda: len(pool.workers()) == 2 and pool.workers() != old, 15, "a new worker")
        pool.send(signal.SIGHUP)
        pool.wait_log("all workers have been replaced")
    assert pool.drain() == 0
    assert pool.stderr.count("\n") < 12
    assert "Too many open files" not in pool.stderr


def test_a_name_that_is_not_utf_8(
    start_pool: StartPool, ledger: Ledger, port: int, tmp_path: Path
) -> None:
    start_pool("--workers", "1", "--prefix", "a\udcff", "--http", f"127.0.0.1:{port}")
    ledger.redis.xadd(b"a\xff_work", {"data": '{"do": "ok"}'})
    ledger.wait_ended(1)
    labels = tuple(sorted({"group": "crew", "stream": r"a\udcff_work"}.items()))
    acked = ("rsq_messages_acked_total", labels)
    wait_until(lambda: samples(port).get(acked) == 1, 5, "it is counted")


def test_a_host_that_is_none(pool_url: str, tmp_path: Path) -> None:
    """Not even one that cannot be looked up."""
    with PoolProcess(SOURCE, "--http", "a..b:9191", url=pool_url, cwd=tmp_path) as pool:
        assert pool.wait() == 1
    assert "--http: cannot listen on a..b:9191: " in pool.stderr
    assert "Traceback" not in pool.stderr
    for port in ("0", "65536", "\u0663"):
        with pytest.raises(ConfigError, match="http must be HOST:PORT"):
            PoolConfig(target="app:handle", http=f"localhost:{port}")
    assert PoolConfig(target="app:handle", http="[::1]:65535").http


def test_a_port_that_is_taken(pool_url: str, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        address = f"127.0.0.1:{other.getsockname()[1]}"
        with PoolProcess(SOURCE, "--http", address, url=pool_url, cwd=tmp_path) as pool:
            assert pool.wait() == 1
    assert f"--http: cannot listen on {address}: " in pool.stderr
    assert "Traceback" not in pool.stderr
