"""Guard CRIU from the user for whom it dumps: by a library that is loaded into it, and a filter on the worker.

The library (spank/criu_preload.c) keeps the user out of CRIU, and CRIU out of everything that no dump needs. It shares
a file with the worker, the mark: seven numbers of 64 bits, and an image for CRIU to read. The library sets the first
number, the worker the rest.
"""

from __future__ import annotations

import mmap
import os
import struct

from oci_criu_shim.errors import ShimError
from oci_criu_shim.files import LIBDIR
from oci_criu_shim.host import criu, linux

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

LIBRARY = f"{LIBDIR}/criu_preload.so"
MARK = 5  # CRIU's descriptor of the mark
FOUND, CACHE, LONGEST = 48, 56, 1 << 20  # the image: where its length stands, and it itself, and how long it may be
ENVIRONMENT = {"LD_PRELOAD": LIBRARY, "OCI_CRIU_SHIM_LOADED": str(MARK)}  # of CRIU, besides the usual one


class Guard:
    """The worker's side of the mark that it shares with one CRIU."""

    def __init__(self) -> None:
        self.descriptor = os.memfd_create("mark")
        os.ftruncate(self.descriptor, CACHE + LONGEST)
        self.mark = mmap.mmap(self.descriptor, CACHE + LONGEST)

    def start(self, environment: Mapping[str, str], log: int, more: Mapping[int, int]) -> criu.Swrk:
        """Start CRIU with the library, once, and with `more` descriptors."""
        try:
            return criu.start({**environment, **ENVIRONMENT}, log, {**more, MARK: self.descriptor})
        finally:
            os.close(self.descriptor)

    def require_loaded(self) -> None:
        """Raise ShimError if CRIU, which has answered, runs without the library.

        ld.so only warns about a missing library, and a static program has no ld.so.
        """
        if not any(self.mark[:8]):
            said = f"CRIU runs without {LIBRARY}, which guards it from the container's user"
            raise ShimError(said, "install oci-criu-shim again, and a CRIU that is linked dynamically")

    def tell(self, image: bytes) -> None:
        """Have CRIU read this as its irmap-cache (host/watches.py); ShimError if it is too long."""
        if len(image) > LONGEST:
            raise ShimError("its processes watch too many files", "have them watch fewer (inotify)")
        self.mark[CACHE : CACHE + len(image)] = image
        struct.pack_into("=Q", self.mark, FOUND, len(image))

    def admit(self, directories: list[int], has_parent: bool) -> None:
        """Let CRIU open the `directories` for images and work, and see a parent in the first if `has_parent`.

        CRIU opens them by the worker's /proc entry, which stays open until the worker is made undumpable again.
        """
        images, work = os.fstat(directories[0]), os.fstat(directories[-1])
        places = images.st_dev, images.st_ino, work.st_dev, work.st_ino
        struct.pack_into("=5Q", self.mark, 8, has_parent, *places)
        linux.make_dumpable()


def confine() -> None:
    """Have the kernel refuse this process what no dump needs, as it refuses CRIU from the first dumped process on."""
    import ctypes

    library = ctypes.CDLL(LIBRARY, use_errno=True)
    if library.confine() < 0:
        said = f"the worker can't be confined: {os.strerror(ctypes.get_errno())}"
        raise ShimError(said, "the kernel must have seccomp filters")
    linux.make_undumpable()
