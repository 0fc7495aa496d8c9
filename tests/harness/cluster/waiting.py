"""Waiting for something to become true."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import TypeVar

from .errors import ClusterError

T = TypeVar("T")
PATIENCE = float(os.environ.get("OCI_CRIU_SHIM_PATIENCE", "4"))
"""Every time limit is multiplied by it. Limits are for an idle machine, of which a busy one makes a quarter."""


def patient(seconds: float) -> float:
    """Return a time limit in seconds for this machine, given the one for an idle machine."""
    return seconds * PATIENCE


def wait_for(predicate: Callable[[], T], timeout: float, what: str) -> T:
    """Poll until predicate returns something true, and return that.

    Raise ClusterError after `timeout` seconds of an idle machine. The longer it takes, the rarer the polls: most
    predicates start a program, and many tests wait at the same time.
    """
    start, limit = time.monotonic(), patient(timeout)
    while not (value := predicate()):
        waited = time.monotonic() - start
        if waited > limit:
            raise ClusterError(f"waited {limit:.0f} s in vain for {what}")
        time.sleep(min(max(0.05, waited / 20), 0.3))
    return value
