"""Holds an answer of Redis back, so that news overtake it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest


class Held:
    """Holds back what the next call of ``owner``'s coroutine function ``name`` returns.

    wanted: is it this call, by its arguments and what it returns? came: Redis has given the answer.
    go: set it to let the caller have it.
    """

    def __init__(
        self,
        monkeypatch: pytest.MonkeyPatch,
        owner: Any,
        name: str,
        wanted: Callable[[tuple[Any, ...], Any], bool] = lambda arguments, answer: True,
    ) -> None:
        self.came, self.go = asyncio.Event(), asyncio.Event()
        function = getattr(owner, name)

        async def held(*arguments: Any, **options: Any) -> Any:
            answer = await function(*arguments, **options)
            if not self.came.is_set() and wanted(arguments, answer):
                self.came.set()
                await self.go.wait()
            return answer

        monkeypatch.setattr(owner, name, held)
