"""The probe: what it sees of memory and of the disk, and what it makes of that."""

from __future__ import annotations

import mmap
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from oci_criu_shim.checkpoints.codec import Codec
from oci_criu_shim.dump import probe
from oci_criu_shim.dump.probe import Probe, is_faster

MB, GB = 1e6, 1e9
HOLD = """
import mmap, os
kinds = {"random": os.urandom(1 << 20), "text": b"0123456789abcdef" * (1 << 16)}
memory = mmap.mmap(-1, 64 << 20, flags=%s | mmap.MAP_ANONYMOUS)
memory.write(kinds[%r] * 64)
reserved = mmap.mmap(-1, 8 << 30, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | 0x4000)  # MAP_NORESERVE
print(flush=True)
input()
"""
Hold = Callable[..., int]


@pytest.fixture
def hold() -> Iterator[Hold]:
    """Starts a process with 64 MiB of memory of a kind, and much that it doesn't use; returns its pid."""
    started = []

    def start(kind: str, flags: str = "mmap.MAP_PRIVATE") -> int:
        argv = [sys.executable, "-c", HOLD % (flags, kind)]
        process = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        started.append(process)
        assert process.stdout
        assert process.stdout.readline() == b"\n"
        return process.pid

    yield start
    for process in started:
        process.communicate(b"\n")


@pytest.mark.parametrize(
    ("shrinks", "pace", "disk", "faster"),
    [
        pytest.param(0.33, 500 * MB, 100 * MB, True, id="a slow disk"),
        pytest.param(1.0, 500 * MB, 100 * MB, False, id="random data"),
        pytest.param(0.33, 500 * MB, 1 * GB, False, id="a fast disk, few processors"),
        pytest.param(0.33, 4 * GB, 0.6 * GB, True, id="many processors"),
        pytest.param(0.33, 4 * GB, 8 * GB, False, id="a disk that is faster than CRIU"),
        pytest.param(0.33, 0.5 * GB, probe.SHARED_RATE, True, id="two processors"),
        pytest.param(0.33, 0.25 * GB, probe.SHARED_RATE, False, id="one processor"),
        pytest.param(0.95, 4 * GB, 100 * MB, False, id="hardly less"),
        pytest.param(0.33, 50 * MB, 100 * MB, False, id="a slow processor"),
    ],
)
def test_what_is_faster(shrinks: float, pace: float, disk: float, faster: bool) -> None:
    assert is_faster(1 << 30, shrinks, pace, disk) is faster


@pytest.mark.parametrize("flags", ["mmap.MAP_PRIVATE", "mmap.MAP_SHARED"])
@pytest.mark.parametrize(("kind", "part"), [("random", (0.99, 1.01)), ("text", (0.0, 0.3))])
def test_memory_that_is_used(hold: Hold, kind: str, part: tuple[float, float], flags: str) -> None:
    """That which is only reserved would look as if it were nothing but zeros."""
    shrinks, pace = probe._try_memory(hold(kind, flags), Codec("zstd", 1).packer())
    assert part[0] <= shrinks <= part[1]
    assert pace > 1 * MB


def test_disk_is_as_it_was(tmp_path: Path) -> None:
    assert 1 * MB < probe._disk_rate(str(tmp_path)) <= probe.SHARED_RATE
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(("disk", "pays"), [(100 * MB, True), (100 * GB, False)])
def test_all_of_it(hold: Hold, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, disk: float, pays: bool) -> None:
    monkeypatch.setattr(probe, "_disk_rate", lambda _: disk)
    monkeypatch.setattr(probe, "SMALLEST", 1 << 20)
    assert Probe(Codec("lz4", 0), hold("text"), str(tmp_path)).pays() is pays


def test_little_memory_is_not_tried(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probe, "SMALLEST", 1 << 60)
    monkeypatch.setattr(probe, "_disk_rate", lambda _: pytest.fail("it was tried"))
    assert not Probe(Codec("zstd", 1), os.getpid(), str(tmp_path)).pays()


def test_what_has_ended(tmp_path: Path) -> None:
    ended = subprocess.Popen(["true"])
    ended.wait()
    assert not Probe(Codec("zstd", 1), ended.pid, str(tmp_path)).pays()


def test_pages_are_whole() -> None:
    for sample in probe._samples(os.getpid()):
        assert len(sample) % mmap.PAGESIZE == 0
