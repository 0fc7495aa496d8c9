"""Look at the memory of processes while they run: what of it a dump would take, and what is in it."""

from __future__ import annotations

import mmap
import os
import re
from contextlib import suppress

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from io import FileIO

GOLDEN = 0.6180339887  # multiples of it, modulo 1, are spread evenly, however many there are
IN_MEMORY = ("/dev/shm/", "/dev/zero", "/memfd:", "/SYSV")  # names of shared memory that is in no file on a disk
CHUNK = 1 << 20  # bytes that are read at once
# Of each 8 bytes of /proc/PID/pagemap (Documentation/admin-guide/mm/pagemap.rst) the last has a page's state: it is
# present, it is swapped out, it is a file's or shared.
ENTRY, LAST, PRESENT, STATE = 8, 7, 0x80, 0xE0
LOOKED_AT = 1 << 16  # entries that are read at once
OWN = bytes(state & STATE == PRESENT for state in range(256))  # to translate a state by: 1 for a page of its own


def spans(pid: int, shared: bool = True) -> Iterator[tuple[int, int]]:
    """Yield the addresses, from and to, of the memory of a process that CRIU may dump; if not `shared`, its own."""
    with open(f"/proc/{pid}/maps", encoding="utf-8", errors="surrogateescape") as stream:
        for line in stream:
            span, access, _, _, _, *path = line.split(maxsplit=5)
            in_memory = shared and (not path or path[0].startswith(IN_MEMORY))
            if access[:2] == "rw" and (access[3] == "p" or in_memory):
                begin, end = (int(address, 16) for address in span.split("-"))
                yield begin, end


def places(pids: list[int], number: int) -> Iterator[tuple[int, int, int]]:
    """Yield the pid, the address and the end of the span of pages that are in memory, of `number` ones that are spread
    evenly over the processes' memory."""
    from bisect import bisect
    from itertools import accumulate

    found: list[tuple[int, int, int]] = []
    for pid in pids:
        with suppress(OSError):  # it has ended, or can't be looked into
            found += [(pid, begin, end) for begin, end in spans(pid)]
    ends = list(accumulate(end - begin for _, begin, end in found))
    for count in range(number if ends else 0):
        place = int(count * GOLDEN % 1 * ends[-1])
        index = bisect(ends, place)
        pid, _, end = found[index]
        address = (end - ends[index] + place) // mmap.PAGESIZE * mmap.PAGESIZE
        if _is_present(pid, address):
            yield pid, address, end


def read(pid: int, address: int, size: int) -> bytes:
    """Return what a process has there; nothing if it has nothing there any more."""
    with suppress(OSError), open(f"/proc/{pid}/mem", "rb", buffering=0) as stream:
        return os.pread(stream.fileno(), size, address)
    return b""


def contents(pid: int) -> Iterator[tuple[int, bytes]]:
    """Yield (address, content) of whole pages that are the process's own, CHUNK at most; nothing once it has ended, or
    if it can't be looked into.

    It may write them meanwhile.
    """
    try:
        found = list(spans(pid, shared=False))
        states, stream = (open(f"/proc/{pid}/{name}", "rb", buffering=0) for name in ("pagemap", "mem"))
    except OSError:
        return
    with states, stream:
        for begin, end in found:
            for address, size in _own(states, begin, end):
                if data := _pages(stream, address, size):
                    yield address, data


def _own(states: FileIO, begin: int, end: int) -> Iterator[tuple[int, int]]:
    """Yield the address and the size of runs of present pages that are the process's own, CHUNK at most."""
    step = LOOKED_AT * mmap.PAGESIZE
    for first in range(begin, end, step):
        count = (min(end, first + step) - first) // mmap.PAGESIZE
        entries = b""
        with suppress(OSError):  # it has ended
            entries = os.pread(states.fileno(), count * ENTRY, first // mmap.PAGESIZE * ENTRY)
        for run in re.finditer(b"\1+", entries[LAST::ENTRY].translate(OWN)):
            start, stop = (first + place * mmap.PAGESIZE for place in run.span())
            for address in range(start, stop, CHUNK):
                yield address, min(CHUNK, stop - address)


def _pages(stream: FileIO, address: int, size: int) -> bytes:
    try:
        data = os.pread(stream.fileno(), size, address)
    except OSError:
        return b""  # it was unmapped meanwhile, or the process has ended
    return data[: len(data) // mmap.PAGESIZE * mmap.PAGESIZE]


def _is_present(pid: int, address: int) -> bool:
    with suppress(OSError), open(f"/proc/{pid}/pagemap", "rb", buffering=0) as stream:
        entry = os.pread(stream.fileno(), ENTRY, address // mmap.PAGESIZE * ENTRY)
        return len(entry) == ENTRY and bool(entry[LAST] & PRESENT)
    return False
