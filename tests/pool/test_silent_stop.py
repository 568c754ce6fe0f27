"""Promise 8, no silent stop: whatever happens to Redis, two seconds after it all workers work.

Each test prints and records its recovery time; see trial.py for what else is asserted.
"""

from __future__ import annotations

import pytest

from tests.pool.scene import Scene, last
from tests.pool.trial import RECOVERY_S
from tests.support.ledger import DLQ, GROUP, STREAM
from tests.support.servers import NAMES, Server
from tests.support.waiting import wait_until

OUTAGE_S = 3.0
NOTICED_S = 1.2  # so long a read of a worker waits for its answer
LOADING_KEYS = 3000
SLOW_LOADING = ("--key-load-delay", "1000", "--loading-process-events-interval-bytes", "1024")


def test_redis_is_killed_and_restarted(scene: Scene) -> None:
    """kill -9 and a restart on the same append-only file."""
    server = scene.server()
    _, trial = scene.pool(server)
    with trial.through("redis restart", repeats=True, says="Connect call failed"):
        server.kill()
        last(OUTAGE_S)
        server.restart()


@pytest.mark.long
@pytest.mark.parametrize("old_master", ["is dead", "lives on as a replica"])
def test_failover(scene: Scene, old_master: str) -> None:
    """The address moves to the replica. Connections that stay with the old master, which refuses
    to write from then on, are given up."""
    server, heir = scene.server(), scene.server()
    proxy = scene.proxy(server)
    follow(heir, server)
    _, trial = scene.pool(server, url=proxy.url)
    with trial.through(f"failover, the old master {old_master}", repeats=True):
        assert trial.redis.wait(1, 5000) == 1
        if old_master == "is dead":
            server.kill()
            last(OUTAGE_S)
        trial.move_to(heir)
        trial.redis.replicaof("NO", "ONE")
        proxy.set(target=("127.0.0.1", heir.port))
        if server.alive:
            with server.client() as client:
                client.replicaof("127.0.0.1", heir.port)


@pytest.mark.parametrize("name", NAMES)
def test_flushall(scene: Scene, name: str) -> None:
    """The stream and the group are made anew; what is pushed afterwards is handled."""
    _, trial = scene.pool(scene.server(name))
    with trial.through(f"FLUSHALL of {name}", deletes=True):
        trial.redis.flushall()


@pytest.mark.parametrize("name", NAMES)
def test_xgroup_destroy(scene: Scene, name: str) -> None:
    """The group is made anew and no message is left out; some may run again, since nobody knows
    any more that they were acknowledged."""
    _, trial = scene.pool(scene.server(name))
    with trial.through(f"XGROUP DESTROY on {name}", repeats=True):
        trial.redis.xgroup_destroy(STREAM, GROUP)


@pytest.mark.parametrize("name", NAMES)
def test_the_stream_is_deleted(scene: Scene, name: str) -> None:
    _, trial = scene.pool(scene.server(name))
    with trial.through(f"DEL of the stream on {name}", deletes=True):
        trial.redis.delete(STREAM)


def test_client_kill(scene: Scene) -> None:
    """All connections of all processes are closed at once."""
    _, trial = scene.pool(scene.server())
    with trial.through("CLIENT KILL TYPE normal"):
        assert trial.redis.execute_command("CLIENT KILL TYPE normal") > 0


def test_client_pause(scene: Scene) -> None:
    """Redis accepts everything and answers nothing. Commands that were given up meanwhile are
    carried out at the end of it: what they deliver to nobody is found."""
    _, trial = scene.pool(scene.server())
    with trial.through("CLIENT PAUSE ALL"):
        trial.redis.execute_command("CLIENT PAUSE", int(OUTAGE_S * 1000), "ALL")
        trial.redis.ping()


def test_half_open_connections(scene: Scene) -> None:
    """Nothing comes through the connections there are, not even their end; new ones work at once,
    so the fault ends for us when a read that gets no answer has noticed it."""
    server = scene.server()
    proxy = scene.proxy(server)
    _, trial = scene.pool(server, url=proxy.url)
    with trial.through("half-open connections"):
        proxy.strand_all()
        last(NOTICED_S)


@pytest.mark.parametrize("fault", ["cut", "stall"])
def test_network(scene: Scene, fault: str) -> None:
    """All connections are cut and new ones refused; or nothing passes, and then all of it does."""
    server = scene.server()
    proxy = scene.proxy(server)
    _, trial = scene.pool(server, url=proxy.url)
    with trial.through(f"a network {fault}"):
        if fault == "cut":
            proxy.set(refuse=True)
            proxy.reset_all()
        else:
            proxy.stall()
        last(OUTAGE_S)
        proxy.heal()


def test_loading(scene: Scene) -> None:
    """A restart that takes seconds to load, answering LOADING all the while."""
    server = scene.server("valkey-9.1", *SLOW_LOADING)
    fill(server)
    _, trial = scene.pool(server)
    with trial.through("LOADING", repeats=True, says="(?i)loading the dataset"):
        server.kill()
        server.restart()


def test_readonly(scene: Scene) -> None:
    """Redis becomes a replica of a master that nobody can reach, and then a master again."""
    _, trial = scene.pool(scene.server())
    with trial.through("READONLY", says="(?i)read.?only"):
        trial.redis.replicaof("127.0.0.1", 1)
        last(OUTAGE_S)
        trial.redis.replicaof("NO", "ONE")


def test_a_worker_dies_while_redis_is_readonly(scene: Scene) -> None:
    """Its message, and its successor's name, can only be seen to when Redis takes writes again."""
    _, trial = scene.pool(scene.server())
    with trial.through("a worker's death during READONLY", repeats=True) as fault:
        trial.redis.replicaof("127.0.0.1", 1)
        trial.kill(fault.running.pid)
        last(OUTAGE_S)
        trial.redis.replicaof("NO", "ONE")
    assert trial.wait_run(fault.running.id).at_s - fault.end_s < RECOVERY_S


def test_out_of_memory(scene: Scene) -> None:
    """Redis takes no new data: a dead letter waits, and moves once there is room."""
    _, trial = scene.pool(scene.server())
    with trial.through("OOM", running={"do": "reject"}, says="used memory") as fault:
        trial.redis.config_set("maxmemory", 1)
        last(OUTAGE_S)
        trial.redis.config_set("maxmemory", 0)
    [(_, letter)] = trial.redis.xrange(DLQ)
    assert letter[b"original_id"].decode() == fault.running.id


@pytest.mark.parametrize("commands", ["xreadgroup", "xack", "evalsha eval", "xpending"])
def test_forbidden_command(scene: Scene, commands: str) -> None:
    """An ACL takes away what the pool needs, and gives it back."""
    _, trial = scene.pool(scene.server())
    rules = commands.split()
    with trial.through(f"NOPERM for {commands}", running={"do": "retry"}, says="permission"):
        trial.redis.execute_command("ACL SETUSER default", *(f"-{rule}" for rule in rules))
        for _ in range(10):
            trial.push()
        last(OUTAGE_S)
        trial.redis.execute_command("ACL SETUSER default", *(f"+{rule}" for rule in rules))


def follow(replica: Server, master: Server) -> None:
    """Make it a replica and wait until it is in step."""
    with replica.client() as client:
        client.replicaof("127.0.0.1", master.port)
        wait_until(
            lambda: client.info("replication")["master_link_status"] == "up",
            10,
            "the replica is in step",
        )


def fill(server: Server) -> None:
    """Give it so many keys that loading them again takes as many ms."""
    with server.client() as client:
        client.mset({f"filler:{n}": n for n in range(LOADING_KEYS)})
        client.bgrewriteaof()
        wait_until(
            lambda: not client.info("persistence")["aof_rewrite_in_progress"],
            10,
            "the append-only file holds a snapshot",
        )
