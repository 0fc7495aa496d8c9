"""Whether memory that the kernel calls unchanged since the last dump is unchanged.

The kernel's soft-dirty marks, which CRIU goes by, tell of every page that was written, but not of all that mremap(2)
has moved: page tables of 2 MiB and more are moved as they are (move_normal_pmd() in mm/mremap.c, Linux 6.12), so what
is found there looks like what was there at the last dump. Nothing else would tell, and a restore would mix up the two.
So some pages of each table are compared with what they were.
"""

from __future__ import annotations

import os

from oci_criu_shim.errors import ShimError
from oci_criu_shim.host import criu, process

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    Sums = dict[str, dict[str, int]]

PAGE = os.sysconf("SC_PAGE_SIZE")
STEP = 31  # one page of so many: 16 of a page table, at other places in each


def take(init: int, images: str, before: Mapping[str, Mapping[str, int]] | None) -> Sums:
    """{pid in the container: {number of a page: its checksum}} of the processes from `init` on, which are frozen and
    dumped to `images`.

    ShimError where a page that the images leave to their parent's is not what it was `before`, None being without a
    parent; OSError where memory can't be read.
    """
    found = {}
    for pid, inner in _processes(init):
        pagemap = os.path.join(images, f"pagemap-{inner}.img")
        if os.path.exists(pagemap):  # a zombie has none
            found[inner] = _sums(pid, pagemap, (before or {}).get(inner, {}))
    return found


def _sums(pid: int, pagemap: str, before: Mapping[str, int]) -> dict[str, int]:
    from zlib import crc32

    found = {}
    with open(f"/proc/{pid}/mem", "rb", buffering=0) as memory:
        for address, count, inherited in criu.pagemap(pagemap):
            first = address // PAGE
            for page in range(first + -first % STEP, first + count, STEP):
                name = str(page)
                found[name] = crc32(os.pread(memory.fileno(), PAGE, page * PAGE))
                if inherited and before.get(name) != found[name]:
                    raise ShimError(f"memory of process {pid} was moved, which the kernel does not tell of")
    return found


def _processes(init: int) -> Iterator[tuple[int, str]]:
    """(pid, pid in the container) of each process."""
    level = len(process.status(init)["NSpid"]) - 1  # its pids in the pid namespaces from ours to its own
    for pid in process.tree(init):
        yield pid, process.status(pid)["NSpid"][level]
