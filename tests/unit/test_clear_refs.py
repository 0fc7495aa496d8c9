"""What is loaded into CRIU to have it track a user's memory (spank/clear_refs.c)."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

SOURCE = Path(__file__).resolve().parents[2] / "spank/clear_refs.c"
# Says how it could open each file, and with which mode one was made.
PROGRAM = """
import fcntl, os, sys
directory = os.open(sys.argv[1], os.O_RDONLY)
for name in ("clear_refs", "pagemap"):
    print(name, fcntl.fcntl(os.open(name, os.O_RDWR, dir_fd=directory), fcntl.F_GETFL) & os.O_ACCMODE)
print(oct(os.fstat(os.open("new", os.O_RDWR | os.O_CREAT, 0o640, dir_fd=directory)).st_mode & 0o777))
"""


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("library") / "clear_refs.so"
    subprocess.run(["cc", "-O2", "-Wall", "-Werror", "-shared", "-fPIC", "-o", str(path), str(SOURCE)], check=True)
    return path


def test_only_that_file_is_not_read(library: Path, tmp_path: Path) -> None:
    for name in ("clear_refs", "pagemap"):
        (tmp_path / name).touch()
    argv = [sys.executable, "-I", "-c", PROGRAM, str(tmp_path)]
    said = subprocess.run(argv, env={"LD_PRELOAD": str(library)}, stdout=subprocess.PIPE, text=True, check=True).stdout
    assert said.splitlines() == [f"clear_refs {os.O_WRONLY}", f"pagemap {os.O_RDWR}", "0o640"]
