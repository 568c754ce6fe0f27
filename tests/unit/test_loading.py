"""What is said of an app that cannot be imported."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest

from redis_stream_queue._loading import LoadError, load

REFUSED = """
from redis_stream_queue import Cron, Queue

def declare():
    {wrong}

declare()
"""

NAMED = """
from os.path import join
from redis_stream_queue import Queue

queue = Queue("work")

@queue.task
def resize(photo: int) -> None: ...

def helper() -> None: ...
"""


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ('Queue("mails").task(max_delivery=3)', "Did you mean 'max_deliveries'?"),
        ('Queue("mails").task(lambda: 1)', "a lambda has no name"),
        ('Cron("nightly", "61 3 * * *")', "five fields are wanted"),  # by a dataclass
    ],
)
def test_where_we_refuse_the_apps_own_line_is_the_last(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, wrong: str, said: str
) -> None:
    """What is called inside this package says nothing to whoever wrote the app."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "refused_app.py").write_text(REFUSED.format(wrong=wrong))

    with pytest.raises(LoadError) as failed:
        load("refused_app:queue")

    lines = str(failed.value).splitlines()
    places = [line for line in lines if line.lstrip().startswith("File ")]
    assert [place.partition(", ")[0].strip() for place in places] == [
        f'File "{tmp_path}/refused_app.py"'
    ] * 2
    assert wrong in str(failed.value)
    assert said in lines[-1]


@pytest.mark.parametrize(
    ("target", "said"),
    [
        ("named_app:queu", "no 'queu'. Did you mean queue?"),
        ("named_app:resise", "Did you mean resize?"),
        ("named_app:zzz", "It has queue, resize, helper."),
        ("named_app", "what in it? As in app:queue"),
        ("named_app:", "what in it? As in app:queue"),
    ],
)
def test_what_a_module_has_instead_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, target: str, said: str
) -> None:
    """Queues, too, which nobody can call; not what it has imported."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "named_app", raising=False)
    (tmp_path / "named_app.py").write_text(NAMED)

    with pytest.raises(LoadError, match=re.escape(said)):
        load(target)
