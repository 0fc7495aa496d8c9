"""The node that these tests share: that of tests/system."""

from tests.system.conftest import site

__all__ = ["site"]
