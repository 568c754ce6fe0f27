"""What came of pushes: an id or an exception for each."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ..connection.replies import text
from ..exceptions import NotDurable


def is_new(result: Any) -> bool:
    """Has this push added something?"""
    return not isinstance(result, Exception) and not getattr(result, "duplicate", False)


def ids_of(results: Sequence[Any]) -> list[str]:
    """The ids. Raises the first error among them, NotDurable for all that it concerns."""
    fragile = [result for result in results if isinstance(result, NotDurable)]
    for result in results:
        if isinstance(result, NotDurable):
            ids = [one for error in fragile for one in error.ids]
            raise NotDurable(ids, result.confirmed, result.wanted)
        if isinstance(result, Exception):
            raise result
    return [result if isinstance(result, str) else text(result) for result in results]
