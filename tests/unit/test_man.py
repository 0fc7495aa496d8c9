"""The manual page of the command, made from its table."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from oci_criu_shim.cli.option import Group
from oci_criu_shim.cli.verbs import GLOBAL, PROGRAM
from tests.harness.pages import README, block

REPOSITORY = Path(__file__).parents[2]
GROFF = shutil.which("groff")


@pytest.fixture(scope="module")
def page() -> str:
    words = [sys.executable, "-B", str(REPOSITORY / "tools/man_command")]
    return subprocess.run(words, check=True, capture_output=True, text=True).stdout


def test_all_is_there(page: str) -> None:
    tables = {"": PROGRAM.table()}
    tables |= {f"{name} ": entry.table() for name, entry in PROGRAM.table().items() if isinstance(entry, Group)}
    verbs = [(prefix + name, verb) for prefix, table in tables.items() for name, verb in table.items()]
    plain = page.replace("\\-", "-").replace("\\fB", "").replace("\\fP", "")
    for name, entry in verbs:
        if not isinstance(entry, Group):
            assert f'.SS "{name} {entry.operands}'.rstrip() in plain
            assert all(f"\n{', '.join(option.names)}" in plain for option in (*entry.options, *GLOBAL))


def test_the_examples_are_readmes(page: str) -> None:
    assert f".nf\n{block(README, 'Use', 'sbatch ')}.fi\n" in page.replace("\\-", "-")


@pytest.mark.skipif(not GROFF, reason="no groff")
def test_groff_has_no_warnings(page: str) -> None:
    words = [GROFF or "groff", "-ww", "-man", "-Kutf8", "-Tutf8"]
    assert not subprocess.run(words, input=page, check=True, capture_output=True, text=True).stderr
