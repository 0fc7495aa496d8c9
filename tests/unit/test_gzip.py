"""The gzip that only stores (spank/gzip.c)."""

from __future__ import annotations

import gzip
import random
import subprocess
from pathlib import Path

import pytest

SOURCE = Path(__file__).resolve().parents[2] / "spank/gzip.c"


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("gzip") / "gzip"
    subprocess.run(["cc", "-O2", "-Wall", "-Wextra", "-Werror", "-o", str(path), str(SOURCE)], check=True)
    return path


@pytest.mark.parametrize("size", [0, 1, 7, 8, 9, 65534, 65535, 65536, 131070, 1000003])
def test_what_goes_in_comes_out(program: Path, size: int) -> None:
    data = random.Random(size).randbytes(size)
    packed = subprocess.run([str(program)], input=data, stdout=subprocess.PIPE, check=True).stdout
    assert gzip.decompress(packed) == data
    assert len(packed) < size + 100 + size // 1000


def test_full_disk(program: Path) -> None:
    with open("/dev/full", "wb") as full:
        assert subprocess.run([str(program)], input=b"data", stdout=full).returncode == 1
