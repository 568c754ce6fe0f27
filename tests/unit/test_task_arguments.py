"""Arguments of tasks travel as they were; those that cannot are named in one sentence."""

from __future__ import annotations

import dataclasses
import enum
import uuid
from collections.abc import Callable
from datetime import date, datetime, timedelta, timezone
from decimal import Decimal
from typing import Any, Literal, NewType

import pydantic
import pytest

from redis_stream_queue import Queue
from redis_stream_queue.exceptions import SerializationError
from redis_stream_queue.serializers import JsonSerializer
from redis_stream_queue.tasks.arguments import Arguments


class Colour(enum.Enum):
    RED = "red"


@dataclasses.dataclass
class Point:
    x: int
    at: datetime


class User(pydantic.BaseModel):
    name: str
    born: date


Id = NewType("Id", int)


def plain(a: Id, b: list[int] | None = None, *c: Any, d: Literal["x"] = "x", **e: float) -> None:
    """All of these arguments are JSON."""


def rich(
    when: datetime,
    span: timedelta,
    which: uuid.UUID,
    price: Decimal,
    colour: Colour,
    raw: bytes,
    pair: tuple[int, str],
    point: Point,
    user: User,
    users: list[User],
    ages: dict[int, date],
    maybe: datetime | None = None,
) -> None:
    """None of these arguments is JSON."""


def travelled(func: Callable[..., Any], *args: Any, **kwargs: Any) -> tuple[list[Any], Any]:
    arguments, json = Arguments("t", func), JsonSerializer()
    sent = json.decode(json.encode(arguments.packed(args, kwargs)))
    got = arguments.unpacked(*sent)
    return list(got[0]), dict(got[1])


def test_arguments_arrive_as_they_were() -> None:
    user = User(name="Ann", born=date(2000, 2, 29))
    values = {
        "when": datetime(2026, 3, 1, 2, tzinfo=timezone(timedelta(hours=2))),
        "span": timedelta(seconds=1.5),
        "which": uuid.uuid4(),
        "price": Decimal("9.90"),
        "colour": Colour.RED,
        "raw": b"\0\xff",
        "pair": (1, "a"),
        "point": Point(1, datetime(2026, 1, 1)),
        "user": user,
        "users": [user],
        "ages": {7: date(2019, 1, 1)},
    }

    assert travelled(rich, **values) == ([], values)
    assert travelled(rich, *values.values(), maybe=None) == (list(values.values()), {"maybe": None})
    assert travelled(plain, 1, [2], 3, d="x", e=0.5) == ([1, [2], 3], {"d": "x", "e": 0.5})


@pytest.mark.parametrize(
    ("typed", "words"),
    [
        (["abc"], "wants int for 'photo', got 'abc'"),
        (["true"], "wants int for 'photo', got 'true'"),
        (["1", "x"], "wants int for 'more', got 'x'"),
        (["1", "names=[1]"], "wants list[str] | None for 'names', got '[1]'"),
        (["1", "size=1,5"], "wants float for 'size', got '1,5'"),
        (["1", "day=tomorrow"], "parameter 'day' of task 'typed': Invalid"),
        ([], "missing 1 required positional argument: 'photo'"),
    ],
)
def test_what_is_typed_in_a_shell_fits_the_parameters(typed: list[str], words: str) -> None:
    with pytest.raises(TypeError) as refused:
        of_texts(*typed)

    assert words in str(refused.value)


def test_what_is_typed_is_a_text_where_a_text_is_wanted() -> None:
    assert of_texts("7", "8", 'name="9"', "size=1", "names=null") == (
        [7, 8],
        {"name": "9", "size": 1, "names": None},
    )
    assert of_texts("7", "name=9", "day=2026-02-03") == ([7], {"name": "9", "day": "2026-02-03"})


def of_texts(*typed: str) -> Any:
    def typed_task(
        photo: int,
        *more: int,
        name: str = "",
        names: list[str] | None = None,
        day: date | None = None,
        **others: float,
    ) -> None: ...

    bound = Queue("other").task(name="typed")(typed_task).bound
    named = dict(text.split("=") for text in typed if "=" in text)
    return bound.of_texts([text for text in typed if "=" not in text], named)


def resize(photo: int) -> None: ...


def bare(what, *more) -> None: ...  # type: ignore[no-untyped-def]


class Owner: ...


def test_what_the_serializer_does_not_take_is_named() -> None:
    """The parameter and the type, also of one call among many."""
    said: Any = Queue("other").task(resize)
    unsaid: Any = Queue("other").task(bare)
    with pytest.raises(SerializationError, match="parameter 'photo' of task 'resize' got a User"):
        said.push_sync(User(name="Ann", born=date(2000, 1, 1)))
    for what in (b"", date(2000, 1, 1), Colour.RED, {1}, Point(1, datetime(2026, 1, 1))):
        kind = type(what).__name__
        with pytest.raises(SerializationError, match=f"where it is annotated so: what: {kind}"):
            unsaid.push_many_sync([(1,), (what,)])
    with pytest.raises(SerializationError, match=r"'what' of task 'bare' got a Owner, .* no JSON"):
        unsaid.push_sync(Owner())
