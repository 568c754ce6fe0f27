"""Tasks without a server: each wrong use is one sentence that says what to do; arguments travel."""

from __future__ import annotations

import copy
import dataclasses
import enum
import gc
import re
import uuid
import warnings
from collections.abc import Callable, Iterator
from datetime import date, datetime, timedelta, timezone
from decimal import Decimal
from functools import partial
from pathlib import Path
from typing import Any, Literal, NewType

import pydantic
import pytest

from redis_stream_queue import Queue, TaskFailed, current
from redis_stream_queue.exceptions import ConfigError, SerializationError
from redis_stream_queue.serializers import JsonSerializer
from redis_stream_queue.tasks.arguments import Arguments

queue = Queue("work")


@queue.task
def resize(photo: int, width: int = 800, *, sharp: bool = False) -> str:
    return f"{photo}x{width}"


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
    """All of it is JSON."""


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
    """None of it is."""


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


def test_a_call_of_a_task_is_a_call_of_its_function() -> None:
    assert resize(42) == "42x800"
    assert resize.__name__ == "resize"


# -- wrong uses ------------------------------------------------------------------------------------


def nested() -> Any:
    def inner() -> None: ...

    return inner


def gives() -> Iterator[int]:
    yield 1


class Connection: ...


def locked(lock: Connection) -> None: ...


def later_named(what: Missing) -> None: ...  # type: ignore[name-defined]  # noqa: F821


class Owner:
    def method(self) -> None: ...


class Called:
    def __call__(self, when: datetime) -> None: ...


def no_arguments() -> None: ...


def fine(when: datetime) -> None: ...


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        (lambda q: q.task(lambda: 1), "a lambda has no name"),
        (lambda q: q.task(nested()), "a function within another one"),
        (lambda q: q.task(Owner.method), "is a method"),
        (lambda q: q.task(Owner), "wants a function of a module"),
        (lambda q: q.task(gives), "has a 'yield'"),
        (lambda q: (q.task(fine), q.task(fine)), "has a task 'fine' already"),
        (lambda q: q.task(locked), "parameter 'lock' of task 'locked' is annotated Connection"),
        (lambda q: q.task(later_named), "has an annotation that cannot be read"),
        (lambda q: q.task(partial(fine)), "has no name to travel under: @queue.task(name=...)"),
        (lambda q: q.task(Called()), "has no name to travel under: @queue.task(name=...)"),
        (lambda q: q.task(max), "does not say which arguments it takes"),
        (lambda q: q.task(bind=True), "no option 'bind'. Known: concurrency, max_deliveries"),
        (lambda q: q.task(delay_ms=5), "It is an option of one push: task.options(...)"),
        (lambda q: q.task(result_ttl_s=1e9), "above 0, 31,622,400 at most, got 1000000000.0"),
        (lambda q: q.task(max_delivery=3), "Did you mean 'max_deliveries'?"),
        (lambda q: q.task(max_deliveries=0), "max_deliveries must be a whole number of 1"),
        (lambda q: q.task(retry_on="OSError"), "retry_on must be exception classes"),
        (lambda q: q.task(time_limit_s=1, soft_time_limit_s=2), "must be below time_limit_s"),
        (lambda q: q.task(concurrency=5)(fine), "concurrency=5 needs an 'async def'"),
        (lambda q: q.cron("0 3 * * *")(fine), "calls its task without arguments: fine() missing 1"),
        (lambda q: q.cron("0 25 * * *")(no_arguments), "0 25 * * *"),
        (lambda q: q.cron("0 0 3 * * *")(no_arguments), "five fields are wanted"),
        (lambda q: q.cron(no_arguments), 'as in @queue.cron("0 3 * * *")'),
        (lambda q: current(), "no task is running here"),
        (lambda q: q.task(name="two words")(fine), "without spaces, got 'two words'"),
        (lambda q: q.stream_handler(), "has no tasks"),
        (lambda q: resize.stream_handler(), "name the queue, as in rsq-pool app:queue"),
        (lambda q: resize.options(unique_until="started"), "nothing without unique: give both"),
        (lambda q: resize.options(dedup_ttl_s=5), "dedup_ttl_s does nothing without dedup_id"),
        (lambda q: resize.options(expired="dead"), "expired does nothing without ttl_ms"),
        (lambda q: resize.options(delay=5), "Did you mean 'delay_ms'?"),
        (lambda q: resize.options(max_deliveries=5), "It is an option of @queue.task(...)"),
        (lambda q: q.push_sync(resize, 42), "wants the name of a task"),
        (lambda q: resize.options(unique="x").push_many([(1,)]), "unique is for one push"),
        (lambda q: Queue("work", url="redis://x", client=object()), "must be a StreamClient"),
        (lambda q: Queue("work", max_delivreies=3), "Did you mean 'max_deliveries'?"),
        (lambda q: Queue("work", time_limit_s=3), "it is an option of @queue.task(...)"),
        (lambda q: Queue("work", periodic=[]), "@queue.cron makes a task"),
        (lambda q: Queue("work", group=""), "group must be a non-empty text, got ''"),
        (lambda q: Queue("work", error_hook=5), "error_hook must be callable"),  # type: ignore[arg-type]
        (lambda q: Queue("work", producer=5), "as in producer=TracedProducer, got 5"),  # type: ignore[arg-type]
        (lambda q: Queue("work", url=5), "url must be a non-empty text, got a int"),  # type: ignore[arg-type]
        (lambda q: Queue("work", max_len=0), "max_len must be a whole number of 1 or more"),
        (lambda q: q.testing(run="no"), "run must be True or False, got 'no'"),  # type: ignore[arg-type]
        (lambda q: q.send_to("redis://x"), "client must be a StreamClient"),
        (lambda q: Queue("work", serializer="json"), "as in serializer=MsgpackSerializer(), got"),
        (lambda q: Queue("work", serializer=JsonSerializer), "with encode() and decode()"),  # type: ignore[arg-type]
    ],
)
def test_a_wrong_declaration_says_what_to_do(wrong: Callable[[Queue], Any], words: str) -> None:
    with pytest.raises(ConfigError) as refused:
        wrong(Queue("other"))

    assert words in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        (lambda: resize.push(), "resize() missing 1 required positional argument: 'photo'"),
        (lambda: resize.push(1, wide=2), "got an unexpected keyword argument 'wide'"),
        (lambda: resize.push_many([1, 2]), "the arguments of each call as a tuple"),  # type: ignore[list-item]
        (lambda: resize.push_many(7), "as in [(1,), (2,)], got 7"),  # type: ignore[arg-type]
        (lambda: queue_of(fine).push("tomorrow"), "parameter 'when' of task 'fine': Invalid"),
    ],
)
def test_wrong_arguments_fail_in_the_caller(wrong: Callable[[], Any], words: str) -> None:
    with pytest.raises(TypeError) as refused:
        wrong()

    assert words in str(refused.value)


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

    bound = queue_of(typed_task, name="typed").bound
    named = dict(text.split("=") for text in typed if "=" in text)
    return bound.of_texts([text for text in typed if "=" not in text], named)


def queue_of(func: Callable[..., Any], **options: Any) -> Any:
    return Queue("other").task(**options)(func)


def bare(what, *more) -> None: ...  # type: ignore[no-untyped-def]


def test_a_name_of_another_library_says_what_it_is_here() -> None:
    task: Any = queue_of(fine)
    for name, words in (
        ("delay", "task 'fine' has no attribute 'delay': here it is push_sync(...)"),
        ("apply_async", "here it is options(delay_ms=60_000).push_sync(...)"),
        ("odd", "has no attribute 'odd'"),
    ):
        with pytest.raises(AttributeError, match=re.escape(words)):
            getattr(task, name)
    job: Any = Queue("other").job("fine", "1-1")
    with pytest.raises(AttributeError, match="here it is result_sync"):
        job.get()
    assert copy.copy(task).name == copy.copy(job).task == "fine"


def test_what_the_serializer_does_not_take_is_named() -> None:
    """A model where the annotation does not say so; also one of many calls."""
    with pytest.raises(SerializationError, match="parameter 'photo' of task 'resize' got a User"):
        resize.push_sync(User(name="Ann", born=date(2000, 1, 1)))  # type: ignore[arg-type]
    unsaid = queue_of(bare)
    for what in (b"", date(2000, 1, 1), Colour.RED, {1}, Point(1, datetime(2026, 1, 1))):
        kind = type(what).__name__
        with pytest.raises(SerializationError, match=f"where it is annotated so: what: {kind}"):
            unsaid.push_many_sync([(1,), (what,)])
    with pytest.raises(SerializationError, match=r"'what' of task 'bare' got a Owner, .* no JSON"):
        unsaid.push_sync(Owner())


def test_what_is_called_like_a_function_is_a_task() -> None:
    """Once it has a name; and its parameters may be called as they like."""
    for func in (partial(fine), Called()):
        task = queue_of(func, name="named")
        with pytest.raises(TypeError, match="parameter 'when' of task 'named': Invalid"):
            task.push("tomorrow")

    def any_names(**what: int) -> int:
        return sum(what.values())

    other = Queue("other")
    task = other.task(name="any", result_ttl_s=1)(any_names)
    with other.testing():
        assert task.push_sync(self=1, task=2, args=3, kwargs=4).result_sync() == 10
        assert other.push_sync("any", self=1, task=2).task == "any"
    assert task(self=7) == 7


def test_a_push_that_nobody_awaits_says_so() -> None:
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        resize.push(42)  # type: ignore[unused-coroutine]
        gc.collect()

    assert "resize.push() [await it, or use push_sync()" in str(said[0].message)


# -- tests of apps ---------------------------------------------------------------------------------

shop = Queue("shop")
sent: list[Any] = []


@shop.task(result_ttl_s=60)
async def double(price: Decimal) -> Decimal:
    sent.append((current().task, current().delivery, current().headers["who"]))
    return price * 2


@shop.task
def fails(number: int) -> None:
    raise ValueError(number)


@shop.cron("0 3 * * *", tz="Europe/Berlin")
def nightly() -> None:
    sent.append("nightly")


async def test_pushes_run_in_place(rsq_testing: Callable[..., Any]) -> None:
    """Through the serializer, with results, and what fails is raised; what is for later waits."""
    sent.clear()
    pushed = rsq_testing(shop)
    job = await double.options(headers={"who": "me"}).push(Decimal("1.10"))

    assert await job.result() == Decimal("2.20")
    with pytest.raises(ValueError, match="7"):
        fails.push_sync(7)
    await nightly.options(delay_ms=5).push()
    nightly.push_sync()

    assert [(call.task, call.args, call.ran) for call in pushed] == [
        ("double", ["1.10"], True),
        ("fails", [7], True),
        ("nightly", [], False),
        ("nightly", [], True),
    ]
    assert sent == [("double", 1, "me"), "nightly"]
    with pytest.raises(ConfigError, match="no task is running here"):
        current()


def test_pushes_may_only_be_recorded() -> None:
    sent.clear()
    with shop.testing(run=False) as pushed:
        nightly.push_many_sync([(), ()])

    assert [call.task for call in pushed] == ["nightly", "nightly"]
    assert sent == []


async def test_jobs_of_a_queue_under_test_ask_no_server() -> None:
    """Not their results, their status or their end, whether they ran or were only recorded."""
    away = Queue("shop", url="redis://127.0.0.1:1/0")
    price: Any = away.task(result_ttl_s=60, name="price")(lambda number: number * 2)
    with away.testing() as pushed:
        ran, later = price.push_sync(1), price.options(delay_ms=5).push_sync(2)
        known = away.job("price", later.id)

        assert [await job.status() for job in (ran, later, known)] == ["done"] + ["scheduled"] * 2
        with pytest.raises(TimeoutError, match="has only recorded it"):
            await later.result()
        assert [await job.cancel() for job in (ran, known, later)] == [False, True, False]
        assert [call.cancelled for call in pushed] == [False, True]
        assert await later.status() == await away.job("price", "0-9").status() == "gone"
        with pytest.raises(TaskFailed, match="cancelled"):
            await later.result()
        assert await ran.result() == 2
        with pytest.raises(RuntimeError, match=r"hold up the running event loop: await status\(\)"):
            ran.status_sync()


def test_jobs_are_asked_without_a_loop(tmp_path: Path) -> None:
    """Under test that starts no server, either."""
    away = Queue("shop", url=f"embedded://{tmp_path}/redis")
    price: Any = away.task(result_ttl_s=60, name="price")(lambda number: number * 2)
    with away.testing():
        assert price.push_sync(2).result_sync() == 4
    with away.testing(run=False):
        waits = price.push_sync(1)
        assert waits.status_sync() == "waiting"
        assert waits.cancel_sync()
        assert waits.status_sync() == "gone"
    assert not (tmp_path / "redis").exists()


waiting, elsewhere = Queue("waiting"), Queue("elsewhere")


@elsewhere.task(result_ttl_s=60)
def there() -> int:
    return 1


@waiting.task(result_ttl_s=60)
def here() -> int:
    return 2


@waiting.task
async def waits(how: str) -> None:
    sent.append(await (await there.push()).result())
    sent.append(await (await here.push()).result(None if how == "for ever" else 5))


async def test_a_task_does_not_wait_without_end_for_its_own_queue(rsq_testing: Any) -> None:
    """Others may be waited for, and outside of a task anybody may."""
    sent.clear()
    rsq_testing(waiting)
    rsq_testing(elsewhere)

    await waits.push("a while")
    with pytest.raises(ConfigError, match="task 'waits' waits without a limit for task 'here'"):
        await waits.push("for ever")
    assert sent == [1, 2, 1]
    assert await (await here.push()).result() == 2
