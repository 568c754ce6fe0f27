"""What a command line can be told: one value an option, from which the flag, the environment
variable, the key of a configuration file, the check and the README's line are made.

The options of ``rsq-pool`` are the fields of PoolConfig; those that ``rsq`` shares stand here.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator
from typing import Any, NamedTuple

from ._validate import Rule, Switch, Text, Texts

PREFIX = "RSQ_"
DEFAULT_URL = "redis://localhost:6379/0"
CREDENTIAL = "redis-url"  # of systemd: LoadCredential=redis-url:/path


class Option(NamedTuple):
    """One setting; texts may hold `code`.

    name: of the attribute that holds it. A unit at its end (``_s``, ``_mb``) is not in the flag.
    rule: what a value must be; with a rule Maybe, None is how "not given" reads.
    help: a sentence; more: what the README adds to it.
    shown: the default in words, where the value alone does not say it.
    none: the word for None on the command line (``auto``), if it can be given.
    variables: environment variables that are read before the one that the name gives.
    """

    rule: Rule
    help: str = ""
    name: str = ""
    default: Any = None
    shown: str = ""
    more: str = ""
    none: str = ""
    variables: tuple[str, ...] = ()

    @property
    def key(self) -> str:
        """Its name without the unit: in a configuration file, and in the flag with dashes."""
        return re.sub(r"_(s|mb)$", "", self.name)

    @property
    def flag(self) -> str:
        return "--" + self.key.replace("_", "-")

    @property
    def environment(self) -> list[str]:
        """The variables that set it, the first that is there wins."""
        return list(dict.fromkeys([*self.variables, PREFIX + self.key.upper()]))


def setting(option: Option, *, repr: bool = True) -> Any:
    """A dataclass field that is this option."""
    return dataclasses.field(default=option.default, metadata={Option: option}, repr=repr)


def options_of(settings: type) -> Iterator[Option]:
    """The options that are fields of this dataclass."""
    for field in dataclasses.fields(settings):
        if Option in field.metadata:
            yield field.metadata[Option]._replace(name=field.name)


URL_FILE = Option(
    name="url_file",
    rule=Text(),
    help="Read the URL from this file (a mounted secret), or set `REDIS_URL_FILE`; systemd's "
    f"credential `{CREDENTIAL}` is read by itself.",
    shown="none",
    variables=("REDIS_URL_FILE",),
)
URL = Option(
    name="url",
    rule=Text(empty=True, secret=True),
    default=DEFAULT_URL,
    shown=f"`REDIS_URL` or `{DEFAULT_URL}`",
    help="`redis://`, `rediss://`, `unix://`, `redis+cluster://`, `redis+sentinel://` or "
    "`embedded://DIR`.",
    more="As in `redis+sentinel://h1:26379,h2:26379/service/0`.",
    variables=("RSQ_URL", "REDIS_URL"),
)
TARGET = Option(name="target", rule=Texts())
CONFIG = Option(
    name="config",
    rule=Text(),
    shown="`rsq.toml`, else `pyproject.toml`",
    help="Read options from this TOML file.",
    more="Of `pyproject.toml` the table `[tool.rsq]`.",
)
PRINT_CONFIG = Option(
    name="print_config",
    rule=Switch(),
    default=False,
    help="Print every option and where it came from, then exit.",
    more="Secrets are left out.",
)
STREAM_PREFIX = Option(
    name="prefix",
    rule=Text(empty=True),
    default="",
    help="Put before every stream name, with an underscore.",
)
BESIDE_URL = (CONFIG, PRINT_CONFIG, URL_FILE)  # on rsq-pool's command line, in front of --url
