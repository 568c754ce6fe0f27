"""Where Redis is and how to reach it: a hashable value made from arguments or a URL. No I/O."""

from __future__ import annotations

import dataclasses
import inspect
import re
import ssl as tls
import string
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import unquote, urlsplit

import redis
from redis.asyncio.connection import (
    AbstractConnection,
    Connection,
    SSLConnection,
    UnixDomainSocketConnection,
    parse_url,
)

from .._validate import Form, Maybe, Number, Rule, Switch, Text, Whole, check, did_you_mean
from ..exceptions import ConfigError

SCHEMES = (
    "redis, rediss, unix, redis+cluster, rediss+cluster, redis+sentinel, rediss+sentinel, embedded"
)
DEFAULT_PORT = 6379
SENTINEL_PORT = 26379


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One server or cluster with credentials and socket settings; timeouts in seconds.

    nodes: (host, port) pairs; more than one only on a cluster.
    path: unix socket instead of a host.
    service: name of the master that the nodes, which are Sentinels then, watch; sentinel_username,
    sentinel_password: what they themselves want.
    options: further redis-py connection arguments (``ssl_ca_certs`` and the like).
    """

    nodes: tuple[tuple[str, int], ...] = (("localhost", DEFAULT_PORT),)
    path: str | None = None
    db: int = 0
    username: str | None = None
    password: str | None = field(default=None, repr=False)
    ssl: bool = False
    cluster: bool = False
    service: str | None = None
    sentinel_username: str | None = None
    sentinel_password: str | None = field(default=None, repr=False)
    max_connections: int = 1000
    pool_timeout: float | None = 5
    client_name: str | None = None
    socket_timeout: float | None = 30.0
    socket_connect_timeout: float | None = 5.0
    socket_keepalive: bool = True
    socket_keepalive_options: tuple[tuple[int, int], ...] | None = None
    options: tuple[tuple[str, Any], ...] = field(default=(), repr=False)

    def __str__(self) -> str:
        """The address without secrets, for messages."""
        if self.path:
            return f"unix://{self.path}"
        scheme = "rediss" if self.ssl else "redis"
        nodes = [(f"[{host}]" if ":" in host else host, port) for host, port in self.nodes]
        where = ",".join(f"{host}:{port}" for host, port in nodes)
        if self.service is not None:
            return f"{scheme}+sentinel://{where}/{self.service}/{self.db}"
        scheme += "+cluster" if self.cluster else ""
        return f"{scheme}://{where}" + (f"/{self.db}" if self.db else "")

    @property
    def unverified(self) -> str:
        """The TLS option that switches verification of the server off; "" if there is none."""
        options = dict(self.options)
        if options.get("ssl_cert_reqs", "required") not in ("required", tls.CERT_REQUIRED):
            return "ssl_cert_reqs"
        return "" if options.get("ssl_check_hostname", True) else "ssl_check_hostname"

    def connection_kwargs(self) -> dict[str, Any]:
        """Arguments of a redis-py connection; replies are RESP2 and undecoded.

        The socket has no read timeout of its own: every exchange has one (see exchange.py),
        so that a blocking read may wait longer than ``socket_timeout``.
        """
        kwargs: dict[str, Any] = {
            "db": self.db,
            "username": self.username,
            "password": self.password,
            "client_name": self.client_name,
            "socket_timeout": None,
            "socket_connect_timeout": self.socket_connect_timeout,
            "protocol": 2,
            **dict(self.options),
        }
        if not self.cluster and not kwargs.keys() & {"lib_name", "lib_version"}:
            kwargs = {**_DRIVER, **kwargs}
        if self.path:
            return {**kwargs, "path": self.path}
        kwargs["socket_keepalive"] = self.socket_keepalive
        if self.socket_keepalive_options is not None:
            kwargs["socket_keepalive_options"] = dict(self.socket_keepalive_options)
        if not self.cluster:
            kwargs["host"], kwargs["port"] = self.nodes[0]
        return kwargs


def _driver_info() -> Any:
    from redis.driver_info import DriverInfo

    return DriverInfo(lib_version=redis.__version__)


_FIELDS = {f.name for f in dataclasses.fields(Endpoint)}
_OPTIONS = {
    name
    for kind in (AbstractConnection, Connection, SSLConnection)
    for name, parameter in inspect.signature(kind).parameters.items()
    if parameter.kind is not inspect.Parameter.VAR_KEYWORD
}

_TLS_ONLY = {
    name for name in inspect.signature(SSLConnection).parameters if name.startswith("ssl_")
}

# Options of redis-py that change how replies look or what is done about errors. A URL that was
# written for another program may have them: they are ignored.
_OURS = {
    "decode_responses",
    "encoding",
    "encoding_errors",
    "health_check_interval",
    "parser_class",
    "protocol",
    "retry",
    "retry_on_error",
    "retry_on_timeout",
}

# Left to itself, redis-py reads its own version from disk for every connection it makes. (Its
# RedisCluster does not take the argument in 7.2 to 7.4.)
_DRIVER = {"driver_info": _driver_info()} if "driver_info" in _OPTIONS else {}


_RULES: dict[str, Rule] = {
    "db": Whole(0),
    "max_connections": Whole(1),
    "pool_timeout": Maybe(Number(0), none="no limit"),
    "socket_timeout": Maybe(Number(0, above=True), none="no limit"),
    "socket_connect_timeout": Maybe(Number(0, above=True), none="no limit"),
    **dict.fromkeys(
        ("username", "password", "path", "service"), Maybe(Text(empty=True, secret=True))
    ),
    "client_name": Maybe(Form("[!-~]+", "visible ASCII characters without spaces")),
    "ssl": Switch(),
    "socket_keepalive": Switch(),
}


def make_endpoint(**settings: Any) -> Endpoint:
    """Endpoint from keyword arguments; the others are redis-py connection options.

    Raises ConfigError naming the argument.
    """
    if "nodes" in settings:
        settings["nodes"] = tuple((host, _whole(port)) for host, port in settings["nodes"])
        for node in settings["nodes"]:
            _check_node(*node)
    if "db" in settings:
        settings["db"] = _whole(settings["db"])
    for name in _RULES.keys() & settings.keys():
        check(name, settings[name], _RULES[name])
    if (keepalive := settings.get("socket_keepalive_options")) is not None:
        if not isinstance(keepalive, dict):
            raise ConfigError(
                "socket_keepalive_options must be a dict of socket options, as in "
                f"{{socket.TCP_KEEPIDLE: 30}}, got {keepalive!r}."
            )
        settings["socket_keepalive_options"] = tuple(sorted(keepalive.items()))
    known = {name: value for name, value in settings.items() if name in _FIELDS}
    extra = {n: v for n, v in settings.items() if n not in _FIELDS and n not in _OURS}
    _check_options(extra, ssl=settings.get("ssl", False))
    return Endpoint(**known, options=tuple(sorted(extra.items())))


def _check_node(host: Any, port: Any) -> None:
    check("host", host, Text())
    if re.search(r"[/@?#\s]", host):  # not quoted: it may be a URL with a password
        raise ConfigError(
            "host must be a name or an address, got something with one of '/', '@', '?', '#' "
            "or a space in it. A URL goes to StreamClient.from_url()."
        )
    check("port", port, Whole(1, 65535))


def _check_options(extra: dict[str, Any], *, ssl: bool) -> None:
    """Check that these are options of redis-py's connections. Raises ConfigError."""
    for name in extra:
        if name not in _OPTIONS:
            hint = did_you_mean(name, _OPTIONS | _FIELDS)
            raise ConfigError(
                f"{name!r} is no connection option of redis-py {redis.__version__}.{hint}"
            )
        if name in _TLS_ONLY and not ssl:
            raise ConfigError(f"{name!r} is for TLS: use rediss:// (or ssl=True), or leave it out.")
    try:
        hash(tuple(extra.values()))
    except TypeError:
        raise ConfigError(
            f"connection options {sorted(extra)} must be plain values (text, numbers)."
        ) from None


def _whole(value: Any) -> Any:
    """A number given as text as an int (ports and databases often come from the environment)."""
    return int(value) if isinstance(value, str) and re.fullmatch(r"[0-9]{1,9}", value) else value


def endpoint_from_url(url: str, **settings: Any) -> Endpoint:
    """Endpoint of a URL: redis://, rediss:// or unix://, or one of the first two with +cluster or
    +sentinel (redis+sentinel://host:26379,host:26379/service/db).

    Query parameters are redis-py's; keyword arguments that the URL does not set come on top.
    Raises ConfigError; its text never holds the URL's password.
    """
    scheme, separator, rest = url.strip("\ufeff" + string.whitespace).partition("://")
    kind = _kind(scheme, separator, rest)
    parsed = _parsed(scheme, kind, rest)
    path = re.split("[?#]", rest, maxsplit=1)[0].partition("/")[2].strip("/")
    if kind == "sentinel":
        path = path.partition("/")[2]
    if scheme != "unix" and path and not path.isdecimal():
        raise ConfigError(
            f"the Redis URL ({scheme}://...) must name the database by its number, as in "
            "redis://localhost:6379/0."
        )
    if kind == "cluster" and parsed.get("db"):
        raise ConfigError(
            f"a Redis Cluster has only database 0, but the URL names {parsed['db']}. "
            "Leave the database out."
        )
    if kind == "sentinel" and not parsed["service"]:
        raise ConfigError(
            f"the Redis URL ({scheme}://...) must name the master that the Sentinels watch, as in "
            f"{scheme}://host1:26379,host2:26379/mymaster/0."
        )
    return make_endpoint(**{**settings, **parsed})


def _kind(scheme: str, separator: str, rest: str) -> str:
    """``cluster``, ``sentinel`` or "". Raises ConfigError for what is no URL of ours."""
    plain, _, kind = scheme.partition("+")
    known = plain in ("redis", "rediss") and kind in ("", "cluster", "sentinel")
    if not separator or not (known or scheme == "unix"):
        raise ConfigError(
            f"a Redis URL must start with one of {SCHEMES} and '://', {_came(scheme, separator)}. "
            "Example: redis://localhost:6379/0"
        )
    if "@" in rest[len(re.split("[/?#]", rest, maxsplit=1)[0]) :]:
        raise ConfigError(
            f"the Redis URL ({scheme}://...) has an '@' behind the host, so it cannot be read. If "
            "the password holds one of / ? # @, percent-encode it: %2F %3F %23 %40."
        )
    return kind


def _parsed(scheme: str, kind: str, rest: str) -> dict[str, Any]:
    """What the URL says, as arguments of make_endpoint. Raises ConfigError."""
    plain = scheme.partition("+")[0]
    nodes: tuple[tuple[str, int], ...] | None = None
    service = None
    try:
        if kind == "sentinel":
            rest, service = _without_service(rest)
        if kind:
            rest, nodes = _nodes(rest, SENTINEL_PORT if service is not None else DEFAULT_PORT)
        parsed: dict[str, Any] = dict(parse_url(f"{plain}://{rest}"))
    except (ValueError, TypeError) as exc:
        raise ConfigError(
            f"the Redis URL ({scheme}://...) cannot be read: {_reason(exc)} Expected the form "
            f"{scheme}://[user:password@]host:port/db, special characters in the password "
            "percent-encoded (an '@' is %40)."
        ) from None
    if any(
        name not in _OPTIONS | _FIELDS | {"host", "port", "path", "connection_class"}
        for name in parsed
    ):
        raise ConfigError(
            f"the Redis URL ({scheme}://...) has a query parameter that is no connection option. "
            "If it is a part of the password, percent-encode it: '?' is %3F, '&' is %26."
        )
    connection_class = parsed.pop("connection_class", None)
    if connection_class is SSLConnection:
        parsed["ssl"] = True
    host, port = parsed.pop("host", "localhost"), parsed.pop("port", DEFAULT_PORT)
    if connection_class is not UnixDomainSocketConnection:
        parsed["nodes"] = nodes or ((host, port),)
    elif "path" not in parsed:
        raise ConfigError("a unix:// URL must name the socket's path: unix:///run/redis.sock")
    return {**parsed, "cluster": kind == "cluster", "service": service}


def _without_service(rest: str) -> tuple[str, str]:
    """``hosts/service/db?...`` as (``hosts/db?...``, service)."""
    address, question, query = rest.partition("?")
    hosts, _, path = address.partition("/")
    service, _, db = path.partition("/")
    return f"{hosts}/{db}{question}{query}", unquote(service)


def _nodes(rest: str, default_port: int) -> tuple[str, tuple[tuple[str, int], ...]]:
    """``user:pw@h1:p1,h2:p2/...`` as (the same with the first node only, all nodes)."""
    authority, slash, tail = rest.partition("/")
    credentials, at, hosts = authority.rpartition("@")
    nodes = []
    for part in hosts.partition("?")[0].split(","):
        split = urlsplit(f"//{part}")
        nodes.append((split.hostname or "localhost", split.port or default_port))
    query = hosts.partition("?")
    first = hosts.split(",")[0].partition("?")[0]
    return f"{credentials}{at}{first}{query[1]}{query[2]}{slash}{tail}", tuple(nodes)


def _came(scheme: str, separator: str) -> str:
    """Words for what stood in place of a scheme; more is not quoted (it may hold a password)."""
    if separator and re.fullmatch(r"[a-z+]{1,20}", scheme):
        return f"got {scheme + '://'!r}"
    return "but there is none" if not separator else "got something else"


def _reason(exc: Exception) -> str:
    """Why a URL was not understood, without quoting it (it may hold a password)."""
    in_port = "port" in str(exc).lower()
    return "the port is no number from 1 to 65535." if in_port else "it is malformed."
