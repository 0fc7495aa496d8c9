"""Tests that a checkpoint upon a pre-dump has only what changed, on a kernel that tracks which memory is written."""

from __future__ import annotations

from typing import Any

from tests.node.support import Life, Site

# Writes to some of its pages for every line that it reads; says what they were like before, and are like now.
PROGRAM = """
import hashlib, json, random, sys
chance = random.Random(1)
memory = bytearray(chance.randbytes(8 << 20))
for line in sys.stdin:
    before = hashlib.sha256(memory).hexdigest()
    for _ in range(20):
        memory[chance.randrange(len(memory))] ^= 1
    print(json.dumps({"before": before, "after": hashlib.sha256(memory).hexdigest()}), flush=True)
"""


def sizes(life: Life, directory: str) -> dict[str, int]:
    """{name: bytes} of the memory in a directory of images."""
    argv = ["find", f"{life.bundle}/{directory}", "-name", "pages-*.img", "-printf", "%P %s\\n"]
    lines = life.site.exec(argv, life.user).stdout.splitlines()
    return {name: int(size) for name, size in (line.split() for line in lines)}


def checkpoint(life: Life, directory: str, *options: str) -> None:
    argv = life.argv("checkpoint", "--image-path", f"{life.bundle}/{directory}", *options, life.name)
    assert life.site.exec(argv, life.user).stderr == ""


def changed(life: Life, before: dict[str, Any]) -> dict[str, Any]:
    """Its next answer; its memory was what it had said last."""
    after = life.look()
    assert after["before"] == before["after"]
    return after


def test_memory_and_sizes(site: Site) -> None:
    spec = site.spec("root")
    spec["process"]["args"] = ["python3", "-I", "-c", PROGRAM]
    life = site.container("root", spec)
    try:
        life.run()
        seen = life.look()
        checkpoint(life, "first", "--pre-dump")
        seen = changed(life, seen)
        checkpoint(life, "second", "--pre-dump", "--parent-path", "../first")
        seen = changed(life, seen)
        life.checkpoint("--parent-path", "../second")
        # Well below, though Python itself touches now more and now less of its memory.
        assert 3 * sizes(life, "checkpoints")["pages-1.img"] < 2 * sizes(life, "first")["pages-1.img"]
        life.restore()
        changed(life, seen)
        assert life.end() == 0
    finally:
        life.stop()
