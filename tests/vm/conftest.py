"""The node that these tests share: that of tests/node."""

from tests.node.conftest import site

__all__ = ["site"]
