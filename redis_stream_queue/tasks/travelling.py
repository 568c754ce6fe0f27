"""Which types of arguments and results can be sent, and how they are packed, by annotation.

JSON values are sent as they are. Dates, UUIDs, decimals, enums, bytes, tuples, sets, dataclasses
and structs are converted by msgspec (extra ``typed``), pydantic models by pydantic; each of the
two is imported only if an annotation needs it.
"""

from __future__ import annotations

import dataclasses
import datetime
import decimal
import enum
import inspect
import sys
import types
import typing
import uuid
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from ..exceptions import ConfigError, SerializationError

NATIVE = (None, type(None), bool, int, float, str, list, dict, Any, object)
CONVERTED = (
    datetime.date,
    datetime.time,
    datetime.timedelta,
    uuid.UUID,
    decimal.Decimal,
    enum.Enum,
    bytes,
    bytearray,
    tuple,
    set,
    frozenset,
)


class Conversion(NamedTuple):
    """pack: makes JSON values of a value. unpack: the reverse. Both raise SerializationError."""

    pack: Callable[[Any], Any]
    unpack: Callable[[Any], Any]


def conversion_of(hint: Any, what: str) -> Conversion | None:
    """How values with this annotation are converted; None = they are sent as they are.

    what: the annotated parameter, for errors. Raises ConfigError if they cannot be sent.
    """
    hint = _bare(hint)
    if _is_native(hint):
        return None
    if any(map(_is_model, _parts(hint))):
        return _by_pydantic(hint, what)
    return _by_msgspec(hint, what)


def _bare(hint: Any) -> Any:
    """The annotation without parts that are only for type checkers."""
    while True:
        if isinstance(hint, typing.NewType):
            hint = hint.__supertype__
        elif typing.get_origin(hint) is typing.Annotated:
            hint = typing.get_args(hint)[0]
        else:
            return hint


def _is_native(hint: Any) -> bool:
    hint = _bare(hint)
    origin, parts = typing.get_origin(hint), typing.get_args(hint)
    if origin is None:
        return hint in NATIVE or isinstance(hint, typing.TypeVar)
    if origin is typing.Literal:
        return all(type(part) in NATIVE for part in parts)
    if origin is dict:
        return parts[0] in (str, Any) and _is_native(parts[1])
    if origin in (list, typing.Union, types.UnionType):
        return all(map(_is_native, parts))
    return False


def fits(value: Any, hint: Any) -> bool:
    """Has the value the annotated type? Always True for types that need a conversion."""
    hint = _bare(hint)
    origin, parts = typing.get_origin(hint), typing.get_args(hint)
    if not _is_native(hint) or hint in (Any, object) or isinstance(hint, typing.TypeVar):
        return True
    if origin is typing.Literal:
        return any(type(value) is type(part) and value == part for part in parts)
    if origin is list:
        return isinstance(value, list) and all(fits(one, parts[0]) for one in value)
    if origin is dict:
        return isinstance(value, dict) and all(fits(one, parts[1]) for one in value.values())
    if origin is not None:
        return any(fits(value, part) for part in parts)
    if hint is None:
        return value is None
    return type(value) is hint or (hint is float and type(value) is int)


def _parts(hint: Any) -> Iterator[Any]:
    """The annotation, and all annotations inside it."""
    yield hint
    for part in typing.get_args(hint):
        yield from _parts(part)


def _is_model(part: Any) -> bool:
    pydantic = sys.modules.get("pydantic")
    return pydantic is not None and inspect.isclass(part) and issubclass(part, pydantic.BaseModel)


def _by_pydantic(hint: Any, what: str) -> Conversion:
    import pydantic

    adapter: Any = pydantic.TypeAdapter(hint)

    def pack(value: Any) -> Any:
        try:
            return adapter.dump_python(adapter.validate_python(value), mode="json")
        except ValueError as error:
            raise SerializationError(f"{what}: {_first_line(error)}") from None

    def unpack(value: Any) -> Any:
        try:
            return adapter.validate_python(value)
        except ValueError as error:
            raise SerializationError(f"{what}: {_first_line(error)}") from None

    return Conversion(pack, unpack)


def _first_line(error: Exception) -> str:
    return " ".join(str(error).split())[:500]


def _by_msgspec(hint: Any, what: str) -> Conversion:
    shown = hint.__qualname__ if inspect.isclass(hint) else str(hint)
    try:
        import msgspec
    except ImportError:
        if any(map(_is_converted, _parts(hint))):
            raise ConfigError(
                f"{what} is annotated {shown}, which needs msgspec to travel: pip install "
                "'redis-stream-queue[typed]'."
            ) from None
        raise _cannot(what, shown) from None
    try:
        unknown = _holds_unknown(msgspec.inspect.type_info(hint), msgspec.inspect.CustomType)
    except TypeError as error:
        raise ConfigError(f"{what} is annotated {shown}, which cannot travel: {error}") from None
    if unknown is not None:
        raise _cannot(what, shown)

    def pack(value: Any) -> Any:
        try:
            packed = msgspec.to_builtins(value, str_keys=True)
            msgspec.convert(packed, hint, str_keys=True)
        except (msgspec.ValidationError, TypeError, ValueError) as error:
            raise SerializationError(f"{what}: {error}") from None
        return packed

    def unpack(value: Any) -> Any:
        try:
            return msgspec.convert(value, hint, str_keys=True)
        except (msgspec.ValidationError, TypeError, ValueError) as error:
            raise SerializationError(f"{what}: {error}") from None

    return Conversion(pack, unpack)


def _is_converted(part: Any) -> bool:
    return inspect.isclass(part) and (issubclass(part, CONVERTED) or dataclasses.is_dataclass(part))


def _holds_unknown(info: Any, unknown: type) -> Any:
    """A type in the annotation that msgspec does not know; None = it knows all."""
    seen: set[int] = set()
    left = [info]
    while left:
        one = left.pop()
        if isinstance(one, unknown):
            return one
        if isinstance(one, tuple):
            left += one
        elif id(one) not in seen and hasattr(one, "__struct_fields__"):
            seen.add(id(one))
            left += [getattr(one, name) for name in one.__struct_fields__]
    return None


def _cannot(what: str, shown: str) -> ConfigError:
    return ConfigError(
        f"{what} is annotated {shown}, which cannot travel. Use what JSON knows, a date, UUID, "
        "Decimal, Enum, bytes, a dataclass or a pydantic model; or push an id and look it up."
    )
