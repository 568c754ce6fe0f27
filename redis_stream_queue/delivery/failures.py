"""Failures: a handler's errors are counted, logged, and told to the app's error_hook."""

from __future__ import annotations

import asyncio

from .._log import logger
from ..handlers import ErrorHook
from ..message import StreamMessage
from ..metrics import ConsumerMeter
from .hooks import Hooks
from .invocation import call_hook
from .rules import RulesOf, as_configured

log = logger(__name__)


class Failures:
    """Tells of errors in the handling of messages of ``stream``."""

    def __init__(
        self,
        stream: str,
        max_deliveries: int,
        hooks: Hooks,
        meter: ConsumerMeter,
        error_hook: ErrorHook | None,
        rules_of: RulesOf = as_configured,
    ) -> None:
        self.error_hook = error_hook
        self._stream = stream
        self._max_deliveries = max_deliveries
        self._rules_of = rules_of
        self._hooks = hooks
        self._meter = meter
        self._running: set[asyncio.Task[None]] = set()  # calls of the error_hook

    async def told(self) -> None:
        """Wait until all calls of the error_hook have ended."""
        if self._running:
            await asyncio.gather(*self._running)

    def report(self, errors: list[tuple[BaseException, list[StreamMessage]]]) -> None:
        self._hooks.failed(errors)
        for error, messages in errors:
            self._meter.errors += 1
            rules = self._rules_of(messages[0])
            log.error(
                "%s failed for %s of %s (delivery %d of %d)",
                f"task {rules.name}" if rules.name else "handler",
                messages[0].id if len(messages) == 1 else f"{len(messages)} messages",
                self._stream,
                messages[0].delivery_count,
                rules.most(self._max_deliveries),
                exc_info=error,
            )
            if self.error_hook is not None:
                hooked = asyncio.ensure_future(self._call_error_hook(error, messages))
                self._running.add(hooked)
                hooked.add_done_callback(self._running.discard)
        self._hooks.counted(self._meter)

    async def _call_error_hook(self, error: BaseException, messages: list[StreamMessage]) -> None:
        assert self.error_hook is not None
        try:
            await call_hook(self.error_hook, error, messages)
        except BaseException:  # the hook is the user's; the loop goes on
            log.exception("error_hook failed")
