"""A real systemd as the first process of namespaces of its own, on a throw-away copy of the system.

Needs Linux with overlayfs and the rights of root. Nothing in there can change a file of the
machine: / is the lower layer of an overlay in memory. The network is the machine's, so 127.0.0.1
reaches a test's server. Only the units given are loaded.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Self

import psutil

from .pool import ROOT
from .waiting import wait_until

PYTHON = f"/opt/python/bin/python{sys.version_info.major}.{sys.version_info.minor}"
PACKAGES = "/opt/packages"
REPOSITORY = "/opt/repository"
STUBS = "sysinit", "basic", "shutdown", "umount", "final", "multi-user", "test"

INIT = """
set -e
mount -t tmpfs -o mode=755 tmpfs {work}
mkdir {work}/up {work}/inner {work}/root
mount -t overlay -o lowerdir=/,upperdir={work}/up,workdir={work}/inner overlay {work}/root
R={work}/root
mkdir -p $R/opt/python $R{packages} $R{repository}
mount --bind {base} $R/opt/python
mount --bind {site} $R{packages}
mount --bind {root} $R{repository}
mount -t proc proc $R/proc
mount --bind $R/proc/sys $R/proc/sys
mount -o remount,bind,ro $R/proc/sys
mount -t sysfs -o ro sysfs $R/sys
mount -t tmpfs -o mode=755 tmpfs $R/sys/fs/cgroup
umount $R/sys/fs/cgroup
mount -t cgroup2 cgroup2 $R/sys/fs/cgroup
mount -t tmpfs -o mode=755 tmpfs $R/dev
mkdir $R/dev/pts $R/dev/shm $R/dev/mqueue $R/dev/hugepages
for n in null zero full random urandom tty; do
  touch $R/dev/$n
  mount --bind /dev/$n $R/dev/$n
done
touch $R/dev/console
ln -s /proc/self/fd $R/dev/fd
mount -t devpts -o newinstance,ptmxmode=0666,mode=620 devpts $R/dev/pts
ln -s pts/ptmx $R/dev/ptmx
mount -t tmpfs -o mode=1777 tmpfs $R/dev/shm
mount -t tmpfs -o mode=755 tmpfs $R/run
mkdir $R/run/units $R/run/none
cp -aT {units} $R/run/units
cd $R
mkdir -p .old
pivot_root . .old
umount -l /.old
exec env -i container=test PATH=/usr/sbin:/usr/bin:/sbin:/bin SYSTEMD_UNIT_PATH=/run/units \
  SYSTEMD_GENERATOR_PATH=/run/none SYSTEMD_ENVIRONMENT_GENERATOR_PATH=/run/none \
  /lib/systemd/systemd --system --unit=test.target --log-target=console --show-status=no
"""


class Systemd:
    """Boots when entered. units: by file name, a drop-in as ``a.service.d/b.conf``.

    In it the app's Python is PYTHON, with what is installed here in PACKAGES and us in REPOSITORY.
    """

    def __init__(self, units: dict[str, str]) -> None:
        self._directory = Path(tempfile.mkdtemp(prefix="rsq-systemd-"))
        self._console = self._directory / "console"
        self._cgroup = _cgroups() / self._directory.name
        self._first: psutil.Process | None = None
        self._outer: subprocess.Popen[bytes] | None = None
        stubs = {f"{stub}.target": "[Unit]\nDefaultDependencies=no\n" for stub in STUBS}
        for name, text in {**stubs, **units}.items():
            file = self._directory / "units" / name
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text)
        (self._directory / "work").mkdir()
        site = next(path for path in sys.path if path.endswith("site-packages"))
        init = INIT.format(
            work=self._directory / "work",
            units=self._directory / "units",
            base=sys.base_prefix,
            site=site,
            root=ROOT,
            packages=PACKAGES,
            repository=REPOSITORY,
        )
        (self._directory / "init").write_text(init)

    def __enter__(self) -> Self:
        self._cgroup.mkdir()
        with self._console.open("wb") as console:
            self._outer = subprocess.Popen(
                ["bash", "-c", f'echo $$ > {self._cgroup}/cgroup.procs; exec "$@"', "bash",
                 *("unshare", "--mount", "--pid", "--cgroup", "--uts", "--ipc", "--fork"),
                 *("--kill-child", "--propagation", "private"),
                 *("bash", str(self._directory / "init"))],
                stdin=subprocess.DEVNULL, stdout=console, stderr=console, start_new_session=True,
            )  # fmt: skip
        try:
            wait_until(self._is_up, 20, "systemd has booted")
        except AssertionError as error:
            says = self._console.read_text(errors="replace")[-3000:]
            self.close()
            raise AssertionError(f"{error}\n{says}") from None
        return self

    def _is_up(self) -> bool:
        assert self._outer is not None
        with contextlib.suppress(psutil.Error):
            for child in psutil.Process(self._outer.pid).children():
                if child.name() == "systemd":
                    self._first = child
                    state = self.run("systemctl", "is-system-running", check=False)
                    return state.strip() in ("running", "degraded")
        return False

    def run(self, *command: str, check: bool = True, given: str = "") -> str:
        """Run a command in there; returns what it printed. given: its standard input."""
        assert self._first is not None
        done = subprocess.run(
            ["nsenter", "-t", str(self._first.pid), "-a", *command],
            input=given, capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert not check or done.returncode == 0, f"{command}: {done.stderr}\n{self.says}"
        return done.stdout

    def write(self, path: str, text: str) -> None:
        """Write a file in there."""
        self.run("mkdir", "-p", os.path.dirname(path))
        self.run("tee", path, given=text)

    def shown(self, unit: str, name: str) -> str:
        """A property of a unit."""
        return self.run("systemctl", "show", "-P", name, unit).strip()

    @property
    def says(self) -> str:
        """What systemd and the units' processes have said last."""
        return self._console.read_text(errors="replace")[-6000:]

    def close(self) -> None:
        """End everything in there."""
        for process in (self._first, self._outer):
            if process is not None:
                with contextlib.suppress(psutil.Error, ProcessLookupError):
                    process.kill()
        if self._outer is not None:
            self._outer.wait()
        groups = sorted(self._cgroup.rglob("*/"), reverse=True)

        def is_removed() -> bool:
            for group in [*groups, self._cgroup]:
                with contextlib.suppress(OSError):
                    group.rmdir()
            return not self._cgroup.exists()

        wait_until(is_removed, 10, "the control groups are gone")
        shutil.rmtree(self._directory)

    def __exit__(self, *_: object) -> None:
        self.close()


def _cgroups() -> Path:
    """Where control groups of version 2 are mounted."""
    for line in Path("/proc/mounts").read_text().splitlines():
        _, where, kind, *_ = line.split()
        if kind == "cgroup2":
            return Path(where)
    raise AssertionError("no cgroup2 file system is mounted: mount -t cgroup2 none DIRECTORY")
