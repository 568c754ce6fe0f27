"""rsq cron: look at periodic messages, push one now, pause one."""

from __future__ import annotations

import contextlib
import json
import re
import time
from datetime import datetime
from typing import Any

import click

from .. import _exits
from .._clock import span_text
from .._exits import Failure
from .._plain import json_line
from ..connection.replies import mapping, text
from ..exceptions import ConfigError
from ..later.cron_scripts import PAUSE_NAME, RUN_NOW
from ..later.ids import as_datetime
from ..later.keys import companions
from ..later.periodic import ticks_of
from .common import Redis, ask, json_option, name, on_redis, stream_argument
from .output import say

MS = re.compile("[0-9]{1,13}")  # what others have written is no time
UNSEEN_MS = 300_000  # a message that was not declared for this time is pushed by nobody


@click.group()
def cron() -> None:
    """Look at the periodic messages of a stream, push one now, pause one.

    \b
      rsq cron list reports
      rsq cron run reports nightly
      rsq cron pause reports nightly
      rsq cron resume reports nightly
    """


_name = click.argument("message", metavar="NAME", callback=name)


@cron.command("list")
@stream_argument
@on_redis
@json_option
def list_(redis: Redis, stream: str, as_json: bool) -> None:
    """List the periodic messages of STREAM: when, their last tick and their next one."""
    key = companions(redis.client.key(stream)).cron
    fields = mapping(ask(redis, stream, lambda: redis.client.link().call(key, "HGETALL", key)))
    names = sorted(field.removeprefix("spec:") for field in fields if field.startswith("spec:"))
    if not names and not as_json:
        say(f"nothing periodic is declared for {stream}", err=True)
    for found in names:
        shown = _shown(found, fields)
        say(json_line(shown) if as_json else _line(shown))


@cron.command()
@stream_argument
@_name
@on_redis
def run(redis: Redis, stream: str, message: str) -> None:
    """Push the periodic message NAME of STREAM now, beside its ticks; prints its id."""
    beside = companions(redis.client.key(stream))
    keys = [beside.stream, beside.cron]
    done = ask(redis, stream, lambda: redis.client.link().script(RUN_NOW, keys, message))
    if not done:
        raise Failure(_exits.FAILURE, _unknown(stream, message))
    say(text(done))


def _set_paused(redis: Redis, stream: str, message: str, *, on: bool) -> None:
    key = companions(redis.client.key(stream)).cron
    script = redis.client.link
    done = ask(redis, stream, lambda: script().script(PAUSE_NAME, [key], message, int(on)))
    if int(done) < 0:
        raise Failure(_exits.FAILURE, _unknown(stream, message))
    if on:
        say(f"{'paused' if done else 'already paused'}: {message}")
    else:
        say(f"{'goes on' if done else 'not paused'}: {message}")


@cron.command()
@stream_argument
@_name
@on_redis
def pause(redis: Redis, stream: str, message: str) -> None:
    """Let the ticks of NAME pass, on all hosts, until `rsq cron resume`."""
    _set_paused(redis, stream, message, on=True)


@cron.command()
@stream_argument
@_name
@on_redis
def resume(redis: Redis, stream: str, message: str) -> None:
    """Go on with NAME at its next tick. Those that have passed are not caught up."""
    _set_paused(redis, stream, message, on=False)


def _unknown(stream: str, message: str) -> str:
    return (
        f"no periodic message {message!r} is declared for {stream!r}: see rsq cron list {stream}."
    )


def _shown(found: str, fields: dict[str, Any]) -> dict[str, Any]:
    def ms_of(kind: str) -> int:
        ms = fields.get(f"{kind}:{found}", "")
        return int(ms) if MS.fullmatch(ms) else 0

    def moment(kind: str) -> str | None:
        ms = ms_of(kind)
        return as_datetime(ms).isoformat(timespec="seconds") if ms else None

    spec, following = _spec_of(fields[f"spec:{found}"]), None
    with contextlib.suppress(ConfigError):  # the extra 'cron' is missing here, or it is no spec
        following = ticks_of(spec).after(max(ms_of("last"), ms_of("declared")))
    return {
        "name": found,
        "every_s": spec.get("every_s"),
        "cron": spec.get("cron"),
        "tz": spec.get("tz"),
        "last": moment("last"),
        "next": None if following is None else as_datetime(following).isoformat(),
        "declared": moment("declared"),
        "alive": time.time() * 1000 - ms_of("seen") < UNSEEN_MS,
        "paused": moment("paused") or fields.get(f"paused:{found}"),
    }


def _spec_of(written: str) -> dict[str, Any]:
    """Empty where others have written what is none."""
    with contextlib.suppress(ValueError, RecursionError):
        spec = json.loads(written)
        if isinstance(spec, dict):
            return spec
    return {}


def _line(shown: dict[str, Any]) -> str:
    if shown["cron"]:
        when = f"{shown['cron']} ({shown['tz']})"
    else:
        when = "at no known time" if shown["every_s"] is None else f"every {shown['every_s']} s"
    if shown["paused"]:
        state = "PAUSED"
    elif not shown["alive"]:
        state = "nobody declares it now"
    elif shown["next"] is None:
        state = ""
    else:
        in_s = datetime.fromisoformat(shown["next"]).timestamp() - time.time()
        state = f"in {span_text(max(round(in_s * 1000), 0))}"
    return f"{shown['name']:20} {when:28} last {shown['last']}  {state}".rstrip()
