"""A real Redis Cluster of three masters on 127.0.0.1, with or without replicas."""

from __future__ import annotations

import contextlib
from functools import partial
from itertools import pairwise

import redis

from .servers import Server, free_port
from .waiting import wait_until

SLOTS = 16384
NODES = 3
READY_TIMEOUT_S = 30.0


class Cluster:
    """Three masters; ``nodes`` can be killed, paused and restarted one by one. ``replicas``: one of
    each of them, in the same order, or none."""

    def __init__(self) -> None:
        self.nodes: list[Server] = []
        self.replicas: list[Server] = []

    @classmethod
    def start(
        cls, name: str = "redis-8.2", *, node_timeout_ms: int = 2000, replicas: bool = False
    ) -> Cluster:
        """Start servers of version 7.0 or newer and wait until all slots are served, and all
        replicas have what there is."""
        cluster = cls()
        try:
            bus_ports = []
            for number in range(NODES * (1 + replicas)):
                bus_ports.append(free_port())
                arguments = ["--cluster-enabled", "yes", "--cluster-config-file", "nodes.conf"]
                arguments += ["--cluster-node-timeout", str(node_timeout_ms)]
                arguments += ["--cluster-port", str(bus_ports[-1])]
                arguments += ["--repl-diskless-sync-delay", "0"]
                servers = cluster.nodes if number < NODES else cluster.replicas
                servers.append(Server.start(name, tcp=True, extra_args=arguments))
            cluster._form(bus_ports)
        except BaseException:
            cluster.stop()
            raise
        return cluster

    @property
    def ports(self) -> list[int]:
        return [node.port for node in self.nodes]

    @property
    def url(self) -> str:
        return f"redis+cluster://127.0.0.1:{self.ports[0]}"

    def node_of(self, key: str) -> Server:
        """The node that serves this key's slot."""
        with self.nodes[0].client() as client:
            slot = client.execute_command("CLUSTER KEYSLOT", key)
        return self.nodes[next(i for i, (low, high) in enumerate(_shares()) if low <= slot <= high)]

    def flush(self) -> None:
        """Empty all nodes, paused or killed ones too, and wait until all slots are served."""
        for node in self.nodes:
            node.flush()
        self._wait_until_ok()

    def stop(self) -> None:
        """End all nodes; safe twice."""
        for node in [*self.nodes, *self.replicas]:
            node.stop()

    def __enter__(self) -> Cluster:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _form(self, bus_ports: list[int]) -> None:
        """Give every node its slots, make them meet, and wait until they agree."""
        for epoch, (node, (low, high)) in enumerate(zip(self.nodes, _shares(), strict=True), 1):
            with node.client() as client:
                client.execute_command("CLUSTER SET-CONFIG-EPOCH", epoch)
                client.execute_command("CLUSTER ADDSLOTSRANGE", low, high)
        with self.nodes[0].client() as client:
            others = [*self.nodes, *self.replicas][1:]
            for node, bus_port in zip(others, bus_ports[1:], strict=True):
                client.execute_command("CLUSTER MEET", "127.0.0.1", node.port, bus_port)
        self._wait_until_ok()
        for node, replica in zip(self.nodes, self.replicas, strict=False):
            with node.client() as master, replica.client() as client:
                client.execute_command("CLUSTER REPLICATE", master.execute_command("CLUSTER MYID"))
            wait_until(partial(_has_a_replica, node), READY_TIMEOUT_S, f"{node.port} has a replica")

    def _wait_until_ok(self) -> None:
        known = len(self.nodes) + len(self.replicas)
        for node in [*self.nodes, *self.replicas]:
            wait_until(
                partial(_serves_everything, node, known),
                READY_TIMEOUT_S,
                f"node {node.port} sees all {known} nodes and {SLOTS} slots",
            )


def _shares() -> list[tuple[int, int]]:
    """First and last slot of each node."""
    bounds = [SLOTS * i // NODES for i in range(NODES + 1)]
    return [(low, high - 1) for low, high in pairwise(bounds)]


def _has_a_replica(node: Server) -> bool:
    with node.client() as client:
        return bool(client.info("replication").get("slave0", {}).get("state") == "online")


def _serves_everything(node: Server, known: int) -> bool:
    with contextlib.suppress(redis.RedisError), node.client() as client:
        info = client.execute_command("CLUSTER INFO")
        return (
            info["cluster_state"] == "ok"
            and int(info["cluster_known_nodes"]) == known
            and int(info["cluster_slots_ok"]) == SLOTS
        )
    return False
