"""Keeps a ledger of its own life, by which one can tell whether a restore has changed anything.

    ledger.py LEDGER TICKS SECONDS MIB [each|append|offset [reads|text]…]

Fills MIB of memory, of text if asked for, which half as much would hold. Then it writes one line per tick to LEDGER and
to standard output, and checks the memory at each. LEDGER is opened for each line, or once: for appending, or to write
where the last line ended. If it reads, standard input must have a line for each tick (Work.lines() of
tests.harness.jobs), and then end.
"""

from __future__ import annotations

import hashlib
import io
import os
import random
import sys
import time

MIB = 1 << 20


def piece(seed: int, text: bool) -> bytes:
    """Return a MiB of pseudo-random memory."""
    return random.Random(seed).randbytes(MIB // 2).hex().encode() if text else random.Random(seed).randbytes(MIB)


def fill(mib: int, text: bool) -> list[bytes]:
    """Return memory that no two pages share."""
    return [piece(seed, text) for seed in range(mib)]


def checksum(blocks: list[bytes]) -> str:
    """One checksum over all the memory."""
    total = hashlib.blake2b()
    for block in blocks:
        total.update(block)
    return total.hexdigest()


FLAGS = {"each": os.O_APPEND, "append": os.O_APPEND, "offset": os.O_TRUNC}


class Ledger:
    """The file at `path`, which is held open unless `mode` is "each"."""

    def __init__(self, path: str, mode: str) -> None:
        self.path = path
        self.flags = os.O_WRONLY | os.O_CREAT | FLAGS[mode]
        self.held = None if mode == "each" else os.open(path, self.flags, 0o644)

    def add(self, line: str) -> None:
        """Add a line and see it onto the disk."""
        descriptor = os.open(self.path, self.flags, 0o644) if self.held is None else self.held
        os.write(descriptor, f"{line}\n".encode())
        os.fsync(descriptor)
        if self.held is None:
            os.close(descriptor)


def main(path: str, ticks: int, seconds: float, mib: int, mode: str = "each", *options: str) -> int:
    """Live; return 1 if the memory or the input is not what it was."""
    reads, text = "reads" in options, "text" in options
    blocks, ledger = fill(mib, text), Ledger(path, mode)
    lines = io.FileIO(0)  # which keeps nothing for itself
    expected = checksum(blocks)
    good = True
    for number in range(1, ticks + 1):
        block = (number - 1) % mib if mib else 0
        good = good and blocks[block : block + 1] == [piece(block, text)][:mib]
        word = "sum-ok" if good else "sum-bad"
        if reads and lines.readline().split()[:2] != [b"line", b"%d" % number]:
            good, word = False, "input-bad"
        ledger.add(f"tick {number} pid {os.getpid()} mono {time.monotonic():.3f} {word}")
        print(f"tick {number}", flush=True)
        time.sleep(seconds)
    good = good and checksum(blocks) == expected and not (reads and lines.read(1))
    print("end sum-ok" if good else "end sum-bad", flush=True)
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], int(sys.argv[2]), float(sys.argv[3]), int(sys.argv[4]), *sys.argv[5:]))
