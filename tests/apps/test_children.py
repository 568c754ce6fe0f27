"""Children of handlers behave as under plain Python, and none of them outlives its worker."""

from __future__ import annotations

import os
import signal
import subprocess
from typing import Any

import pytest

from tests.apps.conftest import alive, end
from tests.support.waiting import wait_until

CHILDREN = """
import multiprocessing
from concurrent.futures import ProcessPoolExecutor

def square(n):
    return n * n

def nap(_):
    time.sleep(30)

def restless(_):
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(3))
    note("restless")
    time.sleep(30)

def until_noted(what):
    while what not in open(os.environ["RSQ_TEST_NOTES"]).read().splitlines():
        time.sleep(0.01)

def terminated(process, wait=lambda: time.sleep(0.3)):
    process.start()
    wait()
    process.terminate()
    process.join(10)
    return process.exitcode

def pool():
    with multiprocessing.Pool(2) as pool:
        return pool.map(square, range(4))

def slow_pool():
    with multiprocessing.Pool(2) as pool:
        try:
            pool.apply_async(nap, (1,)).get(timeout=0.2)
        except multiprocessing.TimeoutError:
            return "timeout"

def forked():
    return terminated(multiprocessing.Process(target=nap, args=(1,)))

def spawned():
    return terminated(multiprocessing.get_context("spawn").Process(target=nap, args=(1,)))

def own_handler():
    process = multiprocessing.Process(target=restless, args=(1,))
    return terminated(process, lambda: until_noted("restless"))

def raw_fork():
    if not (pid := os.fork()):
        time.sleep(30)
        os._exit(0)
    os.kill(pid, signal.SIGTERM)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])

def executor():
    with ProcessPoolExecutor(2) as executor:
        return list(executor.map(square, range(4)))

def interrupted():
    if not (pid := os.fork()):
        try:
            note("up")
            time.sleep(30)
        except KeyboardInterrupt:
            os._exit(4)
    until_noted("up")
    os.kill(pid, signal.SIGINT)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])

@handled
@per_message
def handler(message):
    note("result", globals()[message.data["do"]]())

@handled
@per_message
async def async_handler(message):
    note("result", globals()[message.data["do"]]())
"""
RESULTS = {
    "pool": "[0, 1, 4, 9]",
    "slow_pool": "timeout",
    "forked": "-15",
    "spawned": "-15",
    "own_handler": "3",
    "raw_fork": "-15",
    "executor": "[0, 1, 4, 9]",
    "interrupted": "4",
}


@pytest.mark.parametrize("target", ["app:handler", "app:async_handler"])
def test_processes_of_a_handler_are_those_of_plain_python(scene: Any, target: str) -> None:
    """They end when they are told to: pools, terminate(), forks, with a soft time limit, too."""
    pool = scene.start(CHILDREN, "--soft-time-limit", "60", target=target)
    for do, result in RESULTS.items():
        before = len(scene.notes("result"))
        scene.push({"do": do})
        assert scene.wait_notes("result", before + 1)[-1] == f"result {result}", do
    assert pool.drain() == 0


INHERITED = """
def ignored():
    command = ["grep", "-E", "^Sig(Ign|Blk)", "/proc/self/status"]
    run = subprocess.run(command, capture_output=True, text=True)
    fds = subprocess.run(["ls", "/proc/self/fd"], capture_output=True, text=True)
    return run.stdout.split(), fds.stdout.split()

note("import", *ignored())
note("argv", sys.argv[1:])

@handled
@per_message
def handler(message):
    note("handler", *ignored())
    note("stdin", os.read(0, 5).decode())
"""


@pytest.mark.parametrize("nohup", [False, True])
def test_programs_inherit_what_they_would_from_plain_python(scene: Any, nohup: bool) -> None:
    """No ignored signals (but those the pool was started with), no descriptors of ours, the
    caller's standard input and arguments; at the first start and after a reload."""
    reader, writer = os.pipe()
    os.write(writer, b"12345abcde")
    before = signal.getsignal(signal.SIGHUP)
    signal.signal(signal.SIGHUP, signal.SIG_IGN if nohup else signal.SIG_DFL)
    try:
        pool = scene.start(INHERITED, stdin=reader)
        command = ["grep", "-E", "^Sig(Ign|Blk)", "/proc/self/status"]
        plain = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
    finally:
        signal.signal(signal.SIGHUP, before)
        os.close(reader)
    assert int(plain[3], 16) & 1 == nohup
    inherited = f"{plain} ['0', '1', '2', '3']"
    for round_, read in enumerate(("12345", "abcde"), 1):
        scene.push({})
        assert scene.wait_notes("stdin", round_)[-1] == f"stdin {read}"
        if round_ == 1:
            pool.send(signal.SIGHUP)
            pool.wait_log("all workers have been replaced")
    assert scene.notes("import") == 2 * [f"import {inherited}"]
    assert scene.notes("handler") == 2 * [f"handler {inherited}"]
    assert scene.notes("argv") == 2 * ["argv ['--workers', '1', 'app:handler']"]
    os.close(writer)


STARTS = """
STUBBORN = "import signal, time; signal.signal(15, 1); print(flush=True); time.sleep(60)"
BACKGROUND = "sleep 60 > /dev/null & echo $!"
def keep(process):
    note("child", process.pid)
    return process

def simple():
    return keep(subprocess.Popen(["sleep", "60"]))

def bare():
    return keep(subprocess.Popen(["/bin/sleep", "60"], env={}))

def own_group():  # as timeout and a shell's job control do
    return keep(subprocess.Popen(["sleep", "60"], process_group=0))

def grandchild():
    pipe = subprocess.PIPE
    shell = keep(subprocess.Popen(BACKGROUND + "; wait", shell=True, stdout=pipe))
    note("child", int(shell.stdout.readline()))
    return shell

def background():
    shell = subprocess.run(BACKGROUND, shell=True, stdout=subprocess.PIPE)
    note("child", int(shell.stdout))

def stubborn():
    process = keep(subprocess.Popen([sys.executable, "-S", "-c", STUBBORN], stdout=subprocess.PIPE))
    process.stdout.readline()
    return process

def forked():
    if not (pid := os.fork()):
        time.sleep(60)
        os._exit(0)
    note("child", pid)

def session():
    note("free", subprocess.Popen(["sleep", "60"], start_new_session=True).pid)

@handled
@per_message
def handler(message):
    if message.delivery_count > 1:
        return
    for start in (simple, bare, own_group, grandchild, background, stubborn, forked, session):
        start()
    note("started")
    if message.data.get("do") == "die":
        os.kill(os.getpid(), 9)
    elif message.data.get("do") == "exit":
        os._exit(1)
    elif message.data.get("do") != "end":
        time.sleep(60)
"""
ENDS: dict[str, tuple[list[str], dict[str, Any], list[int]]] = {
    "time limit": (["--time-limit", "1.5"], {}, []),
    "graceful timeout": (["--graceful-timeout", "0.3"], {}, [signal.SIGTERM]),
    "second TERM": ([], {}, [signal.SIGTERM, signal.SIGTERM]),
    "QUIT": ([], {}, [signal.SIGQUIT]),
    "killed": ([], {"do": "die"}, []),
    "os._exit": ([], {"do": "exit"}, []),
    "drained": ([], {"do": "end"}, [signal.SIGTERM]),
    "used up": (["--max-messages-per-child", "1"], {"do": "end"}, []),
}


@pytest.mark.parametrize("how", ENDS)
def test_nothing_that_a_handler_started_outlives_its_worker(scene: Any, how: str) -> None:
    """Whatever ends the worker: children, theirs, those with a process group of their own, in the
    background or deaf to SIGTERM; but not one that made a session of its own."""
    args, message, signals = ENDS[how]
    pool = scene.start(STARTS, *args)
    scene.push(message)
    scene.wait_notes("started")
    children = [int(line.split()[1]) for line in scene.notes("child")]
    [free] = [int(line.split()[1]) for line in scene.notes("free")]
    assert len(children) == 8
    for number in signals:
        pool.send(number)
        pool.wait_log("SIGTERM: draining|SIGQUIT")
    if signals:
        assert pool.wait() == 0
        assert not [pid for pid in children if alive(pid)]
    else:
        wait_until(lambda: not any(map(alive, children)), 8, "all children of the worker are gone")
        assert pool.alive
        pool.send(signal.SIGQUIT)
        pool.wait()
    assert alive(free)
    end(free)


def test_the_children_of_another_worker_are_left_alone(scene: Any) -> None:
    """Also what it started in the background, with a process group of its own."""
    app = """
@handled
@per_message
def handler(message):
    if message.data.get("do") == "die":
        os.kill(os.getpid(), 9)
    shell = "set -m; sleep 60 > /dev/null & echo $!"
    run = subprocess.run(["bash", "-c", shell], stdout=subprocess.PIPE)
    note("child", int(run.stdout))
    time.sleep(message.data["s"])
"""
    pool = scene.start(app, "--max-deliveries", "1", workers=2)
    scene.push({"s": 30})
    [line] = scene.wait_notes("child")
    scene.push({"do": "die"})
    scene.ledger.wait(lambda: bool(scene.ledger.letters()), "the other worker has died")
    wait_until(lambda: len(pool.workers()) == 2, 15, "it is replaced")
    child = int(line.split()[1])
    assert alive(child)
    pool.send(signal.SIGQUIT)
    pool.wait()
    assert not alive(child)
