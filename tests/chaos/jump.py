"""A clock for the server that can jump: a small library in front of its C library.

It takes a C compiler; without one the clock of the run never jumps, and the run says so.
"""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

SOURCE = r"""
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

static const long long zero = 0;
static const volatile long long *ahead_s = 0;

static long long ahead(void) {
  if (!ahead_s) {
    const char *path = getenv("JUMP_FILE");
    int file = path ? open(path, O_RDONLY) : -1;
    void *found = file < 0 ? MAP_FAILED : mmap(0, 8, PROT_READ, MAP_SHARED, file, 0);
    ahead_s = found == MAP_FAILED ? &zero : found;
  }
  return *ahead_s;
}

int gettimeofday(struct timeval *now, void *zone) {
  struct timespec true_time;
  syscall(SYS_clock_gettime, CLOCK_REALTIME, &true_time);
  now->tv_sec = true_time.tv_sec + ahead();
  now->tv_usec = true_time.tv_nsec / 1000;
  return 0;
}

time_t time(time_t *to) {
  struct timespec true_time;
  syscall(SYS_clock_gettime, CLOCK_REALTIME, &true_time);
  time_t now = true_time.tv_sec + ahead();
  if (to) *to = now;
  return now;
}
"""


class JumpingClock:
    """env: for the server."""

    def __init__(self, directory: Path) -> None:
        self._offset = directory / "ahead"
        self._offset.write_bytes(bytes(8))
        self.env: dict[str, str] = {}
        if (compiler := shutil.which("cc") or shutil.which("gcc")) is None:
            return
        source, library = directory / "jump.c", directory / "jump.so"
        source.write_text(SOURCE)
        command = [compiler, "-shared", "-fPIC", "-O1", "-o", str(library), str(source)]
        subprocess.run(command, check=True)
        self.env = {"LD_PRELOAD": str(library), "JUMP_FILE": str(self._offset)}

    @property
    def works(self) -> bool:
        return bool(self.env)

    def jump(self, seconds: int) -> None:
        """Put the clock forward or back; the server sees it at once."""
        ahead_s = int.from_bytes(self._offset.read_bytes(), "little", signed=True) + seconds
        with self._offset.open("r+b") as file:
            file.write(ahead_s.to_bytes(8, "little", signed=True))
