"""Each module of this directory is one test for pytest, which is not there where they run: see inside.py."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.plugin.inside import run


class Failed(Exception):
    """What unittest said."""


class Inside(pytest.Item):
    """A run of one module by unittest."""

    def runtest(self) -> None:
        if os.geteuid() != 0:
            pytest.skip("the plugin is root's")
        with tempfile.TemporaryFile("w+", errors="replace") as output:
            status = run(["--pattern", self.path.name], output.fileno())
            output.seek(0)
            if status:
                raise Failed(output.read())

    def repr_failure(self, excinfo: pytest.ExceptionInfo[BaseException], style: object = None) -> str:
        if isinstance(excinfo.value, Failed):
            return str(excinfo.value)
        return str(super().repr_failure(excinfo))

    def reportinfo(self) -> tuple[Path, None, str]:
        return self.path, None, self.name


class Module(pytest.File):
    """One of the modules, which is not imported out here."""

    def collect(self) -> Iterator[pytest.Item]:
        yield Inside.from_parent(self, name="inside")


def pytest_pycollect_makemodule(module_path: Path, parent: pytest.Collector) -> Module:
    return Module.from_parent(parent, path=module_path)
