"""Write and read the parts of tar files that tarfile leaves to its callers: headers, padding, exact times."""

from __future__ import annotations

import tarfile

PIECE = 1 << 20  # bytes that are read or written at once
NANO = 10**9


def header(member: tarfile.TarInfo) -> bytes:
    """Return what comes before a member's content."""
    return member.tobuf(tarfile.PAX_FORMAT, "utf-8", "surrogateescape")


def padding(size: int) -> bytes:
    """Return what comes after a content of `size` bytes."""
    return bytes(-size % tarfile.BLOCKSIZE)


def pax_time(nanoseconds: int) -> str:
    """Return a time as PAX headers have it: in seconds, with nine digits after the point."""
    return f"{nanoseconds // NANO}.{nanoseconds % NANO:09}"


def time_of(member: tarfile.TarInfo, name: str) -> int:
    """Return the time `name` of a member's PAX headers, in nanoseconds; 0 if they have none."""
    seconds, _, rest = member.pax_headers.get(name, "0.0").partition(".")
    return int(seconds) * NANO + int(rest)
