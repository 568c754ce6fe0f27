"""How long a PING takes, on several servers in turn: ``python -m scripts.benchmarks.pings URL...``.

Says "ready", goes on until a line comes, and says the p99 of each server in ms. A process of its
own, so that nothing but the server and the machine makes it wait.
"""

from __future__ import annotations

import select
import sys
import time

from .figures import percentile
from .raw import connect

PAUSE_S = 0.002


def main(*urls: str) -> None:
    servers = [(connect(url), list[float]()) for url in urls]
    print("ready", flush=True)
    while not select.select([sys.stdin], [], [], PAUSE_S)[0]:
        for connection, waits in servers:
            began_s = time.perf_counter()
            connection.send_command("PING")
            connection.read_response()
            waits.append((time.perf_counter() - began_s) * 1000)
    print(*(percentile(waits, 99) for _, waits in servers), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
