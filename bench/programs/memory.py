"""Memory to be dumped: `memory.py KIND MIB READY` fills it, makes the file READY and waits.

KIND is `random`, which nothing makes smaller, or `heaps`, what programs have: parsed JSON, text, and arrays of floats
and of integers as numeric libraries hold them, a quarter each.
"""

import array
import json
import os
import random
import sys
import time

MIB = 1 << 20
RECORD = 700  # bytes that a parsed record takes, about


def fill_random(mib: int) -> object:
    block = os.urandom(MIB)
    return [bytearray(block) for _ in range(mib)]


def fill_heaps(mib: int) -> object:
    made, size = random.Random(1), mib * MIB // 4
    words = ["".join(made.choices("etaoinshrdlu", k=made.randint(2, 9))) for _ in range(5000)]
    records = [json.loads(json.dumps(record(made, words, number))) for number in range(size // RECORD)]
    text = [" ".join(made.choices(words, k=2000)) for _ in range(size // 13000)]
    floats = array.array("d", (made.gauss(0, 1) for _ in range(1 << 16)))
    integers = array.array("q", (number // 3 for number in range(size // 8)))
    return records, text, [array.array("d", (x + n for x in floats)) for n in range(size // 8 >> 16)], integers


def record(made: random.Random, words: list[str], number: int) -> dict[str, object]:
    name, tags = made.choice(words), made.sample(words, 3)
    return {"id": number, "name": name, "tags": tags, "price": made.random() * 100, "valid": number % 3 == 0}


def main(kind: str, mib: str, ready: str) -> None:
    held = {"random": fill_random, "heaps": fill_heaps}[kind](int(mib))
    with open(ready, "w", encoding="ascii"):
        pass
    while held:
        time.sleep(1000)


if __name__ == "__main__":
    main(*sys.argv[1:])
