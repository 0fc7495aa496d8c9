"""Tests podman's checkpoints in two steps, on a kernel that tracks which memory is written."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.engines.support import SHIM, Engine
from tests.node.support import Site

STORAGE = ("--root=/run/podman/root", "--runroot=/run/podman/run", "--storage-driver=overlay", "--events-backend=none")
# Counts as long as its memory is what it was.
PROGRAM = """
import itertools, os, time, zlib
memory = os.urandom(16 << 20)
before = zlib.crc32(memory)
for count in itertools.count():
    print(count if zlib.crc32(memory) == before else "damaged", flush=True)
    time.sleep(0.1)
"""


@pytest.fixture
def podman(site: Site) -> Iterator[Engine]:
    engine = Engine(site.cluster, ("podman", *STORAGE, "--cgroup-manager=cgroupfs", f"--runtime={SHIM}"))
    yield engine
    engine("rm", "--all", "--force", "--time=0")


def memory(site: Site) -> dict[str, int]:
    """{directory: bytes} of the memory in each."""
    script = "cd /run/podman/root/*-containers/*/userdata; stat --format='%n %s' */pages-1.img"
    lines = site.exec(["sh", "-c", script]).stdout.splitlines()
    return {name.split("/")[0]: int(size) for name, size in (line.split() for line in lines)}


def test_in_two_steps(site: Site, podman: Engine) -> None:
    """The container runs on during the first, which has most of its memory."""
    options = ("--detach", "--name=one", "--network=none")
    podman("run", *options, "--rootfs", "/home/alice/base/rootfs", "python3", "-I", "-c", PROGRAM)
    podman.wait_counts("one", 2)
    podman("container", "checkpoint", "--pre-checkpoint", "one")
    podman.wait_counts("one", podman.counted("one")[-1])
    podman("container", "checkpoint", "--with-previous", "--keep", "one")
    reached = podman.counted("one")[-1]
    size = memory(site)
    assert size["pre-checkpoint"] > 16 << 20 > 2 * size["checkpoint"]  # the interpreter's own is some 4 MiB
    podman("container", "restore", "one")
    counted = podman.wait_counts("one", reached + 3)
    assert counted == list(range(len(counted)))
