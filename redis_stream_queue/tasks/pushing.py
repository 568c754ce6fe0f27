"""Pushing calls of one task."""

from __future__ import annotations

from collections.abc import Coroutine, Iterable
from typing import TYPE_CHECKING, Any, Generic, ParamSpec, TypeVar, Unpack

from ..delivery.answers import RESULT
from ..exceptions import SerializationError
from ..later.extras import OneExtras, check_shared, expiry_parts, terms_of
from ..pushing.headers import OwnHeaders, header_parts
from ..pushing.time_limit import limit_s
from .arguments import Arguments
from .job import Job, Kept
from .options import PushOptions, TaskOptions, no_option, not_here
from .stream import TaskStream
from .wire import TASK, Payload, payload_of

P = ParamSpec("P")
R = TypeVar("R")
T = TypeVar("T")


class Pushing(Generic[P, R]):
    """Pushes calls of one task under certain options.

    stream: where the calls go. name: of the task. arguments: packs them; None = they are sent as
    they are. kept: how results are kept; None = they are not.
    """

    def __init__(
        self,
        stream: TaskStream,
        name: str,
        arguments: Arguments | None,
        kept: Kept | None = None,
        options: PushOptions | None = None,
    ) -> None:
        self.name = name
        self._stream = stream
        # Python says this when nobody awaits it.
        advice = "await it, or use push_sync() in code without an event loop"
        self._unawaited = f"{name}.push() [{advice}]"
        self.arguments = arguments
        self._kept = kept
        self._options: PushOptions = options or {}
        given: Any = {**self._options}
        self._timeout_s = limit_s(given.pop("timeout_s", None))
        own = header_parts(given.pop("headers", None))
        parts = () if kept is None else (RESULT, str(kept.ttl_ms))
        self._headers = OwnHeaders((TASK, name, *parts, *own))
        if unknown := sorted(given.keys() - OneExtras.__annotations__.keys()):
            raise no_option(f"{name}.options()", unknown[0], PushOptions, TaskOptions)
        self._extras = given
        terms_of(given, stream.group)
        expiry_parts(given)

    if not TYPE_CHECKING:  # for whom every name would be one

        def __getattr__(self, name: str) -> Any:
            raise not_here("task", f"task {vars(self).get('name')!r}", name)

    def options(self, **options: Unpack[PushOptions]) -> Pushing[P, R]:
        """The same task, pushed under these options.

        options: delay_ms, at, dedup_id, dedup_ttl_s, unique, unique_until, ttl_ms, expired,
        headers, timeout_s; see docs/later.md. Raises ConfigError for wrong ones.
        """
        both: Any = {**self._options, **options}
        return Pushing(self._stream, self.name, self.arguments, self._kept, both)

    def push(self, /, *args: P.args, **kwargs: P.kwargs) -> Coroutine[Any, Any, Job[R]]:
        """Push a call, to be awaited.

        args, kwargs: of the function. Raises TypeError for arguments that it does not take, and
        what ``StreamProducer.push`` raises.
        """
        pushing: Any = self._push(self._call(args, kwargs))
        pushing.__qualname__ = self._unawaited
        awaited: Coroutine[Any, Any, Job[R]] = pushing
        return awaited

    async def _push(self, call: Payload) -> Job[R]:
        trial = self._stream.trial
        try:
            if trial is not None:
                return self._job(await trial.push(call, self._headers, self._given))
            pushed = await self._stream.producer.push(
                call, headers=self._headers, timeout_s=self._timeout_s, **self._extras
            )
        except SerializationError as error:
            raise self._refused([call], error) from None
        return self._job(pushed)

    def push_sync(self, /, *args: P.args, **kwargs: P.kwargs) -> Job[R]:
        """``push`` for code without an event loop; safe in threads and after a fork."""
        call, trial = self._call(args, kwargs), self._stream.trial
        try:
            if trial is not None:
                return self._job(trial.push_sync(call, self._headers, self._given))
            pushed = self._stream.producer.push_sync(
                call, headers=self._headers, timeout_s=self._timeout_s, **self._extras
            )
        except SerializationError as error:
            raise self._refused([call], error) from None
        return self._job(pushed)

    def push_many(self, calls: Iterable[tuple[Any, ...]]) -> Coroutine[Any, Any, list[Job[R]]]:
        """Push many calls in few round trips, to be awaited; all are checked before any is pushed.

        calls: the positional arguments of each.
        """
        return _named(self._push_many(self._calls(calls)), f"{self.name}.push_many() [await it]")

    async def _push_many(self, calls: list[Payload]) -> list[Job[R]]:
        if self._stream.trial is not None:
            return [await self._push(call) for call in calls]
        try:
            pushed = await self._stream.producer.push_many(
                calls,
                headers=self._headers,
                timeout_s=self._timeout_s,
                **self._extras,
            )
        except SerializationError as error:
            raise self._refused(calls, error) from None
        return [self._job(one) for one in pushed]

    def push_many_sync(self, calls: Iterable[tuple[Any, ...]]) -> list[Job[R]]:
        """``push_many`` for code without an event loop."""
        made, trial = self._calls(calls), self._stream.trial
        try:
            if trial is not None:
                return [self._job(trial.push_sync(one, self._headers, self._given)) for one in made]
            pushed = self._stream.producer.push_many_sync(
                made,
                headers=self._headers,
                timeout_s=self._timeout_s,
                **self._extras,
            )
        except SerializationError as error:
            raise self._refused(made, error) from None
        return [self._job(one) for one in pushed]

    def _job(self, pushed: str) -> Job[R]:
        return Job(self._stream, self.name, pushed, self._kept)

    @property
    def _given(self) -> dict[str, Any]:
        return dict(self._options)

    def push_packed(self, args: list[Any], kwargs: dict[str, Any]) -> Coroutine[Any, Any, Job[R]]:
        """Push a call whose arguments are given as they travel, to be awaited."""
        return self._push(payload_of(self.name, args, kwargs))

    def _call(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Payload:
        if self.arguments is None:
            return payload_of(self.name, args, kwargs)
        return payload_of(self.name, *self.arguments.packed(args, kwargs))

    def _calls(self, calls: Iterable[tuple[Any, ...]]) -> list[Payload]:
        check_shared(self._extras)
        made: list[Payload] = []
        for args in calls if isinstance(calls, Iterable) else [calls]:
            if not isinstance(args, tuple | list):
                raise TypeError(
                    f"{self.name}.push_many() wants the arguments of each call as a tuple, as in "
                    f"[(1,), (2,)], got {args!r:.80}"
                )
            made.append(self._call(tuple(args), {}))
        return made

    def _refused(self, calls: Iterable[Payload], error: SerializationError) -> SerializationError:
        """Which argument it was."""
        if self.arguments is None:
            return error
        encode = self._stream.serializer.encode
        whys = (
            self.arguments.why_not(encode, call.get("args", ()), call.get("kwargs", {}))
            for call in calls
        )
        why = next(filter(None, whys), "")
        return SerializationError(why) if why else error


def _named(coroutine: Coroutine[Any, Any, T], name: str) -> Coroutine[Any, Any, T]:
    """Python says this name when nobody awaits it."""
    unnamed: Any = coroutine
    unnamed.__qualname__ = name
    return coroutine
