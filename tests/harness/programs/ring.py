"""Passes numbers around a ring of MPI's ranks, and sums up over all of them: `ring.py FILE ROUNDS SECONDS`.

Rank 0 appends a line for each round: its number, what came back from the ring, the sum. At its end it prints the total.
Messages have WORDS numbers, so that large ones are sent as well as small ones. It needs no compiler: MPI's library,
MPICH's or Open MPI's, is called as its header would have it.
"""

from __future__ import annotations

import ctypes
import os
import sys
import time
from typing import Any

WORDS = 20_000


class Mpi:
    """The library that the launcher belongs to."""

    def __init__(self) -> None:
        is_mpich = "PMI_RANK" in os.environ or "PMI_FD" in os.environ
        self.library = ctypes.CDLL("libmpich.so.12" if is_mpich else "libmpi.so.40", ctypes.RTLD_GLOBAL)
        self.world: Any
        self.int: Any
        self.sum: Any
        if is_mpich:  # mpi.h of MPICH 4
            self.world, self.int, self.sum = (ctypes.c_int(word) for word in (0x44000000, 0x4C000405, 0x58000003))
            self.ignore = ctypes.c_void_p(1)
        else:
            names = ("ompi_mpi_comm_world", "ompi_mpi_int", "ompi_mpi_op_sum")
            self.world, self.int, self.sum = (ctypes.byref(ctypes.c_char.in_dll(self.library, name)) for name in names)
            self.ignore = ctypes.c_void_p(0)

    def call(self, name: str, *arguments: Any) -> None:
        status = getattr(self.library, f"MPI_{name}")(*arguments)
        assert status == 0, f"MPI_{name}: {status}"

    def number(self, name: str) -> int:
        found = ctypes.c_int()
        self.call(name, self.world, ctypes.byref(found))
        return found.value

    def send(self, number: int, rank: int) -> None:
        self.call("Send", filled(number), WORDS, self.int, rank, 7, self.world)

    def receive(self, rank: int) -> int:
        found = filled(0)
        self.call("Recv", found, WORDS, self.int, rank, 7, self.world, self.ignore)
        return only(found)

    def total(self, number: int) -> int:
        found = filled(0)
        self.call("Allreduce", filled(number), found, WORDS, self.int, self.sum, self.world)
        return only(found)


def filled(number: int) -> Any:
    return (ctypes.c_int * WORDS)(*[number] * WORDS)


def only(numbers: Any) -> int:
    """The number that all of them are."""
    (number,) = set(numbers)
    return int(number)


def main(path: str, rounds: str, seconds: str) -> None:
    mpi = Mpi()
    mpi.call("Init", None, None)
    rank, size = mpi.number("Comm_rank"), mpi.number("Comm_size")
    after, before = (rank + 1) % size, (rank - 1) % size
    total = 0
    for number in range(1, int(rounds) + 1):
        if rank == 0:
            mpi.send(number, after)
            passed = mpi.receive(before)
        else:
            passed = mpi.receive(before) + rank
            mpi.send(passed, after)
        total = mpi.total(total + number * rank) % 1_000_003
        if rank == 0:
            with open(path, "a", encoding="ascii") as stream:
                stream.write(f"{number} {passed} {total}\n")
        time.sleep(float(seconds))
    if rank == 0:
        print("total", total, "of", size)
    mpi.call("Finalize")


if __name__ == "__main__":
    main(*sys.argv[1:])
