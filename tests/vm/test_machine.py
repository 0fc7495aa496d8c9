"""Runs tests in a virtual machine whose kernel has what this one lacks.

That is control groups of version 2 alone, AppArmor, memory tracking and NFS. The tests are those of tests/vm and some
of other rooms. Each file or test in CHOSEN is one test here.
"""

from __future__ import annotations

import re
import tempfile
from collections.abc import Iterator

import pytest

from tests.harness.cluster.bundle import quiet
from tests.harness.vm.machine import run

CHOSEN = (
    "tests/vm/test_slurm.py",
    "tests/node/test_limits.py",
    "tests/vm/test_apparmor.py",
    "tests/vm/test_pre_dump.py",
    "tests/vm/test_podman.py",
    "tests/vm/test_increments.py",
    "tests/vm/test_nfs.py",
    "tests/node/test_elsewhere.py::test_lazily",
    "tests/node/test_verbs.py::test_limits_and_pause",
)
PYTEST = ("python3", "-m", "pytest", "-v", "--color=no", "--override-ini=timeout=1200", "-p", "no:cacheprovider")


@pytest.fixture(scope="module")
def said() -> Iterator[str]:
    """What pytest said in the machine; it is printed if the machine takes too long."""
    with tempfile.TemporaryFile("w+") as output:
        try:
            run([*PYTEST, *CHOSEN], quiet, output.fileno())
        except BaseException:
            output.seek(0)
            print(output.read())
            raise
        output.seek(0)
        yield output.read()


@pytest.mark.timeout(2700)
@pytest.mark.parametrize("chosen", CHOSEN)
def test_chosen(said: str, chosen: str) -> None:
    assert set(re.findall(rf"^{re.escape(chosen)}\S* +([A-Z]+)", said, re.MULTILINE)) == {"PASSED"}, said
