"""All three steps on a private server that lives as long as this script."""

import os
import signal
import subprocess
import sys
from pathlib import Path

from redis_stream_queue.embedded import start_or_join

STEPS = ("python push.py", "rsq-pool --burst --log-level warning app:handle", "python report.py")


def run(step: str, environment: dict[str, str]) -> None:
    print("$", step, flush=True)
    with subprocess.Popen(step.split(), cwd=Path(__file__).parent, env=environment) as process:
        try:
            code = process.wait()
        except BaseException:  # Ctrl-C or SIGTERM: the step ends first, then its server
            process.terminate()
            process.wait()
            raise
    if code:
        sys.exit(f"{step!r} failed with exit code {code}.")


signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
try:
    server = start_or_join()  # in a temporary directory, which goes with it
    for step in STEPS:
        run(step, {**os.environ, "REDIS_URL": f"unix://{server.socket_path}"})
except KeyboardInterrupt:
    sys.exit(128 + signal.SIGINT)
