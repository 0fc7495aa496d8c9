"""Check that memory is unchanged if the kernel says that nobody has written it since the last dump.

CRIU goes by the kernel's soft-dirty marks. These tell of every page that was written, but not of every page that
mremap(2) has moved: it moves page tables of 2 MiB and more as they are (move_normal_pmd() in mm/mremap.c, Linux 6.12),
so the pages at the new address look like those that were there at the last dump. Nothing else would tell, and a restore
would mix up the two. So some pages of each table are compared with their checksums of the last dump.
"""

from __future__ import annotations

import os

from oci_criu_shim.errors import ShimError
from oci_criu_shim.host import criu_images, process

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

    Sums = dict[str, dict[str, int]]

PAGE = os.sysconf("SC_PAGE_SIZE")
STEP = 31  # one page of so many: 16 of a page table, at other places in each


def take(init: int, images: str, before: Mapping[str, Mapping[str, int]] | None) -> Sums:
    """Return {pid in the container: {number of a page: its checksum}} of the processes from `init` on.

    They are frozen, and dumped to `images`. `before` are the checksums of the parent's memory; None without a parent.
    Raise ShimError if a page that the images leave to the parent's has changed since, OSError if memory can't be read.
    """
    found = {}
    for pid, number in process.numbered(init):
        inner = str(number)
        pagemap = os.path.join(images, f"pagemap-{inner}.img")
        if os.path.exists(pagemap):  # a zombie has none
            found[inner] = _sums(pid, pagemap, (before or {}).get(inner, {}))
    return found


def _sums(pid: int, pagemap: str, before: Mapping[str, int]) -> dict[str, int]:
    from zlib import crc32

    found = {}
    with open(f"/proc/{pid}/mem", "rb", buffering=0) as memory:
        for address, count, inherited in criu_images.pagemap(pagemap):
            first = address // PAGE
            for page in range(first + -first % STEP, first + count, STEP):
                name = str(page)
                found[name] = crc32(os.pread(memory.fileno(), PAGE, page * PAGE))
                if inherited and before.get(name) != found[name]:
                    raise ShimError(f"memory of process {pid} was moved, which the kernel does not tell of")
    return found
