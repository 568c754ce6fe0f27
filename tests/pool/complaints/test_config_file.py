"""rsq.toml, [tool.rsq] and --config: options out of a file, and what is wrong with one."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest

from redis_stream_queue import _exits
from tests.pool.complaints.conftest import StartPool, complaint
from tests.support.guarded import SECRET
from tests.support.servers import Server

APP = """
from redis_stream_queue import per_message

@per_message
def handle(message):
    print("handled", message.data)
"""


def written(start_pool: StartPool, *args: str, **options: object) -> dict[str, str]:
    """What --print-config says: key and the rest of the line."""
    pool = start_pool("--print-config", *args, **options)
    assert pool.wait() == _exits.OK, pool.stderr
    assert SECRET not in pool.stdout + pool.stderr
    tomllib.loads(pool.stdout)
    lines = [line for line in pool.stdout.splitlines() if not line.startswith("#")]
    return dict(line.split(" = ", 1) for line in lines)


def test_a_flag_wins_over_the_environment_and_that_over_the_file(
    start_pool: StartPool, tmp_path: Path
) -> None:
    (tmp_path / "rsq.toml").write_text(
        f'url = "redis://:{SECRET}@filed:1/2"\nstream = "filed"\ngroup = "filed"\n'
        "workers = 7\nburst = true\ntime_limit = 2\n"
    )
    env = {"RSQ_STREAM": "environment", "RSQ_GROUP": "environment"}
    said = written(start_pool, "--group", "flag", env=env)

    assert said["group"] == '"flag"  # command line'
    assert said["stream"] == '"environment"  # RSQ_STREAM'
    assert said["time_limit"] == "2.0  # rsq.toml"
    assert said["burst"] == "true  # rsq.toml"
    assert said["workers"] == "2  # command line"  # of start_pool
    assert said["url"] == '"redis://filed:1/2"  # rsq.toml'
    assert said["connect_timeout"] == "10.0  # default"


@pytest.mark.parametrize("by", ["variable", "file", "credential", "flag"])
def test_the_url_of_a_file_is_the_last_choice(
    start_pool: StartPool, tmp_path: Path, by: str
) -> None:
    """Also where the better one comes out of a file of its own."""
    (tmp_path / "rsq.toml").write_text('url = "redis://filed:1"')
    (tmp_path / "redis-url").write_text(f"redis://:{SECRET}@better:2\n")
    args, env, url = [], {}, None
    if by == "variable":
        url = f"redis://:{SECRET}@better:2"
    elif by == "file":
        env = {"REDIS_URL_FILE": "redis-url"}
    elif by == "credential":
        env = {"CREDENTIALS_DIRECTORY": str(tmp_path)}
    else:
        args = ["--url", f"redis://:{SECRET}@better:2"]
    assert '"redis://better:2"' in written(start_pool, *args, env=env, url=url)["url"]


def test_pyproject_counts_where_there_is_no_rsq_toml(start_pool: StartPool, tmp_path: Path) -> None:
    for text in ('[tool]\nrsq = {stream = "shared"}', '[ tool."rsq" ]\nstream = "shared"'):
        (tmp_path / "pyproject.toml").write_text(text)
        assert written(start_pool)["stream"] == '"shared"  # pyproject.toml'
    (tmp_path / "rsq.toml").write_text('group = "own"')
    assert "stream" not in written(start_pool)
    assert written(start_pool, "--config", "pyproject.toml")["stream"].startswith('"shared"')


def test_a_pyproject_of_somebody_else_is_left_alone(start_pool: StartPool, tmp_path: Path) -> None:
    (tmp_path / "pyproject.toml").write_text("[tool.other\nno TOML")
    assert "stream" not in written(start_pool)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("worker = 3", "rsq.toml: 'worker' is no option of rsq-pool. Did you mean 'workers'?"),
        ("xyz = 3", "rsq.toml: 'xyz' is no option of rsq-pool. rsq-pool --help names the options."),
        ("[tool.rsq]", "rsq.toml: 'tool' is no option of rsq-pool. [tool.rsq] is for pyproject"),
        ('workers = "3"', "rsq.toml: workers must be a whole number from 1 to 512, got '3'."),
        ("workers = true", "rsq.toml: workers must be a whole number from 1 to 512, got True."),
        ("burst = 1", "rsq.toml: burst must be True or False, got 1."),
        ("batch_size = 'many'", "rsq.toml: batch_size must be a whole number of 1 or more, got"),
        ("time_limit = nan", "rsq.toml: time_limit must be a number above 0, got nan."),
        ("log_level = 'loud'", "rsq.toml: log_level must be 'debug', 'info', 'warning' or"),
        (f"url = ['{SECRET}']", "rsq.toml: url must be text, got a list."),
        ("time_limit = 1\nsoft_time_limit = 2", "soft_time_limit_s (2) must be below"),
        ("workers =", "rsq.toml: is no TOML: Invalid value"),
        (f"workers = {'9' * 5000}", "rsq.toml: is no TOML: Exceeds the limit"),
        ("a = " + "[" * 5000, "rsq.toml: is no TOML: "),
        (f"stream = ['redis://:{SECRET}@h']", "rsq.toml: stream must be a non-empty text, got"),
        ("\xff", "rsq.toml: cannot be read: it is not UTF-8."),
        ("concurrency = 3", "'concurrency' is no option of rsq-pool. Did you mean 'workers'?"),
        ("\xef\xbb\xbfworkers = 0", "workers must be a whole number from 1 to 512, got 0."),  # BOM
        ("#" * 1_000_001, "rsq.toml: is larger than 1 MB."),
    ],
)
def test_what_is_wrong_with_a_file_is_said(
    start_pool: StartPool, tmp_path: Path, text: str, sentence: str
) -> None:
    (tmp_path / "rsq.toml").write_text(text, encoding="latin-1")
    assert sentence in complaint(start_pool(), _exits.USAGE)


def test_a_file_that_is_named_must_be_there(start_pool: StartPool) -> None:
    said = complaint(start_pool("--config", "nowhere.toml"), _exits.USAGE)
    assert "nowhere.toml: cannot be read: No such file or directory." in said


def test_a_link_that_leads_nowhere_is_no_file_without_options(
    start_pool: StartPool, tmp_path: Path
) -> None:
    (tmp_path / "rsq.toml").symlink_to("..data/rsq.toml")
    said = complaint(start_pool(), _exits.USAGE)
    assert "rsq.toml: cannot be read: No such file or directory." in said


def test_a_pool_whose_options_all_come_from_a_file(
    start_pool: StartPool, tmp_path: Path, pool_server: Server, pool_url: str
) -> None:
    with pool_server.client() as client:
        client.xadd("orders", {"data": b'"one"'})
    (tmp_path / "rsq.toml").write_text(
        f'target = "app:handle"\nstream = "orders"\nburst = true\nbatch_size = "auto"\n'
        f'url = "{pool_url}"\n'
    )
    pool = start_pool(app=APP, target=None)
    assert pool.wait() == _exits.OK, pool.stderr
    assert pool.stdout == "handled one\n"
