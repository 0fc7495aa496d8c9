"""Waiting for something to become true."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import TypeVar

from .errors import ClusterError

T = TypeVar("T")
PATIENCE = float(os.environ.get("OCI_CRIU_SHIM_PATIENCE", "2"))
"""How many times as long as said all is waited for: machines are busy, and emulated ones slow."""


def wait_for(predicate: Callable[[], T], timeout: float, what: str) -> T:
    """Poll until predicate gives something true, and return that. Raises ClusterError after timeout seconds.

    What has been waited for long is asked for less often: most predicates start a program, and many tests wait at once.
    """
    start = time.monotonic()
    while not (value := predicate()):
        waited = time.monotonic() - start
        if waited > timeout * PATIENCE:
            raise ClusterError(f"waited {timeout:.0f} s in vain for {what}")
        time.sleep(min(max(0.05, waited / 20), 0.3))
    return value
