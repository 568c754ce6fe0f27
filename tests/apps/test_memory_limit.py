"""A memory limit below the app's own size is said, not executed; nothing healthy dies of it."""

from __future__ import annotations

from typing import Any

import pytest

APPS = {
    "at import": ("MODEL = bytearray(os.urandom(1 << 20) * 160)", ""),
    "with the first message": (
        "MODEL = None",
        "    global MODEL\n    MODEL = MODEL or bytearray(os.urandom(1 << 20) * 260)\n",
    ),
}
HANDLER = """
@handled
@per_message
def handler(message):
{loads}    note("start", message.id)
    time.sleep(message.data["s"])
    note("end", message.id)
"""


def test_a_model_that_is_loaded_while_the_batch_grows_is_the_apps_own(scene: Any) -> None:
    """The first message takes long to load it; others come, and are read, meanwhile."""
    loads = """    global MODEL
    note("loads", message.id)
    if MODEL is None:
        time.sleep(0.5)
        MODEL = bytearray(os.urandom(1 << 20) * 260)
"""
    app = "MODEL = None" + HANDLER.format(loads=loads)
    scene.start(app, "--max-memory-per-child", "80", "--retry-delay-ms", "10")
    ids = scene.push({"s": 1.5})
    scene.wait_notes("loads")
    ids += scene.push(*({"s": 0.2} for _ in range(3)))
    scene.ledger.wait_settled(ids, 20)
    assert sorted(scene.notes("start")) == sorted(f"start {entry_id}" for entry_id in ids)


@pytest.mark.parametrize("loads", APPS)
@pytest.mark.parametrize("messages", [8 * [0.05], 2 * [1.6]], ids=["short", "long"])
def test_a_limit_below_the_apps_own_size_kills_no_message(
    scene: Any, loads: str, messages: list[float]
) -> None:
    """Short messages and long ones, memory taken at import or later: each runs once."""
    at_import, in_handler = APPS[loads]
    app = at_import + HANDLER.format(loads=in_handler)
    pool = scene.start(app, "--max-memory-per-child", "80", "--retry-delay-ms", "10")
    ids = scene.push(*({"s": s} for s in messages))
    scene.ledger.wait_settled(ids, 20)
    assert sorted(scene.notes("start")) == sorted(f"start {entry_id}" for entry_id in ids)
    assert scene.ledger.letters() == []
    if loads == "at import":
        assert pool.stderr.count("is less than the app takes by itself") == 1
        assert "is replaced" not in pool.stderr
    assert pool.drain() == 0
