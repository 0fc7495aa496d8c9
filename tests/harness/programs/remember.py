"""Has memory of many kinds, and changes some of it for each line that it reads.

The answer is a line of JSON: `sums` of each kind, and `wrong`: the kinds whose sum is not the one that was answered
last. The line `look` changes nothing; at `move`, tables of pages that did not change are moved to where others were.
"""

from __future__ import annotations

import ctypes
import json
import mmap
import os
import random
import sys
from zlib import crc32

PAGE = 4096
TABLE = 2 << 20  # what a table of pages maps
SIZE = 2 * TABLE
ANONYMOUS = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
HUGE = ANONYMOUS | 0x40000  # MAP_HUGETLB
NO_HUGE_PAGES = 15  # MADV_NOHUGEPAGE
MOVE = 1 | 2  # MREMAP_MAYMOVE | MREMAP_FIXED
PLACE = 0x200000000000  # nothing else is near it


def scribble(memory: mmap.mmap, count: int) -> None:
    """Change so many pages, here and there."""
    for page in random.sample(range(len(memory) // PAGE), min(count, len(memory) // PAGE)):
        memory[page * PAGE : (page + 1) * PAGE] = os.urandom(PAGE)


def filled(size: int, flags: int = ANONYMOUS) -> mmap.mmap:
    memory = mmap.mmap(-1, size, flags)
    memory[:] = os.urandom(size)
    return memory


class Kinds:
    """What a process has."""

    def __init__(self) -> None:
        self.memory = {"plain": filled(SIZE), "small": filled(SIZE), "grown": filled(PAGE), "new": filled(TABLE)}
        self.memory["small"].madvise(NO_HUGE_PAGES)
        self.memory["shared"] = filled(TABLE, mmap.MAP_SHARED | mmap.MAP_ANONYMOUS)
        descriptor = os.open("/dev/shm/file", os.O_RDWR | os.O_CREAT, 0o600)
        os.ftruncate(descriptor, TABLE)
        self.memory["file"] = mmap.mmap(descriptor, TABLE)
        try:
            self.memory["huge"] = filled(TABLE, HUGE)
        except OSError:
            pass  # the node keeps none
        self.objects = [os.urandom(100) for _ in range(1000)]

    def change(self) -> None:
        for name, memory in self.memory.items():
            scribble(memory, 5 if name != "plain" else len(memory) // PAGE // 20)
        self.memory["grown"].resize(len(self.memory["grown"]) + 5 * PAGE)
        del self.memory["new"]  # another one may come to its place
        self.memory["new"] = mmap.mmap(-1, TABLE, ANONYMOUS)
        scribble(self.memory["new"], 100)
        for number in random.sample(range(len(self.objects)), 50):
            self.objects[number] = os.urandom(100)

    def sums(self) -> dict[str, int]:
        found = {name: crc32(memory) for name, memory in self.memory.items()}
        return {**found, "objects": crc32(b"".join(self.objects))}


class Child:
    """A copy of `kinds` that goes its own way."""

    def __init__(self, kinds: Kinds) -> None:
        commands, self.writer = os.pipe()
        self.reader, answers = os.pipe()
        if os.fork() == 0:
            os.close(self.writer)
            while command := os.read(commands, 1):
                if command == b"c":
                    scribble(kinds.memory["plain"], 20)
                os.write(answers, b"%d" % crc32(kinds.memory["plain"]))
            os._exit(0)

    def ask(self, command: bytes) -> int:
        os.write(self.writer, command)
        return int(os.read(self.reader, 1000))


class Tables:
    """Two regions; the second is given up for the first, which is moved there as it is."""

    def __init__(self) -> None:
        self.libc = ctypes.CDLL(None, use_errno=True)
        self.libc.mmap.restype = self.libc.mremap.restype = ctypes.c_void_p
        self.libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_long]
        self.libc.mremap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_size_t, ctypes.c_int, ctypes.c_void_p]
        self.libc.madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
        self.places = [PLACE, PLACE + (1 << 30)]
        for place in self.places:
            assert self.libc.mmap(place, SIZE, 3, ANONYMOUS | 0x10, -1, 0) == place  # MAP_FIXED
            self.libc.madvise(place, SIZE, NO_HUGE_PAGES)
            ctypes.memmove(place, os.urandom(SIZE), SIZE)

    def move(self) -> None:
        source, target = self.places
        assert self.libc.mremap(source, SIZE, SIZE, MOVE, target) == target
        self.places = [target]

    def sum(self) -> int:
        return crc32(b"".join(ctypes.string_at(place, SIZE) for place in self.places))


def main() -> None:
    """Until the input ends."""
    kinds, tables = Kinds(), Tables()
    child = Child(kinds)
    expected: dict[str, int] = {}

    def look() -> dict[str, int]:
        return {**kinds.sums(), "child": child.ask(b"l"), "tables": tables.sum()}

    for line in sys.stdin:
        found = look()
        wrong = [name for name, value in expected.items() if found[name] != value]
        if line.strip() == "move":
            tables.move()
        elif line.strip() != "look":
            kinds.change()
            child.ask(b"c")
        expected = look()
        print(json.dumps({"wrong": wrong, "sums": expected}), flush=True)


if __name__ == "__main__":
    main()
