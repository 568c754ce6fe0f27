"""Django: sets it up before models are imported, and looks after its database connections."""

from __future__ import annotations

import os
from collections.abc import Awaitable
from typing import Any

import django
from asgiref.sync import sync_to_async
from django.db import close_old_connections

from ..delivery.invocation import must_be_awaited, to_its_end
from ..middleware import CallNext


def setup(settings: str | None = None) -> None:
    """Make Django ready; call it in the module of the handlers, before the first model.

    settings: module of the settings where DJANGO_SETTINGS_MODULE is not set.
    """
    if settings is not None:
        os.environ.setdefault("DJANGO_SETTINGS_MODULE", settings)
    django.setup()


def fresh_connections(argument: Any, call_next: CallNext) -> Any:
    """Middleware: closes database connections that broke or are too old, around each call.

    Django does the same around each request. For an async handler it closes those of the thread
    in which ``sync_to_async`` and the ``a...`` methods of models run.
    """
    result = None
    waits = False
    close_old_connections()
    try:
        result = call_next(argument)
        waits = must_be_awaited(result)
    finally:
        if not waits:
            close_old_connections()
    return _around(result) if waits else result


async def _around(result: Awaitable[Any]) -> Any:
    close = sync_to_async(close_old_connections)
    await close()
    try:
        return await to_its_end(result)
    finally:
        await close()
