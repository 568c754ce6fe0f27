"""For tests of programs that push tasks; pytest knows its fixture by itself.

def test_an_upload_is_resized(rsq_testing):
    pushed = rsq_testing(queue)
    upload("cat.jpg")
    assert [call.task for call in pushed] == ["resize"]
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from .tasks.queue import Queue
    from .tasks.trial import PushedCall


@pytest.fixture
def rsq_testing() -> Iterator[Callable[..., list[PushedCall]]]:
    """Called with a Queue (and ``run=False``): ``queue.testing()`` until the test ends."""
    with ExitStack() as stack:

        def begin(queue: Queue, *, run: bool = True) -> list[PushedCall]:
            return stack.enter_context(queue.testing(run=run))

        yield begin
