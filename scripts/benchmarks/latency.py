"""From before the push to the start of the handler, while nothing else is going on."""

from __future__ import annotations

import json
import random
import time
from collections import defaultdict
from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path

from . import original
from .bench import Bench
from .figures import Figure, over_base_below, percentile, ratio_at_most
from .names import KEY
from .notes import count_notes, read_notes
from .processes import consumers, pool, raw_loops
from .server import BenchServer

WORKERS = 2
SEED = 7
PAUSE_S = (0.005, 0.02)  # between two messages
WARM_UP = 20
TIMEOUT_S = 10.0

LABELS = {
    "stamp": "pool",
    "stamp_async": "pool, async",
    "stamp_batch": f"{WORKERS} consumers, async",
}

Setting = Callable[[Path], AbstractContextManager[object]]


def run(bench: Bench) -> list[Figure]:
    original.install()
    taken: dict[str, list[list[float]]] = defaultdict(list)
    with BenchServer(tcp=True) as server:  # 0.1.3 knows no other way
        settings: dict[str, Setting] = {
            "raw": partial(raw_loops, server, WORKERS, "stamp"),
            "stamp": lambda notes: pool(
                server, "stamp", WORKERS, cwd=bench.new_directory(), notes=notes
            ),
            "stamp_async": lambda notes: pool(
                server, "stamp_async", WORKERS, cwd=bench.new_directory(), notes=notes
            ),
            "stamp_batch": partial(consumers, server, "library", "stamp_batch"),
            "original": partial(consumers, server, "original", "stamp"),
        }
        for _ in bench.each_round():
            for name, setting in settings.items():
                taken[name].append(_latencies_ms(bench, server, setting))
    figures = []
    for name, label in LABELS.items():
        for base, versus, goal in (
            ("raw", "raw loops", over_base_below(1.0, "ms")),
            ("original", f"{original.VERSION}, {WORKERS} consumers", ratio_at_most(1)),
        ):
            for percent in (50, 99):
                figures.append(
                    Figure(
                        f"{label}, p{percent}",
                        "ms",
                        [percentile(values, percent) for values in taken[name]],
                        [percentile(values, percent) for values in taken[base]],
                        versus,
                        goal if percent == 50 else None,
                    )
                )
    return figures


def _latencies_ms(bench: Bench, server: BenchServer, setting: Setting) -> list[float]:
    server.empty()
    notes = bench.new_directory()
    pause = random.Random(SEED).uniform
    count = WARM_UP + bench.size(500, 100)
    with setting(notes):
        for _ in range(count):
            time.sleep(pause(*PAUSE_S))
            server.client.xadd(KEY, {"data": json.dumps({"at": time.monotonic_ns()})})
        server.wait(lambda: count_notes(str(notes)) == count, TIMEOUT_S, "all have arrived")
    arrived = sorted(read_notes(str(notes)), key=lambda note: note.first)[WARM_UP:]
    return [(note.second - note.first) / 1e6 for note in arrived]
