"""What an operator may do to a running pool: reload, scale, quiet; and an app imported once."""

from __future__ import annotations

import asyncio
import random
import signal
import threading
from pathlib import Path

import pytest

from redis_stream_queue import Queue
from tests.pool.conftest import StartPool
from tests.pool.test_service import NotifySocket
from tests.support.ledger import SOURCE, Ledger
from tests.support.pool import PoolProcess
from tests.support.waiting import wait_until

REPLACED = "all workers have been replaced"


class Load:
    """Messages of 5 ms, pushed all the time until it ends."""

    def __init__(self, ledger: Ledger) -> None:
        self.ids: list[str] = []
        self._ledger = ledger
        self._over = threading.Event()
        self._feeder = threading.Thread(target=self._push)

    def _push(self) -> None:
        while not self._over.wait(0.02):
            self.ids.extend(self._ledger.push({"s": 0.005}, {"s": 0.005}))

    def __enter__(self) -> Load:
        self._feeder.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._feeder.join()


@pytest.mark.long
def test_ten_reloads_and_changes_of_size_under_load_run_every_message_once(
    start_pool: StartPool, ledger: Ledger
) -> None:
    """HUP ten times, some while the one before is under way, TTIN and TTOU in between; then TERM,
    and a second pool does what was left."""
    pool = start_pool("--workers", "2")
    luck = random.Random(16)
    with Load(ledger) as load:
        for turn in range(10):
            reloads, begun = pool.stderr.count(REPLACED), len(ledger.started())
            pool.send(signal.SIGHUP)
            for _ in range(luck.randrange(3)):
                pool.send(luck.choice([signal.SIGTTIN, signal.SIGTTOU]))
            if luck.random() < 0.7 or turn == 9:
                wait_until(lambda n=reloads: pool.stderr.count(REPLACED) > n, 20, "reloaded")
            ledger.wait_started(begun + 5)
        assert "reload failed" not in pool.stderr
        assert pool.drain() == 0
    assert start_pool("--workers", "2", "--burst").wait() == 0
    assert not [entry_id for entry_id in load.ids if ledger.executions()[entry_id] != 1]


def test_the_number_of_workers_is_kept_over_a_reload_and_never_below_one(
    start_pool: StartPool, ledger: Ledger
) -> None:
    pool = start_pool("--workers", "2")
    [one] = ledger.push({"s": 1.0})
    ledger.wait_started(1)
    busy = ledger.started()[0].pid
    pool.send(signal.SIGTTIN)
    wait_until(lambda: len(pool.workers()) == 3, 10, "a third worker")
    for count in (2, 1, 1):
        pool.send(signal.SIGTTOU)
        pool.wait_log(f"SIGTTOU: app:handler has {count} worker")
    wait_until(lambda: pool.workers() == [busy], 10, "the idle ones have gone")
    assert ledger.wait_ended(1)[0].id == one

    pool.send(signal.SIGHUP)
    pool.wait_log(REPLACED)
    wait_until(lambda: len(pool.workers()) == 1 and pool.workers() != [busy], 10, "one, replaced")
    pool.send(signal.SIGUSR1)
    pool.wait_log(r"status: 1 workers \(configured 2, 0 busy\), handled 1 ")
    assert ledger.executions()[one] == 1


def test_quiet_finishes_what_runs_and_starts_nothing(start_pool: StartPool, ledger: Ledger) -> None:
    """TSTP to all processes, as ``systemctl kill`` does; CONT goes on, and so does HUP."""
    pool = start_pool("--workers", "2")
    for turn, undo in enumerate((signal.SIGCONT, signal.SIGHUP), 1):
        done = len(ledger.ended())
        ledger.push({"s": 0.5})
        ledger.wait_started(done + 1)
        for process in pool.processes():
            process.send_signal(signal.SIGTSTP)
        pool.wait_log("(?s)" + "SIGTSTP: finishing.*" * turn)
        ledger.wait_ended(done + 1)
        wait_until(lambda: ledger.redis.info("clients")["blocked_clients"] == 1, 5, "only the bell")
        ledger.push({})
        pool.send(signal.SIGUSR1)
        pool.wait_log("(?s)" + "status: QUIET, .*" * turn)
        assert len(ledger.started()) == done + 1
        pool.send(undo)
        ledger.wait_ended(done + 2)
    assert set(ledger.executions().values()) == {1}
    assert pool.drain() == 0


def test_systemd_hears_of_a_reload_when_it_is_over(
    pool_url: str, ledger: Ledger, tmp_path: Path
) -> None:
    """READY after the last replacement; after a failure, too, and the status says why. A drain asks
    for the time that it may take."""
    manager = NotifySocket(tmp_path / "notify")
    try:
        env = {"NOTIFY_SOCKET": manager.path}
        with PoolProcess(SOURCE, "--workers", "2", url=pool_url, cwd=tmp_path, env=env) as pool:
            pool.wait_ready()
            (tmp_path / "app.py").write_text(SOURCE.replace("ended", "over"))
            pool.send(signal.SIGHUP)
            wait_until(lambda: manager.lines().count("READY=1") == 2, 15, "READY=1 again")
            assert REPLACED in pool.stderr
            assert manager.lines().index("RELOADING=1") < len(manager.lines()) - 2
            ledger.push({})
            wait_until(lambda: ledger.notes.of("over"), 10, "the new code runs")

            (tmp_path / "app.py").write_text("import no_such_thing\n")
            pool.send(signal.SIGHUP)
            wait_until(lambda: manager.lines().count("READY=1") == 3, 15, "READY=1 after a failure")
            [failed] = [x for x in manager.lines() if x.startswith("STATUS=reload failed: ")]
            assert "No module named 'no_such_thing'" in failed
            assert "; 2 workers (0 busy)" in failed
            ledger.push({})
            wait_until(lambda: len(ledger.notes.of("over")) == 2, 10, "the old workers go on")
            assert pool.drain() == 0
        assert "EXTEND_TIMEOUT_USEC=35000000" in manager.lines()
    finally:
        manager.close()


PRELOADED = (
    SOURCE
    + """
with open("imports", "a") as file:
    print(os.getpid(), VERSION, file=file)
"""
)


def test_a_preloaded_app_is_imported_once_and_anew_by_a_reload(
    pool_url: str, ledger: Ledger, tmp_path: Path
) -> None:
    """Also for workers that replace dead ones; code that does not start leaves the old template."""

    def imported() -> list[str]:
        return (tmp_path / "imports").read_text().splitlines()

    app = PRELOADED.replace("VERSION", "1")
    with PoolProcess(app, "--workers", "2", "--preload", url=pool_url, cwd=tmp_path) as pool:
        pool.wait_ready()
        assert imported() == [f"{pool.template()} 1"]
        (tmp_path / "app.py").write_text("this is no Python\n")
        pool.send(signal.SIGHUP)
        pool.wait_log("reload failed")
        (tmp_path / "app.py").write_text("import os\nos._exit(7)\n")
        pool.send(signal.SIGHUP)
        pool.wait_log("Why: the new template process has ended: exit code 7")
        ledger.push({"do": "die_first"})
        ledger.wait_ended(1)
        (tmp_path / "app.py").write_text(PRELOADED.replace("VERSION", "22"))
        pool.send(signal.SIGHUP)
        pool.wait_log(REPLACED)
        ledger.push({})
        ledger.wait_ended(2)
        assert [line.split()[1] for line in imported()] == ["1", "22"]
        assert pool.drain() == 0


def test_an_app_that_ends_its_process_while_it_is_preloaded_ends_the_pool(
    pool_url: str, tmp_path: Path
) -> None:
    """Not a start after the other for ever."""
    app = "import os\nos._exit(7)\n"
    with PoolProcess(app, "--preload", url=pool_url, cwd=tmp_path) as pool:
        assert pool.wait(30) == 3
        assert "the template process ends while it imports 'app:handler' (--preload)" in pool.stderr
        assert "exit code 7, 5 times in a row" in pool.stderr


SLOW = """
from pathlib import Path
Path("loading").touch()
while not Path("go").exists():
    time.sleep(0.01)
"""


def test_an_import_that_hangs_while_it_is_preloaded_holds_up_nothing(
    pool_url: str, ledger: Ledger, tmp_path: Path
) -> None:
    """Neither further reloads nor the end, and it leaves no process; at the first start, too."""
    args = ("--workers", "2", "--preload")
    with PoolProcess(SOURCE, *args, url=pool_url, cwd=tmp_path) as pool:
        pool.wait_ready()
        (tmp_path / "app.py").write_text(SOURCE + SLOW)
        for _ in range(3):
            (tmp_path / "loading").unlink(missing_ok=True)
            pool.send(signal.SIGHUP)
            wait_until((tmp_path / "loading").exists, 10, "the fresh code is imported")
        (tmp_path / "app.py").write_text(SOURCE)
        pool.send(signal.SIGHUP)
        pool.wait_log(REPLACED)
        wait_until(lambda: len(pool.processes()) == 4, 10, "master, template and two workers")
        assert "reload failed" not in pool.stderr
        assert pool.drain(5) == 0
    (tmp_path / "loading").unlink()
    with PoolProcess(SOURCE + SLOW, *args, url=pool_url, cwd=tmp_path) as pool:
        wait_until((tmp_path / "loading").exists, 10, "the app is imported")
        assert pool.drain(5) == 0
        assert pool.processes() == []


def test_fresh_code_goes_on_without_its_first_worker_and_may_want_more_of_them(
    pool_url: str, ledger: Ledger, tmp_path: Path
) -> None:
    """TTOU takes the worker that is on trial, as all others are busy; the code is tried in another
    one. Its decorator asks for three; another reload of it leaves it at two, after one was taken
    away."""
    app = SOURCE.replace('group="crew")', 'group="crew", workers=2)')
    with PoolProcess(app, url=pool_url, cwd=tmp_path) as pool:
        pool.wait_ready()
        ledger.push({"s": 3.0}, {"s": 3.0})
        ledger.wait_started(2)
        (tmp_path / "app.py").write_text(app.replace("workers=2", "workers=3") + SLOW)
        pool.send(signal.SIGHUP)
        wait_until((tmp_path / "loading").exists, 10, "a worker loads the fresh code")
        pool.send(signal.SIGTTOU)
        pool.wait_log("SIGTTOU: app:handler has 1 worker")
        (tmp_path / "go").touch()
        pool.wait_log(REPLACED)
        pool.send(signal.SIGTTOU)
        pool.wait_log(r"SIGTTOU: app:handler has 2 worker\(s\), configured 3")
        pool.send(signal.SIGHUP)
        pool.wait_log(f"(?s)({REPLACED}.*){{2}}")
        wait_until(lambda: len(pool.workers()) == 2, 15, "two workers, and no old ones")
        assert "reload failed" not in pool.stderr
        assert [*ledger.executions().values()] == [1, 1]
        assert pool.drain() == 0


TASKS = """
from redis_stream_queue import Queue
queue = Queue("work")

@queue.task(retry_delay_ms=10{options})
def {name}():
    raise ValueError("on purpose")
"""


def test_fresh_code_may_have_tasks_with_more_deliveries(
    ledger: Ledger, pool_url: str, tmp_path: Path
) -> None:
    """Its messages get all of them. Settings of the stream stay; the log says which are others."""
    app = TASKS.format(name="first", options="")
    with PoolProcess(app, "--workers", "1", url=pool_url, cwd=tmp_path, target="app:queue") as pool:
        pool.wait_ready()
        app = TASKS.format(name="second", options=", max_deliveries=5")
        (tmp_path / "app.py").write_text(app.replace('"work"', '"work", group="crew"'))
        pool.send(signal.SIGHUP)
        pool.wait_log(r"app:queue: the fresh code declares other settings \(group\), which count")
        pool.wait_log(REPLACED)
        queue = Queue("work", url=pool_url)
        queue.push_sync("second")
        asyncio.run(queue.close())
        ledger.wait(lambda: bool(ledger.letters()), "it is dead")
        assert ledger.letters()[0]["delivery_count"] == "5"


def test_a_changed_file_is_reloaded_and_one_that_does_not_start_waits_for_the_next(
    pool_url: str, ledger: Ledger, tmp_path: Path
) -> None:
    """--reload, from the first moment on; files that are no Python change nothing."""
    text = SOURCE.replace('note("ended"', 'note("over"')
    with PoolProcess(
        SOURCE + SLOW, "--workers", "1", "--reload", url=pool_url, cwd=tmp_path
    ) as pool:
        wait_until((tmp_path / "loading").exists, 15, "the app is being loaded")
        (tmp_path / "app.py").write_text(text)
        (tmp_path / "go").touch()
        pool.wait_log(REPLACED)
        ledger.push({})
        wait_until(lambda: ledger.notes.of("over"), 10, "the new code runs")
        (tmp_path / "notes.txt").write_text("no code")
        (tmp_path / "app.py").write_text("this is no Python")
        pool.wait_log("reload failed: .*invalid syntax")
        (tmp_path / "app.py").write_text(SOURCE)
        pool.wait_log(f"(?s)({REPLACED}.*){{2}}")
        assert "notes.txt changed" not in pool.stderr
        assert pool.stderr.count("reload failed") == 1
        assert pool.drain() == 0
