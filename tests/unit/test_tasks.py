"""Tasks without a server: each wrong use is one sentence that says what to do."""

from __future__ import annotations

import copy
import gc
import re
import warnings
from collections.abc import Callable, Iterator
from datetime import datetime
from functools import partial
from typing import Any

import pytest

from redis_stream_queue import Queue, current
from redis_stream_queue.exceptions import ConfigError
from redis_stream_queue.serializers import JsonSerializer

queue = Queue("work")


@queue.task
def resize(photo: int, width: int = 800, *, sharp: bool = False) -> str:
    return f"{photo}x{width}"


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


def queue_of(func: Callable[..., Any], **options: Any) -> Any:
    return Queue("other").task(**options)(func)


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
