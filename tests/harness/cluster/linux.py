"""System calls that Python 3.11 does not have; no policy."""

from __future__ import annotations

import ctypes
import os
from pathlib import Path

MS_RDONLY = 0x1
MS_NOSUID = 0x2
MS_NODEV = 0x4
MS_NOEXEC = 0x8
MS_REMOUNT = 0x20
MS_BIND = 0x1000
MS_REC = 0x4000
MNT_DETACH = 0x2
CLONE_NEWNET = 0x40000000

_libc = ctypes.CDLL(None, use_errno=True)


def _checked(status: int, name: str) -> None:
    if status < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), name)


def mount(source: str, target: Path, kind: str, flags: int = 0, data: str = "") -> None:
    """mount(2). Raise OSError with the target's name."""
    raw = (source.encode(), os.fsencode(target), kind.encode(), ctypes.c_ulong(flags), data.encode())
    _checked(_libc.mount(*raw), str(target))


def bind(source: Path, target: Path, *, read_only: bool = False) -> None:
    """Bind source, with what is mounted below it, at target."""
    mount(str(source), target, "", MS_BIND | MS_REC)
    if read_only:
        mount("", target, "", MS_BIND | MS_REMOUNT | MS_RDONLY)


def pivot_root(new_root: Path) -> None:
    """Make new_root, a mount point, the root of this mount namespace and detach the old one (pivot_root(2), NOTES)."""
    os.chdir(new_root)
    _checked(_libc.pivot_root(b".", b"."), str(new_root))
    _checked(_libc.umount2(b".", MNT_DETACH), str(new_root))
    os.chdir("/")


def setns(descriptor: int, kind: int) -> None:
    """Move the calling thread into a namespace of this kind (setns(2))."""
    _checked(_libc.setns(descriptor, kind), f"descriptor {descriptor}")
