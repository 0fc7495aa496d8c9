"""Waiting for something to become true."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import TypeVar

from .errors import ClusterError

T = TypeVar("T")
PATIENCE = float(os.environ.get("OCI_CRIU_SHIM_PATIENCE", "1"))
"""How many times as long as said all is waited for: an emulated machine is slow."""


def wait_for(predicate: Callable[[], T], timeout: float, what: str) -> T:
    """Poll until predicate gives something true, and return that. Raises ClusterError after timeout seconds."""
    deadline = time.monotonic() + timeout * PATIENCE
    while not (value := predicate()):
        if time.monotonic() > deadline:
            raise ClusterError(f"waited {timeout:.0f} s in vain for {what}")
        time.sleep(0.1)
    return value
