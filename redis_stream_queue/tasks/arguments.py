"""Arguments of a task: bound and packed in the caller, and unpacked in the worker."""

from __future__ import annotations

import functools
import inspect
import json
import typing
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ..exceptions import ConfigError
from .travelling import Conversion, conversion_of, fits

Kwargs = Mapping[str, Any]


class Arguments:
    """Packs and unpacks the arguments of one function.

    task: its name, for errors. check: raises TypeError for arguments that the function does not
    take.
    Raises ConfigError for a parameter whose type cannot travel.
    """

    def __init__(self, task: str, func: Callable[..., Any]) -> None:
        self._task = task
        self._signature = signature = _signature(task, func)
        self._hints = _hints(task, func)
        self.check = _checker(task, signature)
        self._positional: list[Conversion | None] = []
        self._named: dict[str, Conversion] = {}
        self._more: Conversion | None = None  # of *args
        self._others: Conversion | None = None  # of **kwargs
        for name, parameter in signature.parameters.items():
            self._add(name, parameter)
        conversions = [*self._positional, *self._named.values(), self._more, self._others]
        self.plain = not any(conversions)

    def _add(self, name: str, parameter: inspect.Parameter) -> None:
        made = conversion_of(
            self._hints.get(name, Any), f"parameter {name!r} of task {self._task!r}"
        )
        if parameter.kind is parameter.VAR_POSITIONAL:
            self._more = made
        elif parameter.kind is parameter.VAR_KEYWORD:
            self._others = made
        else:
            if parameter.kind is not parameter.KEYWORD_ONLY:
                self._positional.append(made)
            if made is not None and parameter.kind is not parameter.POSITIONAL_ONLY:
                self._named[name] = made

    @property
    def shown(self) -> str:
        """As they are written, also where ``from __future__ import annotations`` made texts of
        their types."""
        signature = self._signature
        hints = {n: None if hint is type(None) else hint for n, hint in self._hints.items()}
        parameters = [
            one.replace(annotation=hints.get(name, one.annotation))
            for name, one in signature.parameters.items()
        ]
        returns = hints.get("return", signature.return_annotation)
        return str(signature.replace(parameters=parameters, return_annotation=returns))

    def result(self) -> Conversion | None:
        """How the value that the function returns is packed; None = it is sent as it is.

        Raises ConfigError if values of that type cannot be packed."""
        hint = self._hints.get("return", Any)
        return conversion_of(hint, f"what task {self._task!r} returns")

    def packed(self, args: Sequence[Any], kwargs: Kwargs) -> tuple[Sequence[Any], Kwargs]:
        """The arguments as the serializer takes them. Raises TypeError and SerializationError."""
        self.check(*args, **kwargs)
        return (args, kwargs) if self.plain else self._converted(args, kwargs, _pack)

    def unpacked(self, args: Sequence[Any], kwargs: Kwargs) -> tuple[Sequence[Any], Kwargs]:
        """The arguments as the function takes them. Raises SerializationError."""
        return (args, kwargs) if self.plain else self._converted(args, kwargs, _unpack)

    def of_texts(
        self, args: Sequence[str], kwargs: Mapping[str, str]
    ) -> tuple[list[Any], dict[str, Any]]:
        """Packed arguments from what was typed in a shell: each is a JSON value, or else a text.

        Raises TypeError for what the function does not take, and SerializationError.
        """
        self.check(*args, **kwargs)
        parameters = inspect.signature(self.check).parameters
        kinds = [(p.kind, name) for name, p in parameters.items()]
        names = [name for kind, name in kinds if kind.name.startswith("POSITIONAL")]
        more = [name for kind, name in kinds if kind is inspect.Parameter.VAR_POSITIONAL]
        others = [name for kind, name in kinds if kind is inspect.Parameter.VAR_KEYWORD]
        annotated = [*names, *more * len(args)]
        made = [self._typed(text, name, name) for text, name in zip(args, annotated, strict=False)]
        named = {
            name: self._typed(text, name, name if name in parameters else others[0])
            for name, text in kwargs.items()
        }
        self.unpacked(made, named)  # raises what is wrong with them
        return made, named

    def _typed(self, text: str, name: str, annotated: str) -> Any:
        """What somebody typed for this one. annotated: which parameter says what it is."""
        hint = self._hints.get(annotated, Any)
        try:
            value = json.loads(text)
        except ValueError:
            value = text
        for one in (value, text):  # 42 may be meant for a text
            if fits(one, hint):
                return one
        shown = hint.__name__ if inspect.isclass(hint) else str(hint)
        raise TypeError(f"{self._task}() wants {shown} for {name!r}, got {text!r:.80}")

    def _converted(
        self, args: Sequence[Any], kwargs: Kwargs, convert: Callable[[Conversion, Any], Any]
    ) -> tuple[list[Any], dict[str, Any]]:
        own = len(self._positional)
        made = [
            value if how is None else convert(how, value)
            for value, how in zip(args, self._positional, strict=False)
        ]
        made += [v if self._more is None else convert(self._more, v) for v in args[own:]]
        named = {}
        for name, value in kwargs.items():
            how = self._named.get(name)
            if how is None and name not in self._hints:
                how = self._others
            named[name] = value if how is None else convert(how, value)
        return made, named

    def why_not(self, encode: Callable[[Any], bytes], args: Sequence[Any], kwargs: Kwargs) -> str:
        """Which argument the serializer does not take, and why; "" = it takes each by itself."""
        names = list(inspect.signature(self.check).parameters)
        named = [*zip(names, args, strict=False), *kwargs.items()]
        for name, value in named:
            try:
                encode(value)
            except Exception as error:  # a serializer may raise anything
                kind = type(value).__name__
                what = f"parameter {name!r} of task {self._task!r} got a {kind}"
                if name not in self._hints and _has_conversion(type(value)):
                    return f"{what}, which travels where it is annotated so: {name}: {kind}."
                return f"{what}, which cannot travel: {error}"
        return ""


def _pack(how: Conversion, value: Any) -> Any:
    return how.pack(value)


def _unpack(how: Conversion, value: Any) -> Any:
    return how.unpack(value)


def _signature(task: str, func: Callable[..., Any]) -> inspect.Signature:
    try:
        return inspect.signature(func)
    except ValueError:  # some of those that are written in C
        raise ConfigError(
            f"task {task!r} does not say which arguments it takes ({func!r:.80}): call it in a "
            "function of your own."
        ) from None


def _has_conversion(kind: type) -> bool:
    try:
        return conversion_of(kind, "") is not None
    except ConfigError:
        return False


def _hints(task: str, func: Callable[..., Any]) -> dict[str, Any]:
    while isinstance(func, functools.partial):
        func = func.func
    of_class = not (inspect.isroutine(func) or hasattr(func, "__wrapped__"))
    try:
        return typing.get_type_hints(type(func).__call__ if of_class else func)
    except Exception as error:  # of an annotation, which is any expression
        raise ConfigError(
            f"task {task!r} has an annotation that cannot be read ({error}). A type that is "
            "imported under TYPE_CHECKING only, or defined further down, is not there yet: import "
            "it, or leave the annotation out."
        ) from None


def _checker(task: str, signature: inspect.Signature) -> Callable[..., None]:
    """A function that takes what the task takes and does nothing: the interpreter itself binds
    arguments, and says what is wrong, 30 times as fast as Signature.bind()."""
    parameters = [
        p.replace(
            annotation=p.empty,
            default=None if p.default is not p.empty else inspect.Parameter.empty,
        )
        for p in signature.parameters.values()
    ]
    shape = str(inspect.Signature(parameters))
    checker: Callable[..., None] = eval(f"lambda {shape[1:-1]}: None")
    checker.__qualname__ = checker.__name__ = task
    return checker
