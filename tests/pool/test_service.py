"""What a service manager sees: readiness, watchdog, logs, and first runs without a Redis."""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from redis_stream_queue.pool.master.systemd import watchdog_interval_s
from tests.support.ledger import SOURCE, Ledger, Notes
from tests.support.pool import PoolProcess, plain_environment
from tests.support.waiting import wait_until

APP = (
    SOURCE
    + """
async def buried(message, reason):
    note(f"told:{reason}", message)

@stream_handler("work", group="crew", dlq_handler=buried, max_deliveries=2, retry_delay_ms=10)
@per_message
def handler(message):
    act(message)
"""
)


class NotifySocket:
    """The manager's end of sd_notify."""

    def __init__(self, path: Path) -> None:
        self.path = str(path)
        self._sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._sock.bind(self.path)
        self._sock.setblocking(False)
        self._lines: list[str] = []

    def lines(self) -> list[str]:
        while True:
            try:
                self._lines += self._sock.recv(4096).decode().splitlines()
            except BlockingIOError:
                return self._lines

    def close(self) -> None:
        self._sock.close()


def told(ledger: Ledger) -> list[str]:
    """Ids of the messages that the dlq_handler got after their last delivery."""
    return [note.id for note in ledger.notes.of("told:max_deliveries")]


def test_systemd_hears_ready_status_watchdog_and_stopping(pool_url: str, tmp_path: Path) -> None:
    """READY once all workers have started, WATCHDOG regularly, STATUS, STOPPING at the drain."""
    manager = NotifySocket(tmp_path / "notify")
    try:
        env = {"NOTIFY_SOCKET": manager.path, "WATCHDOG_USEC": "200000"}
        with PoolProcess(APP, "--workers", "2", url=pool_url, cwd=tmp_path, env=env) as pool:
            wait_until(lambda: "READY=1" in manager.lines(), 10, "READY=1")
            wait_until(lambda: manager.lines().count("WATCHDOG=1") >= 3, 5, "three WATCHDOG=1")
            pool.send(signal.SIGUSR1)
            wait_until(
                lambda: any(line.startswith("STATUS=2 workers") for line in manager.lines()),
                5,
                "a STATUS line",
            )
            assert "STOPPING=1" not in manager.lines()
            assert pool.drain() == 0
            assert "STOPPING=1" in manager.lines()
    finally:
        manager.close()


def test_a_pool_that_cannot_start_tells_systemd_why(tmp_path: Path) -> None:
    """No READY, but the reason as STATUS and the exit code as ERRNO."""
    manager = NotifySocket(tmp_path / "notify")
    try:
        env = {"NOTIFY_SOCKET": manager.path}
        with PoolProcess(
            "x = 1", "--stream", "s", url="redis://127.0.0.1:1", cwd=tmp_path, env=env
        ) as pool:
            assert pool.wait() == 3
        assert "READY=1" not in manager.lines()
        assert any("has no 'handler'" in line for line in manager.lines())
    finally:
        manager.close()


def test_a_manager_that_does_not_read_delays_nothing(
    pool_url: str, tmp_path: Path, ledger: Ledger
) -> None:
    """Its queue is full: the pool starts and recovers messages. It gets READY when it reads again;
    an interval of 0 is none."""
    manager = NotifySocket(tmp_path / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as other:
        while True:
            try:
                other.sendto(b"X=1", socket.MSG_DONTWAIT, manager.path)
            except BlockingIOError:
                break
    env = {"NOTIFY_SOCKET": manager.path, "WATCHDOG_USEC": "0"}
    with PoolProcess(SOURCE, "--workers", "1", url=pool_url, cwd=tmp_path, env=env) as pool:
        pool.wait_ready()
        pool.send(signal.SIGUSR1)
        ledger.push({"do": "die_first"})
        ledger.wait_ended(1)
        wait_until(lambda: manager.lines().count("READY=1") == 1, 5, "READY=1")
        wait_until(lambda: "STATUS=1 workers" in "".join(manager.lines()), 5, "the status")
        assert pool.drain() == 0
    manager.close()


@pytest.mark.parametrize("usec", ["", "0", "\u00b2", "-1", "soon"])
def test_an_interval_that_is_none(usec: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WATCHDOG_USEC", usec)
    assert watchdog_interval_s() is None


def _socket_pair() -> tuple[int, int]:
    ours, theirs = socket.socketpair()
    return ours.detach(), theirs.detach()


def _fill(fd: int) -> None:
    """Write until it is full, and stays full: a terminal makes room again a little later."""
    os.set_blocking(fd, False)
    room, refused = select.poll(), 0
    room.register(fd, select.POLLOUT)
    while refused < 3:
        try:
            os.write(fd, b"\n" * 100)
            refused = 0
        except BlockingIOError:
            refused += 1
            room.poll(50)
    os.set_blocking(fd, True)


OUTPUTS = {"pipe": os.pipe, "socket": _socket_pair, "terminal": os.openpty}


@pytest.mark.parametrize("kind", OUTPUTS)
def test_a_log_that_nobody_reads_stops_nothing(
    pool_url: str, tmp_path: Path, ledger: Ledger, kind: str
) -> None:
    """The master goes on, and ends when it is told to. When somebody reads again, whole lines come,
    and one says how many are missing."""
    ours, theirs = OUTPUTS[kind]()
    _fill(theirs)
    os.set_blocking(ours, False)
    (tmp_path / "app.py").write_text(SOURCE)
    pool = subprocess.Popen(
        [
            *(sys.executable, "-m", "redis_stream_queue.cli.rsq_pool"),
            *("--workers", "1", "--log-format", "json", "app:handler"),
        ],
        cwd=tmp_path,
        env={**plain_environment(pool_url), "TERM": "dumb"},
        stderr=theirs,
        start_new_session=True,
    )
    seen = bytearray()

    def told() -> bool:
        pool.send_signal(signal.SIGUSR1)
        with contextlib.suppress(BlockingIOError):
            while True:
                seen.extend(os.read(ours, 65536))
        return b"were left out: nobody read it" in seen

    try:
        ledger.push({"do": "die_first"})
        ledger.wait_ended(1)
        wait_until(told, 5, "the log says that lines are missing")
        pool.send_signal(signal.SIGTERM)
        assert pool.wait(10) == 0
    finally:
        pool.kill()
        pool.wait()
        os.close(ours)
        os.close(theirs)
    for line in filter(None, bytes(seen).splitlines()):
        assert json.loads(line)["process"] == "master"


def test_json_logs_are_one_object_a_line(pool_url: str, tmp_path: Path, ledger: Ledger) -> None:
    """--log-format json: every line of the master and the workers parses."""
    with PoolProcess(
        APP, "--workers", "1", "--log-format", "json", url=pool_url, cwd=tmp_path
    ) as pool:
        pool.wait_ready()
        ledger.push({"do": "raise"})
        ledger.wait(lambda: bool(told(ledger)), "the dlq_handler was told")
        assert pool.drain() == 0
    records = [json.loads(line) for line in pool.stderr.splitlines()]
    assert {r["process"] for r in records} == {"master", "slot=0"}
    [failure] = [r for r in records if "handler failed" in r["message"]][:1]
    assert "ValueError: on purpose" in failure["error"]


@pytest.mark.parametrize("poison", ["raise", "die"])
def test_the_dlq_handler_of_a_pool_runs_in_a_worker(
    pool_url: str, tmp_path: Path, ledger: Ledger, poison: str
) -> None:
    """It gets the decoded message and the reason, also when the message killed its workers; then
    the letter moves."""
    with PoolProcess(APP, "--workers", "2", url=pool_url, cwd=tmp_path) as pool:
        pool.wait_ready()
        [entry_id] = ledger.push({"do": poison})
        ledger.wait(lambda: bool(ledger.letters()), "a dead letter")
        assert told(ledger) == [entry_id]
        assert ledger.pending() == 0
        assert pool.drain() == 0


def test_embedded_needs_no_redis(tmp_path: Path) -> None:
    """--url embedded://DIR starts a private server, keeps its data in DIR, and says so once."""
    directory = tmp_path / "data"
    url = f"embedded://{directory}"
    push = (
        "import sys; from redis_stream_queue import StreamClient, StreamProducer; "
        "p = StreamProducer(StreamClient.from_url(sys.argv[1]), 'work'); p.push_sync({'do': 'x'})"
    )
    env = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    subprocess.run([sys.executable, "-c", push, url], check=True, env=env)
    with PoolProcess(APP, "--burst", "--workers", "1", url=url, cwd=tmp_path) as pool:
        assert pool.wait() == 0
        assert [note.data for note in Notes(tmp_path / "notes").of("ended")] == [{"do": "x"}]
        assert pool.stderr.count("private server for development") == 1
    assert not (directory / "server.sock").exists()
