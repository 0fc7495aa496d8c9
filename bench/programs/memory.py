"""Memory to be dumped: `memory.py KIND MIB READY [SECONDS]` fills it, makes the file READY and waits. If it is told
how often, it appends the time to READY.

KIND is `random`, which nothing makes smaller, or `numpy`, what a NumPy program may have: records of parsed JSON and
text, an eighth each, and arrays for the rest: samples, a smooth field, sorted indices, an image of 256 shades.
"""

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


def fill_numpy(mib: int) -> object:
    sys.path.append("/usr/lib/python3/dist-packages")
    import numpy

    made, share = random.Random(1), mib * MIB // 16
    words = ["".join(made.choices("etaoinshrdlu", k=made.randint(2, 9))) for _ in range(5000)]
    records = [json.loads(json.dumps(record(made, words, number))) for number in range(2 * share // RECORD)]
    text = [" ".join(made.choices(words, k=2000)) for _ in range(2 * share // 13000)]
    numbers = numpy.random.default_rng(1)
    samples = numbers.normal(size=3 * share // 8)
    field = numpy.cumsum(numbers.normal(size=3 * share // 8).astype(numpy.float32), dtype=numpy.float64)
    indices = numpy.sort(numbers.integers(0, 1 << 40, 3 * share // 8))
    image = numbers.normal(128, 20, size=3 * share // 4).clip(0, 255).round().astype(numpy.float32)
    return records, text, samples, field, indices, image


def record(made: random.Random, words: list[str], number: int) -> dict[str, object]:
    name, tags = made.choice(words), made.sample(words, 3)
    return {"id": number, "name": name, "tags": tags, "price": made.random() * 100, "valid": number % 3 == 0}


def main(kind: str, mib: str, ready: str, seconds: str = "") -> None:
    held = {"random": fill_random, "numpy": fill_numpy}[kind](int(mib))
    with open(ready, "w", encoding="ascii"):
        pass
    while held:
        time.sleep(float(seconds or 1000))
        with open(ready, "a", encoding="ascii") as stream:
            stream.write(f"{time.time()}\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
