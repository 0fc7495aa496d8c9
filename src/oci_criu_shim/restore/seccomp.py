"""Tell which seccomp filters an unprivileged restore could not set, and have them set last.

CRIU has a thread set its filters, and then do some other system calls. If a filter refuses one of them, a library that
is loaded into CRIU sets it (spank/criu_seccomp.c says how). The library shares a file with us: three numbers of 32
bits, of which it sets the first two, and then the threads, as take() packs them.
"""

from __future__ import annotations

import os
import struct
from functools import cache

from oci_criu_shim.errors import Damaged, ShimError
from oci_criu_shim.files import LIBDIR
from oci_criu_shim.host import criu_images

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

    from oci_criu_shim.files import Document

LIBRARY = f"{LIBDIR}/criu_seccomp.so"
FILTERS = "seccomp.img"  # among the images
FILE = 8  # CRIU's descriptor of the shared file
ENVIRONMENT = {"OCI_CRIU_SHIM_SECCOMP": str(FILE)}
MACHINE, ARCHITECTURE = "x86_64", 0xC000003E  # the library knows the registers of this one only (linux/audit.h)
CAP_SYS_ADMIN = 21
STRICT, FILTER = 1, 2  # linux/seccomp.h
INSTRUCTION = struct.Struct("=HBBI")  # struct sock_filter
ALLOWED = (0x7FFF0000, 0x7FFC0000)  # SECCOMP_RET_ALLOW, SECCOMP_RET_LOG
# What a thread does after it has its filters (__export_restore_thread() in criu/pie/restorer.c, 4.2): write, close,
# munmap, rt_sigprocmask, rt_sigreturn, setitimer, getpid, gettimeofday, setgroups, setresuid, setresgid, setfsuid,
# setfsgid, capget, capset, prctl, arch_prctl, gettid, futex, timer_settime, clock_gettime, openat, prlimit64, seccomp.
LAST = (
    *(1, 3, 11, 14, 15, 38, 39, 96, 116, 117, 119, 122, 123, 125, 126),
    *(157, 158, 186, 202, 223, 228, 257, 302, 317),
)


class Seccomp:
    """What is to be set in the threads of a container, from its `images`; nothing if CRIU can set all (None).

    On another machine than MACHINE, all is left to CRIU.
    """

    def __init__(self, images: str | None) -> None:
        self.images = images if os.uname().machine == MACHINE else None
        self.filters = _filters(os.path.join(self.images, FILTERS)) if self.images else []
        try:
            self.refusing = {number for number in range(len(self.filters)) if self._refuses(number)}
        except (IndexError, KeyError, struct.error):
            raise Damaged(f"{self.images}/{FILTERS}: a seccomp filter is none that the kernel would take") from None
        self.threads: list[bytes] = []
        self.shared = -1  # the shared file, once there is one

    def _refuses(self, number: int) -> bool:
        chain = list(self._chain(number))  # all of it: take() must not be the first to find it damaged
        return any(refuses(code) for _, code in chain)

    def _chain(self, number: int) -> Iterator[tuple[int, bytes]]:
        """Yield (flags, code) of each filter of a chain, the oldest first: each names the one that came later."""
        following: int | None = number
        for _ in self.filters:
            if following is None:
                return
            following, flags, code = self.filters[following]
            yield flags, code
        if following is not None:
            raise IndexError(following)  # they go round in a circle

    def concerns(self, mode: int, number: int) -> bool:
        """Return whether CRIU could not restore a thread that has that mode, and its chain's oldest filter."""
        return self.images is not None and (mode == STRICT or (mode == FILTER and number in self.refusing))

    def take(self, name: str, core: Document) -> None:
        """Take seccomp out of the image `name` of a thread, which it concerns: the library will set it."""
        entry = core["entries"][0]["thread_core"]
        mode = STRICT if entry.pop("seccomp_mode") in (STRICT, "strict") else FILTER
        chain = list(self._chain(entry.pop("seccomp_filter"))) if mode == FILTER else []
        packed = [struct.pack("=2I", flags, len(code) // INSTRUCTION.size) + code for flags, code in chain]
        number = int(name.removeprefix("core-").removesuffix(".img"))
        self.threads.append(struct.pack("=3I", number, mode, len(chain)) + b"".join(packed))

    def share(self) -> int | None:
        """Make the shared file, and return its descriptor, which stays ours; None if nothing is to be set."""
        if not self.threads:
            return None
        self.shared = os.memfd_create("seccomp")
        os.write(self.shared, struct.pack("=3I", 0, 0, len(self.threads)) + b"".join(self.threads))
        return self.shared

    def require_loaded(self) -> None:
        """Raise ShimError if CRIU, which has answered, runs without the library."""
        if self.threads and not self._number(0):
            raise ShimError(
                f"CRIU runs without {LIBRARY}, and can't set seccomp filters", "install oci-criu-shim again"
            )

    def require_set(self) -> None:
        """Raise ShimError if not all threads have what they had."""
        if self.threads and self._number(1) != len(self.threads):
            raise ShimError(f"seccomp is set in {self._number(1)} of {len(self.threads)} threads only")

    def _number(self, place: int) -> int:
        found: int = struct.unpack("=3I", os.pread(self.shared, 12, 0))[place]
        return found


def require_restorable(images: str) -> None:
    """Raise ShimError if a thread has what neither CRIU nor the library could set, after a dump to `images`.

    A thread may set a filter itself only if it has no_new_privs, or CAP_SYS_ADMIN in its user namespace.
    """
    seccomp = Seccomp(images)
    if not seccomp.refusing:
        return
    for name in os.listdir(images):
        if name.startswith("core-") and seccomp.concerns(*criu_images.seccomp(os.path.join(images, name))):
            entry = criu_images.load(os.path.join(images, name))["entries"][0]["thread_core"]
            creds = entry.get("creds", {})
            if not (creds.get("no_new_privs") or creds.get("cap_eff", [0])[0] >> CAP_SYS_ADMIN & 1):
                raise ShimError(
                    f"thread {name.removeprefix('core-').removesuffix('.img')} of the container has a seccomp filter"
                    " that refuses what a restore has to do in it",
                    "let the filter allow capset, prctl, futex, munmap and the like, or set no_new_privs before it",
                )


@cache
def refuses(code: bytes) -> bool:
    """Return whether a filter may refuse a system call of LAST (Documentation/networking/filter.rst, Linux)."""
    program = list(INSTRUCTION.iter_unpack(code))
    return any(_action(program, call) not in ALLOWED for call in LAST)


def _action(program: list[tuple[int, int, int, int]], call: int) -> int | None:
    """Return a filter's answer to a system call; None if it depends on more than the call's number."""
    data = {0: call, 4: ARCHITECTURE}
    accumulator, index, memory, place = 0, 0, [0] * 16, 0
    while place < len(program):
        operation, when, unless, constant = program[place]
        kind, operand = operation & 7, index if operation & 8 else constant
        place += 1
        if kind in (0, 1):  # BPF_LD, BPF_LDX
            mode = operation & 0xE0
            if mode == 0x20 and constant not in data:
                return None
            value = {0x00: constant, 0x20: data.get(constant, 0), 0x60: memory[constant & 15], 0x80: 64}[mode]
            accumulator, index = (value, index) if kind == 0 else (accumulator, value)
        elif kind in (2, 3):  # BPF_ST, BPF_STX
            memory[constant] = accumulator if kind == 2 else index
        elif kind == 4:  # BPF_ALU
            if (found := _computed(operation & 0xF0, accumulator, operand)) is None:
                return None
            accumulator = found & 0xFFFFFFFF
        elif operation & 0xF7 == 5:  # BPF_JA
            place += constant
        elif kind == 5:  # BPF_JMP
            place += when if _holds(operation & 0xF0, accumulator, operand) else unless
        elif kind == 6:  # BPF_RET
            return (accumulator if operation & 0x18 == 0x10 else constant) & 0xFFFF0000
        else:  # BPF_MISC
            accumulator, index = (index, index) if operation & 0x80 else (accumulator, accumulator)
    return None


def _computed(operation: int, left: int, right: int) -> int | None:
    if operation == 0x50:
        return left & right
    if operation == 0x40:
        return left | right
    return {0x00: left + right, 0x10: left - right, 0xA0: left ^ right}.get(operation)


def _holds(operation: int, left: int, right: int) -> bool:
    return {0x10: left == right, 0x20: left > right, 0x30: left >= right, 0x40: bool(left & right)}[operation]


def _filters(path: str) -> list[tuple[int | None, int, bytes]]:
    """Return (number of the one that came later, flags, code) of the filters in an image.

    Importing pycriu would take long: see criu's images/seccomp.proto.
    """
    try:
        with open(path, "rb") as stream:
            data = stream.read()
    except FileNotFoundError:
        return []
    try:
        return [_filter(entry) for _, entry in _fields(data[criu_images.IMAGE_HEAD + 4 :])]
    except (IndexError, KeyError, TypeError, ValueError):
        raise Damaged(f"{path} is no image of CRIU's") from None


def _filter(entry: int | bytes) -> tuple[int | None, int, bytes]:
    if isinstance(entry, int):
        raise ValueError(entry)
    fields: dict[int, Any] = dict(_fields(entry))
    return fields.get(2), fields.get(3, 0), fields[1]


def _fields(data: bytes) -> Iterator[tuple[int, int | bytes]]:
    """Yield (number, value) of a protobuf message's fields, which are numbers or bytes."""
    place = 0

    def number() -> int:
        nonlocal place
        value = shift = 0
        while True:
            byte = data[place]
            place += 1
            value |= (byte & 127) << shift
            shift += 7
            if byte < 128:
                return value

    while place < len(data):
        key = number()
        value = number()
        if key & 7 == 2:
            place += value
            yield key >> 3, data[place - value : place]
        else:
            yield key >> 3, value
