"""Hide io_uring from a container, since CRIU dumps none: a rule of config.json's seccomp filter.

Programs find out by io_uring_setup(2) whether the kernel has io_uring, and go on without it. Many make one that they
hardly use: Node.js does so in every process.
"""

from __future__ import annotations

import errno
import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from oci_criu_shim.files import Document

SYSCALL, NUMBER = "io_uring_setup", 425  # the same number on all architectures below
HIDDEN = {"names": [SYSCALL], "action": "SCMP_ACT_ERRNO", "errnoRet": errno.ENOSYS}
PERMITTING = ("SCMP_ACT_ALLOW", "SCMP_ACT_LOG", "SCMP_ACT_TRACE")
# {machine: architectures whose programs it runs}. A filter ends those of any that it doesn't name (seccomp_init(3)).
ARCHITECTURES = {
    "x86_64": ("SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32"),
    "aarch64": ("SCMP_ARCH_AARCH64", "SCMP_ARCH_ARM"),
    "ppc64le": ("SCMP_ARCH_PPC64LE",),
    "riscv64": ("SCMP_ARCH_RISCV64",),
    "s390x": ("SCMP_ARCH_S390X", "SCMP_ARCH_S390"),
}


def hidden(config: Document) -> Document:
    """Return config.json with a filter by which io_uring_setup() fails as on a kernel without it.

    It is returned as it stands if its own filter forbids the call, or if this machine's architectures aren't known.
    """
    linux = config.get("linux", {})
    found = linux.get("seccomp")
    seccomp = _hidden(found) if found else _alone()
    return {**config, "linux": {**linux, "seccomp": seccomp}} if seccomp else config


def filter_program(config: Document) -> bytes:
    """Return the kernel's form of a seccomp filter of hidden() alone; empty if config.json has none.

    See seccomp(2): an array of struct sock_filter.
    """
    import struct

    if not config["linux"].get("seccomp"):
        return b""
    load, mask, compare, answer = 0x20, 0x54, 0x15, 0x06
    refuse, allow = 0x50000 | errno.ENOSYS, 0x7FFF0000  # SECCOMP_RET_ERRNO, SECCOMP_RET_ALLOW
    x32 = 1 << 30  # marks system calls of that form of x86-64
    rows = (
        *((load, 0, 0, 0), (mask, 0, 0, ~x32 & 0xFFFFFFFF), (compare, 0, 1, NUMBER)),
        *((answer, 0, 0, refuse), (answer, 0, 0, allow)),
    )
    return b"".join(struct.pack("=HBBI", *row) for row in rows)


def _alone() -> Document | None:
    architectures = ARCHITECTURES.get(os.uname().machine)
    if architectures is None:
        return None
    return {
        "defaultAction": "SCMP_ACT_ALLOW",
        "architectures": [*architectures],
        "flags": ["SECCOMP_FILTER_FLAG_SPEC_ALLOW"],  # before Linux 5.16, any filter slows all of a program down
        "syscalls": [HIDDEN],
    }


def _hidden(seccomp: Document) -> Document | None:
    """Return the filter with no rule for the call but ours; None if it permits the call to nobody."""
    rules: list[Document] = seccomp.get("syscalls") or []
    about = [rule["action"] for rule in rules if SYSCALL in rule["names"]] or [seccomp["defaultAction"]]
    if not any(action in PERMITTING for action in about):
        return None
    others = [{**rule, "names": [name for name in rule["names"] if name != SYSCALL]} for rule in rules]
    return {**seccomp, "syscalls": [*(rule for rule in others if rule["names"]), HIDDEN]}
