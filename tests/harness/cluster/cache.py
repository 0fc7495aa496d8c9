"""Directories that are made once and kept: root file systems, and what `make install` adds to them."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from .errors import ClusterError
from .lock import locked

PAUSE = 0.1  # seconds between looks at whether somebody has made it


def cache_dir() -> Path:
    return Path(os.environ.get("OCI_CRIU_SHIM_CACHE", "/var/cache/oci-criu-shim"))


@contextmanager
def kept(directory: Path) -> Iterator[Path]:
    """Keep a cached directory from being removed as an older one while it is in use."""
    with locked(_lock_of(directory), shared=True):
        if not directory.is_dir():
            raise ClusterError(f"{directory} is gone", "start again: it will be made anew")
        yield directory


def ensure(name: str, make: Callable[[Path], Path]) -> Path:
    """Return the cached directory of a name, which ends with a hash of twelve digits.

    If it is missing, `make` is given a scratch directory, and returns the directory in there that is to be kept.
    """
    directory = cache_dir() / name
    if not directory.is_dir():
        _make_once(directory, make)
        _remove_older(directory)
    return directory


def _make_once(directory: Path, make: Callable[[Path], Path]) -> None:
    """Make it, or wait for whoever does; not for the lock, which its users hold as long as they run."""
    while not directory.is_dir():
        try:
            with locked(_lock_of(directory), wait=False):
                if not directory.is_dir():
                    _make(directory, make)
        except BlockingIOError:
            time.sleep(PAUSE)


def _make(directory: Path, make: Callable[[Path], Path]) -> None:
    scratch = _scratch_of(directory)
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir(parents=True)
    try:
        make(scratch).rename(directory)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _lock_of(directory: Path) -> Path:
    return directory.with_name(directory.name + ".lock")


def _scratch_of(directory: Path) -> Path:
    """Return where it is made. Whoever is killed meanwhile leaves it behind, and the next one removes it."""
    return directory.with_name(directory.name + ".partial")


def _remove_older(directory: Path) -> None:
    """Remove the directories of the same name with other hashes that nobody uses."""
    prefix = directory.name.rpartition("-")[0]
    for lock in directory.parent.glob(f"{prefix}-????????????.lock"):
        older = lock.with_suffix("")
        if older == directory:
            continue
        try:
            with locked(lock, wait=False):
                for left in (older, _scratch_of(older)):
                    shutil.rmtree(left, ignore_errors=True)
                lock.unlink()
        except BlockingIOError:
            continue
