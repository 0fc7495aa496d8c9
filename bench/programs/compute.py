"""A compute loop: `compute.py ROUNDS MIB` goes over MIB of memory ROUNDS times, changes all of it, and prints the
seconds that took."""

import hashlib
import sys
import time

MIB = 1 << 20


def main(rounds: int, mib: int) -> None:
    blocks = [bytearray(MIB) for _ in range(mib)]
    begin = time.monotonic()
    for number in range(rounds):
        for block in blocks:
            digest = hashlib.blake2b(block, salt=number.to_bytes(4, "little")).digest()
            for page in range(0, MIB, 4096):
                block[page : page + 64] = digest
    print(f"seconds {time.monotonic() - begin:.3f}", flush=True)


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
