"""Removal of what an instance leaves when nobody serves it any more."""

from __future__ import annotations

import shutil
import time
from contextlib import suppress
from pathlib import Path

from . import cgroups
from .settings import DATA, STATE, Instance
from .waiting import patient


def sweep(instance: Instance) -> None:
    """Kill and remove all that is left of an instance. The caller holds its lock."""
    cgroups.remove(instance.name)
    for directory in (instance.data, instance.state):
        _remove_tree(directory)
    with suppress(OSError):  # not empty: other instances
        DATA.rmdir()


def forget(instance: Instance) -> None:
    """Remove the instance's lock file. The caller holds the lock, and lets go of it next."""
    instance.lock.unlink()
    with suppress(OSError):  # not empty: other instances
        STATE.rmdir()


def _remove_tree(directory: Path, timeout: float = 5.0) -> None:
    """Remove a tree that a process just killed may still be writing to."""
    deadline = time.monotonic() + patient(timeout)
    while directory.exists():
        shutil.rmtree(directory, ignore_errors=time.monotonic() < deadline)


def names() -> list[str]:
    """Instances that have left a trace, up or dead."""
    traces = [*STATE.glob("*/"), *DATA.glob("*/")]
    return sorted({path.name for path in traces})
