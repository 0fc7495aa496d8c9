"""Know again the pages of memory that were sent already, by their digests."""

from __future__ import annotations

import mmap
import os
from bisect import bisect_right
from functools import partial
from itertools import groupby

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

SIZE = 16  # bytes of a digest


def digest() -> Callable[[memoryview], bytes]:
    """Return a function that makes a page's digest: XXH3 of 128 bits, or slower ones if this node lacks xxhash.

    Digests of another function differ: nobody can make pages beforehand that have the same one.
    """
    seed = os.urandom(8)
    try:
        from xxhash import xxh3_128_digest
    except ImportError:
        from hashlib import blake2b

        return lambda page: blake2b(page, digest_size=SIZE, key=seed).digest()
    return partial(xxh3_128_digest, seed=int.from_bytes(seed, "little"))


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
    """What was sent of a container's memory, {pid in the container: its pages}, by the last round of several."""

    def __init__(self) -> None:
        self.digest = digest()
        self.tables: dict[int, Table] = {}
        self.new: dict[int, Table] = {}

    def take(self, pid: int, address: int, data: memoryview) -> Iterator[tuple[int, int, bool]]:
        """Note pages that come in this round. Yield the offsets in `data`, from and to, of the next ones that are alike
        in whether they were sent before."""
        page = mmap.PAGESIZE
        digests = [self.digest(data[begin : begin + page]) for begin in range(0, len(data), page)]
        joined, before = b"".join(digests), self.tables.get(pid, Table()).of(address, len(digests))
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

    def end_round(self) -> None:
        """Forget what the rounds before have sent, but for what has come again in this one."""
        self.tables, self.new = self.new, {}
        for table in self.tables.values():
            table.sort()
