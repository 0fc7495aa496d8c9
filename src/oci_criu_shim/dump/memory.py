"""Look at the memory of processes while they run: what of it a dump would take, and what is in it."""

from __future__ import annotations

import mmap
import os
import re
from contextlib import ExitStack, suppress
from itertools import groupby

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from io import FileIO

    Span = tuple[int, int]  # addresses, from and to

GOLDEN = 0.6180339887  # multiples of it, modulo 1, are spread evenly, however many there are
IN_MEMORY = ("/dev/shm/", "/dev/zero", "/memfd:", "/SYSV")  # names of shared memory that is in no file on a disk
CHUNK = 1 << 20  # bytes that are read at once
ZERO = bytes(mmap.PAGESIZE)
# Of each 8 bytes of /proc/PID/pagemap (Documentation/admin-guide/mm/pagemap.rst) the last has a page's state: it is
# present, it is swapped out, it is a file's or shared.
ENTRY, LAST, PRESENT, STATE = 8, 7, 0x80, 0xE0
LOOKED_AT = 1 << 16  # entries that are read at once
OWN = bytes(state & STATE == PRESENT for state in range(256))  # to translate a state by: 1 for a page of its own


def spans(pid: int) -> Iterator[Span]:
    """Yield the memory of a process that CRIU may dump, shared memory, too."""
    for begin, end, access, _, name in _mappings(pid):
        if access[:2] == "rw" and (access[3] == "p" or not name or name.startswith(IN_MEMORY)):
            yield begin, end


def own(pid: int) -> list[Span]:
    """Return the memory of a process that is of no file and its own: no huge pages, which are files'.

    It is empty if the process has ended, or can't be looked into.
    """
    found: list[Span] = []
    with suppress(OSError):
        for begin, end, access, inode, _ in _mappings(pid):
            if access[:2] == "rw" and access[3] == "p" and not inode:
                if found and found[-1][1] == begin:
                    begin = found.pop()[0]
                found.append((begin, end))
    return found


def _mappings(pid: int) -> Iterator[tuple[int, int, str, int, str]]:
    """Yield (begin, end, access, inode, name) of each mapping.

    What grows while that is read is listed twice, the second time from its old beginning.
    """
    last = 0
    with open(f"/proc/{pid}/maps", encoding="utf-8", errors="surrogateescape") as stream:
        for line in stream:
            span, access, _, _, inode, *name = line.split(maxsplit=5)
            begin, end = (int(address, 16) for address in span.split("-"))
            if end > last:
                yield max(begin, last), end, access, int(inode), name[0] if name else ""
                last = end


def places(pids: list[int], tries: int) -> Iterator[tuple[int, int, int]]:
    """Yield the pid, the address and the end of the span of pages that are in memory, of places that are spread evenly
    over the processes' addresses: so many are tried."""
    from bisect import bisect
    from itertools import accumulate

    found: list[tuple[FileIO, int, int, int]] = []
    with ExitStack() as opened:
        for pid in pids:
            with suppress(OSError):  # it has ended, or can't be looked into
                states = opened.enter_context(open(f"/proc/{pid}/pagemap", "rb", buffering=0))
                found += [(states, pid, begin, end) for begin, end in spans(pid)]
        ends = list(accumulate(end - begin for _, _, begin, end in found))
        for count in range(tries if ends else 0):
            place = int(count * GOLDEN % 1 * ends[-1])
            index = bisect(ends, place)
            states, pid, _, end = found[index]
            address = (end - ends[index] + place) // mmap.PAGESIZE * mmap.PAGESIZE
            if _is_present(states, address):
                yield pid, address, end


def read(pid: int, address: int, size: int) -> bytes:
    """Return what a process has there; nothing if it has nothing there any more, or can't be looked into."""
    with suppress(OSError), open(f"/proc/{pid}/mem", "rb", buffering=0) as stream:
        return os.pread(stream.fileno(), size, address)
    return b""


def contents(pid: int) -> Iterator[tuple[int, bytes]]:
    """Yield (address, content) of whole pages of own(), CHUNK at most, without those that have nothing but zeros; none
    once the process has ended, or if it can't be looked into.

    It may write them meanwhile.
    """
    with ExitStack() as opened:
        try:
            states, stream = (
                opened.enter_context(open(f"/proc/{pid}/{name}", "rb", buffering=0)) for name in ("pagemap", "mem")
            )
        except OSError:
            return
        for begin, end in own(pid):
            for address, size in _present(states, begin, end):
                yield from _filled(address, _pages(stream, address, size))


def _present(states: FileIO, begin: int, end: int) -> Iterator[tuple[int, int]]:
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


def _filled(address: int, data: bytes) -> Iterator[tuple[int, bytes]]:
    """Yield the runs of pages that have something other than zeros: what is only read looks as if it were there."""
    size = mmap.PAGESIZE
    begin = 0
    for is_zero, run in groupby(data[offset : offset + size] == ZERO for offset in range(0, len(data), size)):
        end = begin + sum(1 for _ in run) * size
        if not is_zero:
            yield address + begin, data[begin:end]
        begin = end


def _is_present(states: FileIO, address: int) -> bool:
    entry = b""
    with suppress(OSError):
        entry = os.pread(states.fileno(), ENTRY, address // mmap.PAGESIZE * ENTRY)
    return len(entry) == ENTRY and bool(entry[LAST] & PRESENT)
