"""The server that both sides use, and the driver's hand on it: filling, waiting, counting.

Filling is one script: consumers that block on the empty stream all get their first message at the
same moment, when the script ends.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import redis

from tests.support.servers import Server

from .names import GROUP, KEY

SERVER = "valkey-9.1"
DRIVER = "bench-driver"  # client name: what it does is left out of what is counted
POLL_S = 0.005
SCRIPT_TIMEOUT_S = 120.0
MOST_AT_ONCE = 200_000  # entries per script: longer than a second, and consumers see an outage
SMALL = '{"number": 123456, "text": "a small message", "ok": true}'

# ARGV: how many, payload, payload of the long ones, how many parts of headers, these, index of each
#       long one
_FILL = """
local long, parts = {}, 4 + tonumber(ARGV[4])
for i = parts + 1, #ARGV do long[tonumber(ARGV[i])] = true end
for i = 1, tonumber(ARGV[1]) do
  redis.call('XADD', KEYS[1], '*', 'data', long[i] and ARGV[3] or ARGV[2], unpack(ARGV, 5, parts))
end
"""

# ARGV: group, consumer, how many, payload, idle ms
_ABANDON = """
local left = tonumber(ARGV[3])
for i = 1, left do redis.call('XADD', KEYS[1], '*', 'data', ARGV[4]) end
while left > 0 do
  local read = redis.call('XREADGROUP', 'GROUP', ARGV[1], ARGV[2], 'COUNT', math.min(left, 1000),
                          'STREAMS', KEYS[1], '>')[1][2]
  local claim = {'XCLAIM', KEYS[1], ARGV[1], ARGV[2], 0}
  for _, entry in ipairs(read) do claim[#claim + 1] = entry[1] end
  for _, word in ipairs({'IDLE', ARGV[5], 'JUSTID'}) do claim[#claim + 1] = word end
  redis.call(unpack(claim))
  left = left - #read
end
"""


class BenchServer:
    """A private server without persistence, on a unix socket or on TCP."""

    def __init__(self, *, tcp: bool = False) -> None:
        self._server = Server.start(SERVER, tcp=tcp, extra_args=("--appendonly", "no"))
        self.url = self._server.url
        self.client: redis.Redis = self._server.client(
            client_name=DRIVER, socket_timeout=SCRIPT_TIMEOUT_S, protocol=2
        )
        self._fill = self.client.register_script(_FILL)
        self._abandon = self.client.register_script(_ABANDON)

    def __enter__(self) -> BenchServer:
        return self

    def __exit__(self, *_: object) -> None:
        self.client.close()
        self._server.stop()

    @property
    def version(self) -> str:
        info: dict[str, Any] = self.client.info("server")
        name = "valkey" if "valkey_version" in info else "redis"
        return f"{name} {info.get('valkey_version') or info['redis_version']}"

    # -- messages ------------------------------------------------------------------------------

    def empty(self, group: str = GROUP) -> None:
        """Forget everything; then an empty stream with its group."""
        self.client.flushall()
        self.settle()
        self.client.xgroup_create(KEY, group, "0", mkstream=True)

    def settle(self) -> None:
        """Clean up now what the server would clean up while it is being measured: garbage of the
        filling scripts, and memory that is free but not yet given back.
        """
        self.client.script_flush("SYNC")
        self.client.memory_purge()

    def fill(
        self,
        count: int,
        payload: str = SMALL,
        long_payload: str = "",
        long: Sequence[int] = (),
        headers: Sequence[str] = (),
    ) -> int:
        """Add messages in one step; returns when it was done (monotonic clock, ns).

        long: which of them (from 1) have the long payload. headers: of each, name, value, ...
        """
        args: list[Any] = [count, payload, long_payload, len(headers), *headers, *long]
        self._fill(keys=[KEY], args=args)
        return time.monotonic_ns()

    def fill_many(self, count: int) -> None:
        """Any number of small messages, in as many steps as it takes."""
        for start in range(0, count, MOST_AT_ONCE):
            self.fill(min(MOST_AT_ONCE, count - start))

    def abandon(self, count: int, consumer: str, idle_ms: int) -> None:
        """Add messages that this consumer holds and has been silent about for so long."""
        step = 20_000
        for start in range(0, count, step):
            portion = min(step, count - start)
            self._abandon(keys=[KEY], args=[GROUP, consumer, portion, SMALL, idle_ms])

    # -- waiting -------------------------------------------------------------------------------

    def group(self, name: str = GROUP) -> dict[str, Any]:
        """XINFO GROUPS of one group."""
        groups: list[dict[str, Any]] = self.client.xinfo_groups(KEY)
        return next(g for g in groups if g["name"] == name.encode())

    def consumers(self) -> list[dict[str, Any]]:
        """XINFO CONSUMERS."""
        consumers: list[dict[str, Any]] = self.client.xinfo_consumers(KEY, GROUP)
        return consumers

    def wait_blocked(self, consumers: int, timeout_s: float = 30) -> None:
        """Wait until so many clients wait for messages; who waits for anything else is none."""

        def all_blocked() -> bool:
            clients: list[dict[str, str]] = self.client.client_list()
            blocked = [c for c in clients if "b" in c["flags"] and c["cmd"] == "xreadgroup"]
            return len(blocked) == consumers

        self.wait(all_blocked, timeout_s, f"{consumers} consumers wait for messages")

    def wait_done(self, timeout_s: float = 300, poll_s: float = POLL_S) -> int:
        """Wait until everything is read and acknowledged; returns when (monotonic clock, ns)."""

        def done() -> bool:
            group = self.group()
            return not group["pending"] and not group["lag"]

        return self.wait(done, timeout_s, "everything is acknowledged", poll_s)

    def wait_read(self, timeout_s: float = 300) -> int:
        """Wait until everything is read; returns when (monotonic clock, ns)."""
        return self.wait(lambda: not self.group()["lag"], timeout_s, "everything is read")

    def wait(self, condition: Any, timeout_s: float, what: str, poll_s: float = POLL_S) -> int:
        """Look again and again; returns when it was true (monotonic clock, ns)."""
        deadline = time.monotonic() + timeout_s
        while not condition():
            if time.monotonic() > deadline:
                raise TimeoutError(f"not within {timeout_s:g} s: {what}")
            time.sleep(poll_s)
        return time.monotonic_ns()

    # -- counting ------------------------------------------------------------------------------

    def calls(self) -> int:
        """Commands so far, those inside scripts too, without INFO."""
        stats: dict[str, Any] = self.client.info("commandstats")
        return sum(s["calls"] for name, s in stats.items() if name != "cmdstat_info")
