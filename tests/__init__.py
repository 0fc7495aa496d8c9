"""Tests: `make test` runs them all."""

import os

NAME = f"pytest-{os.getpid()}"
"""The clusters' names begin with it, as several test runs may have theirs up at once."""
