"""Processes whose clock is wrong: a module that Python imports by itself shifts what it tells.

(The monotonic clock goes on as it is, as it does where a machine's date is wrong.)
"""

from __future__ import annotations

import os
from pathlib import Path

from .pool import ROOT

SHIFT_ENV = "RSQ_TEST_SHIFT_S"
SOURCE = f"""
import datetime, os, time

shift_s = int(os.environ["{SHIFT_ENV}"])
true_time, true_time_ns, true_datetime = time.time, time.time_ns, datetime.datetime
time.time = lambda: true_time() + shift_s
time.time_ns = lambda: true_time_ns() + shift_s * 10**9

class Shifted(true_datetime):
    @classmethod
    def now(cls, tz=None):
        return true_datetime.now(tz) + datetime.timedelta(seconds=shift_s)

datetime.datetime = Shifted
"""


def wrong_clock(directory: Path, shift_s: int) -> dict[str, str]:
    """Environment of a process whose clock is off by so much; directory: for the module."""
    (directory / "sitecustomize.py").write_text(SOURCE)
    return {SHIFT_ENV: str(shift_s), "PYTHONPATH": os.pathsep.join([str(directory), str(ROOT)])}
