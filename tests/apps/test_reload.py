"""Reload and template start like the first start, and what cannot be started is tried again."""

from __future__ import annotations

import os
import resource
import shutil
import signal
import time
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.apps.conftest import HEAD
from tests.support.pool import ROOT
from tests.support.waiting import wait_until

APP = """
VERSION = {version}
@handled
@per_message
def handler(message):
    note("done", VERSION, os.getcwd())
"""
SHADOWS = ["queue", "redis", "secrets", "socket", "selectors", "multiprocessing", "msgpack", "idna"]
REPLACED = "all workers have been replaced"


def head(text: str) -> str:
    return HEAD + text


@pytest.mark.parametrize("act", ["reload", "the template dies"])
def test_files_of_the_app_do_not_shadow_our_modules(scene: Any, act: str) -> None:
    """Of the standard library, of what we need, of what nobody needs yet; the app gets its own."""
    app = APP.format(version=1)
    pool = scene.start(app, workers=2)
    for name in SHADOWS:
        (scene.cwd / f"{name}.py").write_text("API_KEY = 'x'\n")
    (scene.cwd / "app.py").write_text(head("import idna; idna.API_KEY\n" + APP.format(version=22)))
    if act == "reload":
        pool.send(signal.SIGHUP)
        pool.wait_log(REPLACED)
    else:
        old = set(pool.workers())
        os.kill(pool.template() or 0, signal.SIGKILL)
        wait_until(lambda: not old & set(pool.workers()), 15, "its workers are replaced")
    scene.push({})
    scene.wait_notes("done 22")
    assert pool.stderr.count("the template process has ended") == (act != "reload")
    assert pool.drain() == 0


def release(scene: Any, number: int, link: Path) -> None:
    directory = scene.cwd / "releases" / str(number)
    directory.mkdir(parents=True)
    (directory / "app.py").write_text(head(APP.format(version=number)))
    new = scene.cwd / "new"
    new.symlink_to(directory)
    new.rename(link)


def test_a_swapped_symlink_is_followed_and_a_removed_release_ends_nothing(scene: Any) -> None:
    """SIGHUP goes where ``current`` leads now; a worker that is replaced after its release has been
    removed does, too; with nothing there, the log says why once, until it is back."""
    link = scene.cwd / "current"
    release(scene, 1, link)
    pool = scene.start(None, cwd=link, env={"PWD": str(link)}, log_dir=scene.cwd)
    release(scene, 2, link)
    pool.send(signal.SIGHUP)
    pool.wait_log(REPLACED)
    scene.push({})
    scene.wait_notes(f"done 2 {scene.cwd}/releases/2")

    shutil.rmtree(scene.cwd / "releases/1")
    release(scene, 3, link)
    shutil.rmtree(scene.cwd / "releases/2")
    os.kill(pool.workers()[0], signal.SIGKILL)
    scene.push({})
    scene.wait_notes(f"done 3 {scene.cwd}/releases/3")

    shutil.rmtree(scene.cwd / "releases/3")
    os.kill(pool.workers()[0], signal.SIGKILL)
    pool.wait_log("the directory that the pool was started in has been removed")
    scene.push({})
    link.unlink()
    release(scene, 4, link)
    scene.wait_notes(f"done 4 {scene.cwd}/releases/4")
    assert pool.stderr.count("has been removed") == 1
    assert pool.drain() == 0


BROKEN = {
    "does not parse": "this is no Python\n",
    "raises": "raise RuntimeError('no such setting')\n",
    "has no handler": "VERSION = 2\n",
    "crashes": "import ctypes; ctypes.string_at(0)\n",
}


@pytest.mark.parametrize("how", BROKEN)
def test_fresh_code_that_does_not_start_changes_nothing(scene: Any, how: str) -> None:
    """All old workers stay, the log says why once; the next SIGHUP is a new try."""
    pool = scene.start(APP.format(version=1), workers=2)
    old = pool.workers()
    (scene.cwd / "app.py").write_text(BROKEN[how])
    pool.send(signal.SIGHUP)
    pool.wait_log("reload failed: all workers stay as they are")
    scene.push({}, {})
    scene.wait_notes("done 1", 2)
    assert pool.workers() == old
    assert pool.stderr.count("ERROR") == (1 if how == "crashes" else 2)
    (scene.cwd / "app.py").write_text(head(APP.format(version=333)))
    pool.send(signal.SIGHUP)
    pool.wait_log(REPLACED)
    scene.push({})
    scene.wait_notes("done 333")
    assert pool.drain() == 0


def test_a_template_that_cannot_start_is_no_storm(scene: Any) -> None:
    """Our own package is broken for a while (an upgrade under way): tries with growing pauses."""
    broken = scene.cwd / "broken"
    env = {"PYTHONPATH": os.pathsep.join([str(broken), str(ROOT)])}
    pool = scene.start(APP.format(version=1), env=env)
    broken.mkdir()
    (broken / "redis_stream_queue").mkdir()
    (broken / "redis_stream_queue/__init__.py").write_text("raise ImportError('half copied')\n")
    os.kill(pool.template() or 0, signal.SIGKILL)
    wait_until(lambda: pool.stderr.count("half copied") >= 2, 15, "it is tried again")
    scene.push({})
    scene.wait_notes("done 1")
    time.sleep(2)
    assert pool.stderr.count("ImportError: half copied") <= 7
    shutil.rmtree(broken)
    old = pool.workers()
    wait_until(lambda: pool.workers() not in ([], old), 30, "the worker is replaced at last")
    assert pool.drain() == 0


FORGETS = """
import redis_stream_queue.pool.template as template

def reap_and_die(sock):
    list(template._linux.ended_children())
    open("died", "w").close()
    os._exit(1)

if not os.path.exists("died"):
    template._reap = reap_and_die
"""


def test_a_worker_whose_template_dies_before_it_told_of_its_end_is_replaced(scene: Any) -> None:
    """Nobody can say any more how it ended, and yet a drain does not wait for it."""
    pool = scene.start(APP.format(version=1) + FORGETS, "--preload", workers=2)
    old = pool.workers()
    os.kill(old[0], signal.SIGKILL)
    wait_until(
        lambda: len(pool.workers()) == 2 and not {*old} & {*pool.workers()},
        30,
        "both slots have another worker",
    )
    scene.push({})
    scene.wait_notes("done 1")
    assert pool.drain(10) == 0
    assert "closed descriptors" not in pool.stderr


@pytest.mark.parametrize("limit", ["files of the master", "files of the template"])
@pytest.mark.parametrize("act", ["a worker dies", "the template dies"])
def test_where_there_is_no_room_it_is_said_and_tried_again(
    scene: Any, limit: str, act: str
) -> None:
    """Descriptors have run out while a worker or the template is replaced."""
    pool = scene.start(APP.format(version=1), workers=2)
    whose = pool.pid if "master" in limit else pool.template() or 0
    soft, hard = resource.prlimit(whose, resource.RLIMIT_NOFILE)
    used = _open_at_rest(whose)
    resource.prlimit(whose, resource.RLIMIT_NOFILE, (used - 1, hard))
    old = pool.workers()
    os.kill(old[0] if act == "a worker dies" else pool.template() or 0, signal.SIGKILL)
    if act == "a worker dies" or "master" in limit:
        pool.wait_log("Too many open files")
        scene.push({})
        scene.wait_notes("done 1")
    try:
        resource.prlimit(whose, resource.RLIMIT_NOFILE, (soft, hard))
    except ProcessLookupError:
        assert act == "the template dies"
    wait_until(
        lambda: len(pool.workers()) == 2 and not {old[0]} & set(pool.workers()),
        30,
        "both slots have a worker again",
    )
    assert pool.drain() == 0


def _open_at_rest(pid: int) -> int:
    """How many files it has open, once that does not change any more: a master goes on to connect
    for a while after its pool is ready."""
    seen: list[int] = []

    def rests() -> bool:
        seen.append(psutil.Process(pid).num_fds())
        return len(seen) > 100 and len(set(seen[-100:])) == 1

    wait_until(rests, 20, "it opens nothing more")
    return seen[-1]
