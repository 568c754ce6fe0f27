"""What can be done to the stage. Each action records its fault before it does it.

An action holds the locks of what it works on, so that no two do opposite things to one pool; all
else may overlap.
"""

from __future__ import annotations

import contextlib
import random
import signal
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

import psutil
import redis

from redis_stream_queue.connection.exchange import OUTAGES
from tests.support.pool import PoolProcess

from .app import GROUP, STREAM, tick_number
from .later import JUMP, PAUSE, Cancelled
from .stage import GRACEFUL_S, READY_S, Host, Stage

Run = Callable[[Stage, Host, random.Random], None]
Lock = threading.Lock

LEAVE_S = GRACEFUL_S + 5
STOP_S = (0.2, 3.0)  # how long something is stopped or stalled
OUTAGE_S = (2.5, 4.0)
PAUSE_S = (0.6, 2.0)


@dataclass(frozen=True)
class Action:
    """weight: how often it is chosen; locks: what it must have for itself."""

    name: str
    weight: float
    run: Run
    locks: Callable[[Stage, Host], list[Lock]]


def _pool(_: Stage, host: Host) -> list[Lock]:
    return [host.pool_busy]


def _workers(_: Stage, host: Host) -> list[Lock]:
    return [host.workers_busy]


def _whole_host(_: Stage, host: Host) -> list[Lock]:
    return [host.pool_busy, host.workers_busy]


def _network(_: Stage, host: Host) -> list[Lock]:
    return [host.network_busy]


def _redis(stage: Stage, _: Host) -> list[Lock]:
    return [stage.redis_busy]


def _operator(stage: Stage, _: Host) -> list[Lock]:
    return [stage.operator_busy]


# -- processes -----------------------------------------------------------------------------------


def kill_worker(stage: Stage, host: Host, rng: random.Random) -> None:
    if workers := host.workers():
        _kill(stage, host.life, rng.choice(workers))


def stop_worker(stage: Stage, host: Host, rng: random.Random) -> None:
    if not (workers := host.workers()):
        return
    worker = rng.choice(workers)
    with stage.faults.during("stop", host=host.name, pool=host.life, pid=worker.pid):
        _stopped([worker], stage, rng)


def kill_template(stage: Stage, host: Host, _: random.Random) -> None:
    template = host.pool.template()
    if template is not None and host.is_ready():
        stage.faults.moment("kill template", host=host.name, pool=host.life, pid=template)
        _signal(psutil.Process(template), signal.SIGKILL)


def kill_master(stage: Stage, host: Host, rng: random.Random) -> None:
    stage.faults.moment("kill master", host=host.name, pool=host.life, pid=host.pool.pid)
    host.pool.send(signal.SIGKILL)
    host.pool.process.wait()
    _start_again(stage, host, rng)


def stop_master(stage: Stage, host: Host, rng: random.Random) -> None:
    master = psutil.Process(host.pool.pid)
    with stage.faults.during("stop master", host=host.name, pool=host.life, pid=master.pid):
        _stopped([master], stage, rng)


def kill_host(stage: Stage, host: Host, rng: random.Random) -> None:
    """The machine dies: everything at once."""
    stage.faults.moment("kill master", host=host.name, pool=host.life, pid=host.pool.pid)
    host.pool.send(signal.SIGKILL)
    for life, pool in _lives(host):
        while living := pool.processes():
            for process in living:
                _kill(stage, life, process)
    host.pool.process.wait()
    _start_again(stage, host, rng)


def stop_host(stage: Stage, host: Host, rng: random.Random) -> None:
    """The machine sleeps: everything stands still, and goes on as if nothing had happened."""
    with stage.faults.during("stop host", host=host.name, severs=True):
        _stopped([p for _, pool in _lives(host) for p in pool.processes()], stage, rng)


def terminate(stage: Stage, host: Host, rng: random.Random) -> None:
    if not host.is_ready():
        return
    with stage.faults.during("terminate", host=host.name, pool=host.life):
        host.pool.send(signal.SIGTERM)
        deadline = time.monotonic() + LEAVE_S
        while host.pool.alive and time.monotonic() < deadline:
            time.sleep(0.02)
    code = host.pool.process.poll()
    if code != 0:
        said = "did not leave" if code is None else f"left with exit code {code}"
        stage.complain(f"SIGTERM: pool {host.life} {said}")
        host.pool.close()
    _start_again(stage, host, rng)


def reload(stage: Stage, host: Host, _: random.Random) -> None:
    if host.is_ready():
        stage.faults.moment("reload", host=host.name, pool=host.life)
        host.pool.send(signal.SIGHUP)


def _kill(stage: Stage, life: str, process: psutil.Process) -> None:
    stage.faults.moment("kill", host=life[0], pool=life, pid=process.pid)
    _signal(process, signal.SIGKILL)
    with contextlib.suppress(psutil.Error):
        process.wait(1)


def _stopped(processes: list[psutil.Process], stage: Stage, rng: random.Random) -> None:
    try:
        for process in processes:
            _signal(process, signal.SIGSTOP)
        stage.pause(rng.uniform(*STOP_S))
    finally:
        for process in processes:
            _signal(process, signal.SIGCONT)


def _start_again(stage: Stage, host: Host, rng: random.Random) -> None:
    stage.pause(rng.uniform(0.0, 2.0))
    host.start_pool()
    deadline = time.monotonic() + READY_S
    while not stage.over.is_set() and not host.is_ready():
        if not host.pool.alive:
            return  # the run sees that it has ended
        if time.monotonic() > deadline:
            stage.complain(f"pool {host.life} was not ready within {READY_S:g} s")
            return
        stage.pause(0.05)


def _lives(host: Host) -> list[tuple[str, PoolProcess]]:
    """The pool of now, and the one before: its workers may still finish what they run."""
    return [(f"{host.name}{n}", pool) for n, pool in enumerate(host.pools, 1)][-2:]


def _signal(process: psutil.Process, number: int) -> None:
    with contextlib.suppress(psutil.NoSuchProcess):
        process.send_signal(number)


# -- the network of one host ---------------------------------------------------------------------


def cut(stage: Stage, host: Host, _: random.Random) -> None:
    with stage.faults.during("cut", host=host.name, severs=True):
        host.proxy.reset_all()


def isolate(stage: Stage, host: Host, rng: random.Random) -> None:
    with stage.faults.during("isolate", host=host.name, severs=True):
        host.proxy.set(refuse=True)
        host.proxy.reset_all()
        stage.pause(rng.uniform(*STOP_S))
        host.proxy.set(refuse=False)


def stall(stage: Stage, host: Host, rng: random.Random) -> None:
    with stage.faults.during("stall", host=host.name, severs=True):
        host.proxy.stall()
        stage.pause(rng.uniform(*STOP_S))
        host.proxy.resume()


def cut_replies(stage: Stage, host: Host, rng: random.Random) -> None:
    """Every reply that comes is cut somewhere, and its connection too."""
    with stage.faults.during("cut replies", host=host.name, severs=True):
        host.proxy.set(cut_after=rng.randint(0, 400))
        stage.pause(rng.uniform(0.02, 0.4))
        host.proxy.heal()


def slow_network(stage: Stage, host: Host, rng: random.Random) -> None:
    with stage.faults.during("slow network", host=host.name):
        host.proxy.set(latency_s=rng.uniform(0.005, 0.08))
        stage.pause(rng.uniform(*STOP_S))
        host.proxy.set(latency_s=0.0)


def slow_line(stage: Stage, host: Host, rng: random.Random) -> None:
    with stage.faults.during("slow line", host=host.name):
        host.proxy.set(bytes_per_s=rng.uniform(30_000, 200_000))
        stage.pause(rng.uniform(*STOP_S))
        host.proxy.heal()


# -- Redis ---------------------------------------------------------------------------------------


def demote(stage: Stage, _: Host, rng: random.Random) -> None:
    """The master becomes a replica of nobody that answers, and is made a master again."""
    with stage.faults.during("demote", severs=True), stage.server.client() as client:
        client.execute_command("REPLICAOF", "127.0.0.1", 1)
        stage.pause(rng.uniform(*STOP_S))
        client.execute_command("REPLICAOF", "NO", "ONE")


def out_of_memory(stage: Stage, _: Host, rng: random.Random) -> None:
    with stage.faults.during("out of memory"), stage.server.client() as client:
        client.config_set("maxmemory", 1)
        stage.pause(rng.uniform(*STOP_S))
        client.config_set("maxmemory", 0)


def clock_jumps(stage: Stage, _: Host, rng: random.Random) -> None:
    if stage.clock.works:
        stage.faults.moment(JUMP)
        stage.clock.jump(rng.choice([60, 5, -5, -60]))


def delete_consumer(stage: Stage, _: Host, rng: random.Random) -> None:
    """An operator's clean-up: somebody who holds messages, alive or not; no parked retries."""
    with stage.server.client() as client:
        names = [c["name"] for c in client.xinfo_consumers(STREAM, GROUP) if c["pending"]]
        names = [name for name in names if b":retry:" not in name]
        if not names:
            return
        name = rng.choice(names)
        with client.pipeline() as pipe:  # one step: nothing is delivered in between
            pipe.xpending_range(STREAM, GROUP, "-", "+", 10_000, name)
            pipe.xgroup_delconsumer(STREAM, GROUP, name)
            held, _count = pipe.execute()
        ids = {line["message_id"].decode() for line in held}
        entries = [fields for i in ids for _, fields in client.xrange(STREAM, i, i)]
        for known in (b"rsq:scheduled", b"rsq:first"):
            ids |= {f[known].decode() for f in entries if known in f}
        ticks = [f[b"rsq:tick"].decode() for f in entries if b"rsq:tick" in f]
        ids |= {f"tick {-tick_number(tick)}" for tick in ticks}
        stage.faults.moment("delete consumer", ids=frozenset(ids))


def cancel(stage: Stage, _: Host, rng: random.Random) -> None:
    """Some of the last messages, wherever they are."""
    recent = stage.pushed[-60:]
    for pushed in rng.sample(recent, min(5, len(recent))):
        stage.cancelled.append(_cancelled(stage, pushed.id))


def _cancelled(stage: Stage, message_id: str) -> Cancelled:
    begun_s, said = time.time(), None
    with contextlib.suppress(*OUTAGES):
        said = stage.ask(lambda client: client.cancel(STREAM, message_id)) or ""
    return Cancelled(message_id, said, begun_s, time.time())


def pause(stage: Stage, _: Host, rng: random.Random) -> None:
    group = rng.choice((None, GROUP))
    try:
        stage.ask(lambda client: client.pause(STREAM, group, for_s=30))
    except OUTAGES:
        return  # perhaps: it ends by itself
    with stage.faults.during(PAUSE):
        stage.pause(rng.uniform(*PAUSE_S))
    while True:
        try:
            stage.ask(lambda client: client.resume(STREAM, group))
            return
        except OUTAGES:
            if stage.over.wait(0.1):
                return


def long_outage(stage: Stage, _: Host, rng: random.Random) -> None:
    """Much longer than min_idle_claim_ms."""
    with stage.faults.during("long outage", severs=True):
        stage.server.kill()
        stage.pause(rng.uniform(*OUTAGE_S))
        stage.server.restart()


def client_kill(stage: Stage, _: Host, __: random.Random) -> None:
    with stage.faults.during("client kill", severs=True), stage.server.client() as client:
        client.execute_command("CLIENT", "KILL", "TYPE", "normal")


def client_pause(stage: Stage, _: Host, rng: random.Random) -> None:
    pause_s, what = rng.uniform(*STOP_S), rng.choice(["ALL", "WRITE"])
    with stage.faults.during("client pause", severs=True), stage.server.client() as client:
        client.execute_command("CLIENT", "PAUSE", int(pause_s * 1000), what)
        stage.pause(pause_s)


def kill_redis(stage: Stage, _: Host, rng: random.Random) -> None:
    with stage.faults.during("kill redis", severs=True):
        stage.server.kill()
        stage.pause(rng.uniform(0.0, 2.0))
        stage.server.restart()


def stop_redis(stage: Stage, _: Host, rng: random.Random) -> None:
    with stage.faults.during("stop redis", severs=True):
        stage.server.pause()
        stage.pause(rng.uniform(*STOP_S))
        stage.server.resume()


def debug_sleep(stage: Stage, _: Host, rng: random.Random) -> None:
    with (
        stage.faults.during("debug sleep", severs=True),
        stage.server.client() as client,
        contextlib.suppress(redis.RedisError),
    ):
        client.execute_command("DEBUG", "SLEEP", f"{rng.uniform(*STOP_S):.2f}")


ACTIONS = [
    Action("kill worker", 3, kill_worker, _workers),
    Action("stop worker", 3, stop_worker, _workers),
    Action("kill template", 1, kill_template, _pool),
    Action("kill master", 2, kill_master, _pool),
    Action("stop master", 2, stop_master, _pool),
    Action("kill host", 1, kill_host, _whole_host),
    Action("stop host", 2, stop_host, _whole_host),
    Action("terminate", 2, terminate, _pool),
    Action("reload", 2, reload, _pool),
    Action("cut", 3, cut, _network),
    Action("isolate", 1, isolate, _network),
    Action("stall", 3, stall, _network),
    Action("cut replies", 3, cut_replies, _network),
    Action("slow network", 1, slow_network, _network),
    Action("slow line", 1, slow_line, _network),
    Action("client kill", 2, client_kill, _redis),
    Action("client pause", 2, client_pause, _redis),
    Action("kill redis", 2, kill_redis, _redis),
    Action("stop redis", 1, stop_redis, _redis),
    Action("debug sleep", 1, debug_sleep, _redis),
    Action("demote", 1, demote, _redis),
    Action("out of memory", 1, out_of_memory, _redis),
    Action(JUMP, 1, clock_jumps, _redis),
    Action("delete consumer", 1, delete_consumer, _redis),
    Action("cancel", 3, cancel, _operator),
    Action("pause", 6, pause, _operator),
    Action("long outage", 0.5, long_outage, _redis),
]
