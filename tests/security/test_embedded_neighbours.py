"""A hostile neighbour prepares and races on every file of the private server: nothing of ours is
touched. The neighbour is nobody (uid 65534), the victim is root, in a directory as open as /tmp.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import textwrap
from collections.abc import Iterator
from pathlib import Path

import pytest

from redis_stream_queue.embedded import start_or_join
from redis_stream_queue.exceptions import ConfigError
from tests.support.servers import Server
from tests.support.waiting import wait_until

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root can be somebody else")

NAMES = ["server.sock", "server.log", "server.lock", "server.users", "server.alive"]
DATA = ["appendonlydir", "dump.rdb"]
BECOME_NOBODY = """
import os, socket, shutil
os.chdir(base)
os.umask(0)
os.setgroups([])
os.setgid(65534)
os.setuid(65534)
"""
SECRET = "precious" * 100


@pytest.fixture
def base(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A directory like /tmp, where temporary files belong."""
    with tempfile.TemporaryDirectory(prefix="rsq-n") as root:
        os.chmod(root, 0o1777)
        monkeypatch.setenv("TMPDIR", root)
        monkeypatch.setattr("tempfile.tempdir", None)
        yield Path(root)
        monkeypatch.undo()


@pytest.fixture
def victim(base: Path) -> Path:
    """A file of root's."""
    file = base / "victim"
    file.write_text(SECRET)
    file.chmod(0o600)
    return file


def neighbour(base: Path, code: str) -> subprocess.Popen[str]:
    """Run code as nobody; ``base`` and the names of all files are known there."""
    head = f"base = {str(base)!r}\nnames = {NAMES!r}\ndata = {DATA!r}\n" + BECOME_NOBODY
    return subprocess.Popen(
        [sys.executable, "-c", head + textwrap.dedent(code)],
        stdout=subprocess.PIPE,
        text=True,
    )


def prepared(base: Path, code: str) -> None:
    done = neighbour(base, code)
    done.communicate(timeout=20)
    assert done.returncode == 0


@pytest.mark.parametrize("kind", ["symlink", "file", "fifo", "directory"])
def test_a_directory_of_the_neighbours_is_refused(base: Path, victim: Path, kind: str) -> None:
    prepared(
        base,
        f"""
        os.mkdir("evil", 0o777)
        for name in names + data:
            path = "evil/" + name
            if {kind!r} == "symlink": os.symlink(base + "/victim", path)
            elif {kind!r} == "fifo": os.mkfifo(path, 0o666)
            elif {kind!r} == "directory": os.mkdir(path, 0o777)
            else: open(path, "w").close()
        """,
    )
    with pytest.raises(ConfigError, match="belongs to another user"):
        start_or_join(base / "evil")
    assert victim.read_text() == SECRET
    assert victim.stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("name", [*NAMES[1:], *DATA])
@pytest.mark.parametrize("kind", ["symlink", "hard link", "fifo", "foreign file"])
def test_what_was_put_into_our_directory_while_it_was_open(
    base: Path, victim: Path, name: str, kind: str
) -> None:
    ours = base / "ours"
    ours.mkdir()
    ours.chmod(0o777)
    with pytest.raises(ConfigError, match="chmod go-w"):
        start_or_join(ours)
    if kind == "symlink":
        prepared(base, f"os.symlink(base + '/victim', 'ours/{name}')")
    elif kind == "hard link":
        if name in DATA:
            return  # the server replaces these, and follows no link when it does
        os.link(victim, ours / name)  # the kernel may let no neighbour do so
    elif kind == "fifo":
        prepared(base, f"os.mkfifo('ours/{name}', 0o666)")
    else:
        prepared(base, f"open('ours/{name}', 'w').write(base + '/victim')")
    ours.chmod(0o700)

    with pytest.raises(ConfigError, match="of this user alone"):
        start_or_join(ours).stop()
    assert victim.read_text() == SECRET


def test_a_link_of_the_neighbours_leads_nowhere(base: Path, victim: Path) -> None:
    """Neither as the directory itself nor on the way there."""
    ours = base / "ours"
    ours.mkdir(mode=0o700)
    prepared(base, "os.symlink(base + '/ours', 'link'); os.mkdir('room', 0o755)")
    for path in ("link", "link/deeper", "room/mine", "room/../link"):
        with pytest.raises(ConfigError, match="belongs to another user"):
            start_or_join(base / path)
    assert list(ours.iterdir()) == []

    (base / "wide").mkdir()
    (base / "wide").chmod(0o777)
    (base / "wide" / "mine").mkdir(mode=0o700)
    with pytest.raises(ConfigError, match="other users can write"):
        start_or_join(base / "wide" / "mine")


def test_our_own_links_are_followed(base: Path) -> None:
    (base / "there").mkdir(mode=0o700)
    (base / "here").symlink_to("there")
    server = start_or_join(base / "here")
    assert server.directory == base / "there"
    server.stop()
    (base / "round").symlink_to("round")
    with pytest.raises(ConfigError, match="leads nowhere"):
        start_or_join(base / "round")


def test_prepared_temporary_servers_are_traps_that_nobody_walks_into(
    base: Path, victim: Path
) -> None:
    """They point at a server of ours, and at files of ours."""
    with Server.start("valkey-9.1") as ours:
        prepared(
            base,
            f"""
            for number, target in enumerate(({ours.socket_path!r}, base + "/victim")):
                place = f"rsq-embedded-{{number}}"
                os.mkdir(place, 0o777)
                open(place + "/server.lock", "w").close()
                open(place + "/server.users", "w").close()
                open(place + "/server.alive", "w").write(target)
                os.symlink(target, place + "/server.sock")
            os.symlink({str(ours.directory)!r}, "rsq-embedded-link")
            """,
        )
        server = start_or_join()
        server.stop()

        assert ours.alive
        assert Path(ours.socket_path or "").exists()
        assert Path(ours.directory).is_dir()
    assert victim.read_text() == SECRET


def test_a_record_of_ours_that_names_another_place_is_not_believed(
    base: Path, victim: Path
) -> None:
    """As one could be left that was written while the directory was open."""
    with Server.start("valkey-9.1") as other:
        ours = base / "ours"
        ours.mkdir(mode=0o700)
        (ours / "server.alive").write_text(other.socket_path or "")
        server = start_or_join(ours)
        assert server.pid != other.pid
        server.stop()
        assert other.alive
        assert Path(other.socket_path or "").exists()


def test_a_listener_of_another_user_is_neither_joined_nor_ended(base: Path) -> None:
    ours = base / "ours"
    ours.mkdir(mode=0o700)
    fake = neighbour(
        base,
        """
        s = socket.socket(socket.AF_UNIX); s.bind("fake.sock"); s.listen()
        print("up", flush=True)
        while True:
            c, _ = s.accept()
            c.sendall(b"+PONG\\r\\n")
        """,
    )
    try:
        assert fake.stdout is not None
        assert fake.stdout.readline() == "up\n"
        (base / "fake.sock").rename(ours / "server.sock")
        with pytest.raises(ConfigError, match="belongs to another user"):
            start_or_join(ours)
        assert fake.poll() is None
    finally:
        fake.kill()
        fake.communicate()


def test_races_on_every_name_touch_nothing(base: Path, victim: Path) -> None:
    racer = neighbour(
        base,
        """
        print("up", flush=True)
        while True:
            for place in ("a", "b", "rsq-socket-x", "rsq-embedded-x"):
                for attempt in (
                    lambda: os.symlink("/etc", place),
                    lambda: os.unlink(place),
                    lambda: os.mkdir(place, 0o777),
                    lambda: [os.symlink(base + "/victim", f"{place}/{n}") for n in names + data],
                    lambda: os.rename(place, place + "2"),
                    lambda: shutil.rmtree(place + "2"),
                ):
                    try: attempt()
                    except OSError: pass
        """,
    )
    before = sorted(os.listdir("/etc"))
    try:
        assert racer.stdout is not None
        assert racer.stdout.readline() == "up\n"
        outcomes = {"refused": 0, "ran": 0}

        def ran_and_refused() -> bool:
            for number in range(10):
                try:
                    start_or_join(base / "ab"[number % 2] / "deep").stop()
                    outcomes["ran"] += 1
                    shutil.rmtree(base / "ab"[number % 2])
                except ConfigError:
                    outcomes["refused"] += 1
            return outcomes["refused"] > 5

        wait_until(ran_and_refused, 20, f"enough attempts: {outcomes}")
    finally:
        racer.kill()
        racer.communicate()
    assert victim.read_text() == SECRET
    assert sorted(os.listdir("/etc")) == before
