"""The driver: ``python -m tests.chaos.run [--seed N] [--seconds S] [--soak] [--keep]``."""

from __future__ import annotations

import argparse
import random
import resource
import shutil
import signal
import sys
import tempfile
from collections import Counter
from pathlib import Path

from tests.support.ledger import Notes

from .executions import executions
from .feeder import Feeder
from .history import history, odd_tracebacks
from .later import judge_later, resolved, withdrawn
from .outcome import check_exits, drain, letters, pending_lines
from .recorder import Recorder
from .stage import READY_S, Stage
from .storm import Storm
from .verdict import Verdict, judge

SOAK_S = 600
DRAIN_S = 90.0
MOST_SHOWN = 8  # findings with their whole history
INTERRUPTED = 130


def main() -> int:
    options = _options()
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.default_int_handler)  # end like after Ctrl-C
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # messages that segfault leave no core files
    directory = Path(tempfile.mkdtemp(prefix="rsq-chaos-"))
    print(f"chaos: seed {options.seed}, {options.seconds:g} s", flush=True)
    try:
        return _run(directory, options.seed, options.seconds)
    except KeyboardInterrupt:
        print("interrupted, all is stopped", file=sys.stderr)
        return INTERRUPTED
    finally:
        if options.keep:
            print(f"logs, notes and commands are in {directory}")
        else:
            shutil.rmtree(directory, ignore_errors=True)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="scripts/chaos", description=__doc__)
    seed = random.randrange(1_000_000)
    parser.add_argument("--seed", type=int, default=seed, help="default: a random one")
    parser.add_argument("--seconds", type=float, default=30, help="of faults; default 30")
    parser.add_argument("--soak", action="store_true", help=f"--seconds {SOAK_S}")
    parser.add_argument("--keep", action="store_true", help="keep the directory with the logs")
    options = parser.parse_args()
    if options.soak:
        options.seconds = SOAK_S
    return options


def _run(directory: Path, seed: int, seconds: float) -> int:
    stage = Stage(directory)
    if not stage.clock.works:
        print("there is no C compiler: the server's clock will not jump")
    storm, feeder = Storm(stage, seed), Feeder(stage.server.url, seed, stage.pushed)
    recorder = Recorder(stage.server.socket_path or "", directory / "commands")
    try:
        recorder.start()
        for host in stage.hosts:
            host.start_pool()
        for host in stage.hosts:
            host.pool.wait_ready(READY_S)
        feeder.start()
        storm.rage(seconds)
        feeder.stop()
        stage.heal()
        drained_s = drain(stage, DRAIN_S)
        if taken := feeder.taken_keys():
            stage.complain(f"all is finished, and unique keys are taken: {', '.join(taken)}")
        with stage.server.client() as client:
            pending, dead = pending_lines(client), letters(client)
        check_exits(stage)
    finally:
        _calmly(stage, feeder, recorder)
    runs = executions(Notes(directory / "notes").all())
    pushed, became, twice = resolved(feeder.pushed, runs, dead)
    gone = withdrawn(pushed, stage.cancelled, became)
    verdict = judge(pushed, feeder.unconfirmed, runs, dead, stage.faults, gone)
    verdict.findings += twice
    verdict.findings += judge_later(
        pushed, feeder.refused, stage.cancelled, became, runs, dead, stage.faults
    )
    _print_table(verdict, storm, stage, drained_s)
    for finding in verdict.findings[:MOST_SHOWN]:
        print(f"\n{finding.what} {finding.id} {finding.detail}")
        if finding.id:
            story = history(
                finding.id,
                directory=directory,
                pushed=pushed,
                executions=runs,
                letters=dead,
                faults=stage.faults.all,
                pending=pending,
            )
            print("\n".join(story))
    for complaint in stage.complaints:
        print(f"\n{complaint}")
    return 1 if verdict.findings or stage.complaints else 0


def _calmly(stage: Stage, feeder: Feeder, recorder: Recorder) -> None:
    """Stop everything, and let no second Ctrl-C come in between."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    stage.over.set()
    stage.server.resume()
    feeder.stop()
    recorder.stop()
    stage.stop()


def _print_table(verdict: Verdict, storm: Storm, stage: Stage, drained_s: float) -> None:
    odd = odd_tracebacks(stage.directory)
    found = [finding.what for finding in verdict.findings] + ["complaint" for _ in stage.complaints]
    unexplained = verdict.twice.pop("UNEXPLAINED", 0)
    overlapping = verdict.overlaps.pop("UNEXPLAINED", 0)
    rows = {
        "faults": f"{storm.counts.total()}: {_counted(storm.counts)}",
        "pushed": f"{verdict.pushed}, and {verdict.unconfirmed} without an answer",
        "handled": verdict.handled,
        "dead": f"{verdict.dead}, {verdict.unlucky} of them by mere bad luck",
        "withdrawn": f"{verdict.withdrawn} of {len(stage.cancelled)} cancelled, and expired",
        "lost": f"{verdict.lost}, and {verdict.dropped} dropped by DELCONSUMER",
        "executions": verdict.executions,
        "executed again": f"{verdict.twice.total()}: {_counted(verdict.twice)}",
        "  unexplained": unexplained,
        "overlapping": f"{verdict.overlaps.total()}: {_counted(verdict.overlaps)}",
        "  unexplained ": overlapping,
        "pools": ", ".join(f"{h.name}: {len(h.pools)}" for h in stage.hosts),
        "drained": f"{drained_s:.1f} s after the storm",
        "odd tracebacks": f"{len(odd)} {odd[:3] if odd else ''}",
        "findings": f"{len(found)}: {_counted(Counter(found))}",
    }
    for name, value in rows.items():
        print(f"  {name:16} {value}")


def _counted(counts: dict[str, int]) -> str:
    ordered = sorted(counts.items(), key=lambda item: -item[1])
    return ", ".join(f"{count} {name}" for name, count in ordered) or "-"


if __name__ == "__main__":
    sys.exit(main())
