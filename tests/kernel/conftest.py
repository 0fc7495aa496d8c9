"""The node that these tests share: that of tests/system."""

from __future__ import annotations

import pytest

from tests.system.conftest import site

__all__ = ["site"]


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Tell of a failure at once: there is no end to tell it at where the machine stops."""
    if report.failed:
        print(f"\n{report.longreprtext}", flush=True)
