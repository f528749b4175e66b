"""What must be true of every input: it is taken, or refused in one line; in a second and 1 GiB."""

import contextlib
import re
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from elf.errors import ElfError
from elf.images import BadImage

Check = Callable[[bytes], None]
"""Gives an input to Elf; what it raises is a finding."""

SECONDS = 1.0
"""Of the processor's time, which other processes take nothing of."""
MEMORY = 1 << 30  # bytes


class Finding(AssertionError):
    """Something that is true of no input."""


@contextlib.contextmanager
def refused(*kinds: type[Exception]) -> Iterator[None]:
    """Let Elf refuse an input: by its own errors, of one line, and by no others."""
    try:
        yield
    except (ElfError, BadImage, *kinds) as error:
        said = str(error)
        if not said.strip() or "\n" in said or "\r" in said:
            raise Finding(f"no single line: {said!r}") from error


def peak() -> int:
    """Return the most bytes that this process ever held; 0 where the system does not say."""
    if sys.platform != "linux":
        return 0
    found = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
    return int(found[1]) * 1024 if found else 0


def measured(check: Check) -> Check:
    """Return a check that holds each input to its time and memory as well."""

    def watch(data: bytes) -> None:
        held, started = peak(), time.process_time()
        check(data)
        took, grown = time.process_time() - started, peak() - held
        if took > SECONDS:
            raise Finding(f"took {took:.1f} s")
        if grown > MEMORY:
            raise Finding(f"took {grown >> 20} MiB")

    return watch
