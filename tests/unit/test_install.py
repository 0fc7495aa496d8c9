"""`make install`, as far as make tells it without doing it."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]
MAKE = shutil.which("make")


@pytest.mark.skipif(not MAKE, reason="no make")
@pytest.mark.parametrize(("given", "directory"), [((), "/p/lib/oci-criu-shim"), (("LIBDIR=/q",), "/q")])
def test_the_launcher_finds_the_package(given: tuple[str, ...], directory: str) -> None:
    words = [MAKE or "make", "--dry-run", "install", "PREFIX=/p", *given]
    lines = subprocess.run(words, cwd=REPOSITORY, check=True, capture_output=True, text=True).stdout.splitlines()
    (edit,) = [line for line in lines if line.startswith("sed -i ")]
    edit = edit.replace(" -i ", " ").replace("/p/bin/oci-criu-shim", "src/launcher.py")
    launcher = subprocess.run(edit, shell=True, cwd=REPOSITORY, check=True, capture_output=True, text=True).stdout
    assert f'sys.path.insert(0, "{directory}")' in launcher
