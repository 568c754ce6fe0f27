"""States of one worker life, and the moves between them. Pure.

    STARTING ──▶ READY ──▶ DRAINING ──▶ GONE
        └──────────┴─────────────────────▲

A drained worker is never sent back to work, and GONE is never left: a replacement is a new life.
"""

from __future__ import annotations

from enum import Enum


class WorkerState(Enum):
    """State of a worker life."""

    STARTING = "starting"  # forked; loads the app and connects
    READY = "ready"  # reads messages
    DRAINING = "draining"  # told to stop; finishes what it runs
    GONE = "gone"  # the process has ended


MOVES = {
    WorkerState.STARTING: {WorkerState.READY, WorkerState.DRAINING, WorkerState.GONE},
    WorkerState.READY: {WorkerState.DRAINING, WorkerState.GONE},
    WorkerState.DRAINING: {WorkerState.GONE},
    WorkerState.GONE: frozenset(),
}


def move(old: WorkerState, new: WorkerState) -> WorkerState:
    """The new state if the move is legal, else the old one (a late message changes nothing)."""
    return new if new in MOVES[old] else old
