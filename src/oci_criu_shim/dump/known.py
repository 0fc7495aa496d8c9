"""Know again the pages of memory that were sent already, by their digests."""

from __future__ import annotations

import mmap
import os
from bisect import bisect_right
from functools import partial
from itertools import accumulate, groupby

from oci_criu_shim.dump.memory import GOLDEN

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from oci_criu_shim.dump.memory import Span

SIZE = 16  # bytes of a digest


def digest() -> Callable[[bytes | memoryview], bytes]:
    """Return a function that makes a page's digest, XXH3 of 128 bits; raise ImportError if this node lacks xxhash.

    Digests of another function differ: nobody can make pages beforehand that have the same one.
    """
    from xxhash import xxh3_128_digest

    return partial(xxh3_128_digest, seed=int.from_bytes(os.urandom(8), "little"))


class Table:
    """The digests of a process's pages, by address."""

    def __init__(self) -> None:
        self.begins: list[int] = []
        self.runs: list[bytearray] = []  # of pages that follow one another

    def add(self, address: int, digests: bytes) -> None:
        """Add those of the pages from `address` on."""
        if self.begins and self.begins[-1] + len(self.runs[-1]) // SIZE * mmap.PAGESIZE == address:
            self.runs[-1] += digests
        else:
            self.begins.append(address)
            self.runs.append(bytearray(digests))

    def sort(self) -> None:
        """Put the pages in order: of() is of use after that."""
        pairs = sorted(zip(self.begins, self.runs, strict=True))
        self.begins, self.runs = [begin for begin, _ in pairs], [run for _, run in pairs]

    def of(self, address: int, count: int) -> bytes:
        """Return those of `count` pages; zeros for a page that it doesn't have."""
        found, end = bytearray(count * SIZE), address + count * mmap.PAGESIZE
        index = max(bisect_right(self.begins, address) - 1, 0)
        while index < len(self.begins) and self.begins[index] < end:
            begin, run = self.begins[index], self.runs[index]
            first, last = max(begin, address), min(begin + len(run) // SIZE * mmap.PAGESIZE, end)
            if first < last:
                found[_offset(first - address) : _offset(last - address)] = run[
                    _offset(first - begin) : _offset(last - begin)
                ]
            index += 1
        return bytes(found)


def _offset(memory: int) -> int:
    return memory // mmap.PAGESIZE * SIZE


class Known:
    """What was sent of a container's memory, {pid in the container: its pages}, by the last round of several.

    Only that is compared which is a process's own() at the time of a round: CRIU restores no other from a parent.
    """

    def __init__(self, own: Callable[[int], Sequence[Span]]) -> None:
        self.own = own
        self.digest = digest()
        self.tables: dict[int, Table] = {}
        self.new: dict[int, Table] = {}
        self.spans: dict[int, Sequence[Span]] = {}  # in this round
        self.is_last = False  # nobody will ask for what comes now

    def take(self, pid: int, address: int, data: memoryview) -> Iterator[tuple[int, int, bool]]:
        """Note pages that come in this round. Yield the offsets in `data`, from and to, of the next ones that are alike
        in whether they were sent before."""
        if not self._is_own(pid, address, address + len(data)):
            yield 0, len(data), False
            return
        page = mmap.PAGESIZE
        digests = [self.digest(data[begin : begin + page]) for begin in range(0, len(data), page)]
        joined, before = b"".join(digests), self.tables.get(pid, Table()).of(address, len(digests))
        if not self.is_last:
            self.new.setdefault(pid, Table()).add(address, joined)
        if joined == before:
            yield 0, len(data), True
            return
        same = (found == before[number * SIZE : number * SIZE + SIZE] for number, found in enumerate(digests))
        begin = 0
        for is_known, run in groupby(same):
            end = begin + sum(1 for _ in run) * page
            yield begin, end, is_known
            begin = end

    def _is_own(self, pid: int, begin: int, end: int) -> bool:
        if pid not in self.spans:
            self.spans[pid] = self.own(pid)
        spans = self.spans[pid]
        index = bisect_right(spans, (begin, end)) - 1
        return any(first <= begin and end <= last for first, last in spans[max(index, 0) : index + 2])

    def end_round(self) -> None:
        """Forget what the rounds before have sent, but for what has come again in this one."""
        self.tables, self.new, self.spans = self.new, {}, {}
        for table in self.tables.values():
            table.sort()


def sample(tables: dict[int, Table], count: int) -> Iterator[tuple[int, int, bytes]]:
    """Yield (pid in the container, address, digest) of `count` pages that are spread evenly over those of `tables`."""
    runs = [
        (pid, begin, run)
        for pid, table in list(tables.items())
        for begin, run in zip(list(table.begins), list(table.runs), strict=False)
    ]
    ends = list(accumulate(len(run) // SIZE for _, _, run in runs))
    for number in range(count if ends else 0):
        place = int(number * GOLDEN % 1 * ends[-1])
        index = bisect_right(ends, place)
        pid, begin, run = runs[index]
        page = place - (ends[index - 1] if index else 0)
        yield pid, begin + page * mmap.PAGESIZE, bytes(run[page * SIZE : page * SIZE + SIZE])


def size(tables: dict[int, Table]) -> int:
    """Return the bytes of the pages in `tables`."""
    return sum(len(run) // SIZE * mmap.PAGESIZE for table in tables.values() for run in table.runs)
