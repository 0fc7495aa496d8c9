"""Open descriptors that can't be dumped, or would lead nowhere after a restore."""

from __future__ import annotations

import os
import stat

from oci_criu_shim.dump.proc import NAMESPACES, Process, read
from oci_criu_shim.errors import ShimError
from oci_criu_shim.host import linux, watches

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from oci_criu_shim.dump.proc import Descriptor
    from oci_criu_shim.dump.survey import Survey

TERMINALS = range(136, 144)  # major numbers of slaves (admin-guide/devices.txt)
POLL = "anon_inode:[eventpoll]"
RING = "anon_inode:[io_uring]"
# Character devices that CRIU dumps (dump_chrdev() in criu/files.c, get_tty_driver() in criu/tty.c): major numbers, and
# those of one minor number: tun and autofs.
DEVICES = {1, 4, 5, 188, 204, *range(128, 137)}
DEVICES_OF = {(10, 200), (10, 235)}
DEVICE_WORDS = {(10, 229): "FUSE", (10, 232): "KVM", (10, 237): "a loop device"}
# CRIU's plugins can dump more devices, by the beginnings of their paths.
PLUGINS = {"/dev/nvidia": "cuda_plugin.so", "/dev/kfd": "amdgpu_plugin.so", "/dev/dri/": "amdgpu_plugin.so"}
PLUGINS_DIRECTORY = "/usr/lib/criu"
# What CRIU dumps of descriptors without a file; bpf-map: if it was built with libbpf.
KNOWN = ("[eventfd]", "[eventpoll]", "inotify", "[fanotify]", "[signalfd]", "[timerfd]", "[pidfd]", "bpf-map")
WORDS = {
    "[perf_event]": "performance counters (perf_event_open)",
    "[userfaultfd]": "page faults (userfaultfd)",
    "bpf-prog": "a BPF program",
    "[landlock-ruleset]": "a Landlock ruleset",
    "kvm-vm": "a virtual machine (KVM)",
    "kvm-vcpu": "a virtual machine (KVM)",
}
# Paths of files of the kernel's own.
SPECIAL = {"/secretmem": "secret memory (memfd_secret)", "/dmabuf:": "a buffer of a device (dma-buf)"}
# The beginnings of the kernel's names of what CRIU dumps (dump_socket() in criu/sockets.c): AF_UNIX, the protocols of
# AF_INET and AF_INET6, AF_NETLINK and AF_PACKET.
PROTOCOLS = ("UNIX", "TCP", "MPTCP", "UDP", "RAW", "PING", "NETLINK", "PACKET")
THREAD = 0o200  # PIDFD_THREAD of pidfd_open(2)
LATE = "have the program close it before, and open it again after a restore"


def _streams(survey: Survey) -> Iterator[tuple[Descriptor, os.stat_result]]:
    for descriptor in survey.init.descriptors:
        if descriptor.number <= 2 and descriptor.stat:
            yield descriptor, descriptor.stat


def terminal(survey: Survey) -> Iterator[ShimError]:
    """Yield a fault if a terminal is none of the container's own: a process outside holds its master."""
    own = {mount.device for mount in survey.mounts}
    for _, found in () if survey.shell_job else _streams(survey):
        device = f"{os.major(found.st_dev)}:{os.minor(found.st_dev)}"
        if stat.S_ISCHR(found.st_mode) and os.major(found.st_rdev) in TERMINALS and device not in own:
            yield ShimError(
                "it uses the terminal that it was started on, which is not its own",
                "as root, --shell-job leaves it out; a restore with --shell-job uses the terminal of its caller",
            )


def redirected(survey: Survey) -> Iterator[ShimError]:
    """Yield a file to which the shell redirected the streams: it is on none of the container's mounts."""
    own = {mount.id for mount in survey.mounts}
    for descriptor, found in _streams(survey):
        if stat.S_ISREG(found.st_mode) and descriptor.info.get("mnt_id") not in {*own, None}:
            yield ShimError(
                f"it was started on {descriptor.link}, a file that is on none of its mounts",
                "give it a pipe, or a file in one of its mounts",
            )


def preserved(survey: Survey) -> Iterator[ShimError]:
    """Yield what processes still have of --preserve-fds. The other ends are outside: a pipe would lead nowhere."""
    for each in survey.processes if survey.preserved else ():
        kept = {descriptor.link for descriptor in each.descriptors}.intersection(survey.preserved)
        if kept:
            yield ShimError(
                f"process {each.pid} has what it was given by --preserve-fds, which leads out of the container:"
                f" {' '.join(sorted(kept))}",
                "leave out --preserve-fds, or have the program close the descriptors",
            )


def rings(survey: Survey) -> Iterator[ShimError]:
    """Yield processes with an io_uring: CRIU dumps none.

    Jobs find none, unless the site or the backend leaves it to them (container/io_uring.py).
    """
    for each in survey.processes:
        if any(descriptor.link == RING for descriptor in each.descriptors):
            yield ShimError(
                f"{each} has an io_uring, which CRIU can't dump",
                "with crun and hide-io-uring in config.toml, a job's programs do without; outside of jobs, have"
                " io_uring_setup fail with ENOSYS by linux.seccomp of config.json",
            )


def watching(survey: Survey) -> Iterator[ShimError]:
    """Yield what a user's processes watch and CRIU can't find again: it has no right to open files by their handles."""
    watched: dict[watches.Watched, int] = {}
    for each in survey.processes if survey.is_users else ():
        for descriptor in each.descriptors:
            if descriptor.link in watches.LINKS:
                watched |= dict.fromkeys(watches.marks(descriptor.info_lines), each.pid)
    found = watches.find(survey.pid, watched)
    for (device, inode), pid in watched.items():
        if (device, inode) not in found:
            at = [m.point for m in survey.mounts if watches.number(m) == device]
            where = f", of the file system at {at[0]}" if at else ""
            yield ShimError(
                f"process {pid} watches a file (inotify) of which no path is found: inode {inode}{where}",
                "have the program end its watch if the file was removed, or watch it near a mount point",
            )


def unknown(survey: Survey) -> Iterator[ShimError]:
    """Yield what CRIU has no way to dump (dump_one_file() in criu/files.c)."""
    for each in survey.processes:
        for descriptor in each.descriptors:
            what = _unknown(descriptor)
            if what:
                yield ShimError(f"{each} uses {what} (descriptor {descriptor.number}), which CRIU can't dump", LATE)
    for each in survey.leaders:
        for _, path in each.mapped_oddly:
            if path.startswith("/dev/") and (what := _device(path, survey.path(path))):
                yield ShimError(f"{each} has mapped {what}, which CRIU can't dump", LATE)


def _unknown(descriptor: Descriptor) -> str:
    """Return what it is in words; empty if CRIU knows it."""
    link = descriptor.link
    if link.startswith("anon_inode:"):
        kind = link.removeprefix("anon_inode:")
        return "" if kind in KNOWN else WORDS.get(kind, kind)
    for beginning, words in SPECIAL.items():
        if link.startswith(beginning):
            return words
    return _device(link, descriptor.path) if link.startswith("/") else ""


def _device(name: str, path: str) -> str:
    """Return in words which device it is that CRIU doesn't know; empty if it is none."""
    try:
        found = os.stat(path)
    except OSError:
        return ""
    number = os.major(found.st_rdev), os.minor(found.st_rdev)
    if stat.S_ISBLK(found.st_mode):
        return f"the block device {name}"
    if not stat.S_ISCHR(found.st_mode) or number[0] in DEVICES or number in DEVICES_OF or _has_plugin(name):
        return ""
    return f"{DEVICE_WORDS.get(number, 'a device')}, {name} ({number[0]}:{number[1]})"


def _has_plugin(name: str) -> bool:
    files = [file for beginning, file in PLUGINS.items() if name.startswith(beginning)]
    return any(os.path.exists(os.path.join(PLUGINS_DIRECTORY, file)) for file in files)


def families(survey: Survey) -> Iterator[ShimError]:
    """Yield sockets of families or protocols that CRIU doesn't know."""
    for each in survey.processes:
        for descriptor in each.descriptors:
            if not descriptor.is_socket:
                continue
            protocol = descriptor.protocol
            if protocol and not protocol.startswith(PROTOCOLS):
                yield ShimError(
                    f"{each} has a socket of the protocol {protocol} (descriptor {descriptor.number}), which CRIU"
                    " can't dump",
                    LATE,
                )


def polled(survey: Survey) -> Iterator[ShimError]:
    """Yield epoll sets with a file that the process has closed, and that is open elsewhere.

    CRIU asks for each file by a descriptor of the first process that has the set (dump_one_eventpoll() in
    criu/eventpoll.c). A file that nobody has open any more is in no set.
    """
    seen: list[Descriptor] = []
    for each in survey.processes:
        for descriptor in each.descriptors:
            if descriptor.link != POLL:
                continue
            escaped = _escaped(descriptor, each.descriptors)
            if escaped:  # or it was opened since the descriptors were listed
                escaped &= _escaped(descriptor, Process(each.pid).descriptors)
            for number, _ in escaped:
                if any(linux.is_same_file(each.pid, descriptor.number, o.process.pid, o.number) for o in seen):
                    break
                yield ShimError(
                    f"{each} waits for a file by epoll (descriptor {descriptor.number}) that it has closed, and that is"
                    f" still open elsewhere: it was descriptor {number}",
                    "have the program remove a file from the set before it closes it (EPOLL_CTL_DEL)",
                )
            seen.append(descriptor)


def _escaped(epoll: Descriptor, descriptors: list[Descriptor]) -> set[tuple[int, int]]:
    """Return (number that it was added by, inode) of an epoll set's files that none of the `descriptors` is of."""
    by_inode: dict[int, list[int]] = {}
    for each in descriptors:
        if each.stat:
            by_inode.setdefault(each.stat.st_ino, []).append(each.number)
    found, times = set(), dict[int, int]()
    for line in read(f"{epoll.process.path}/fdinfo/{epoll.number}").splitlines():
        if not line.startswith("tfd:"):
            continue
        words = line.replace(":", ": ").split()
        fields = dict(zip(words[::2], words[1::2], strict=False))
        number, inode = int(fields["tfd:"]), int(fields.get("ino:", "0"), 16)
        nth = times[number] = times.get(number, -1) + 1
        by_it = sorted(by_inode.get(inode, ()), key=lambda one: one != number)  # mostly it still has that number
        if inode and not any(linux.polls(epoll.process.pid, epoll.number, number, nth, one) for one in by_it):
            found.add((number, inode))
    return found


def elsewhere(survey: Survey) -> Iterator[ShimError]:
    """Yield descriptors of namespaces and processes that are not the container's."""
    yield from _namespaces(survey)
    yield from _handles(survey)


def _namespaces(survey: Survey) -> Iterator[ShimError]:
    """Yield descriptors of namespaces that none of the processes is in: a restore opens them by a process."""
    own: set[str] = set()
    for each in survey.processes:
        for descriptor in each.descriptors:
            if descriptor.link.partition(":[")[0] not in NAMESPACES:
                continue
            own = own or {name for one in survey.processes for name in one.namespaces.values()}
            if descriptor.link not in own:
                yield ShimError(
                    f"{each} has a namespace open that no process of the container is in, {descriptor.link}"
                    f" (descriptor {descriptor.number}), which a restore can't find",
                    LATE,
                )


def _handles(survey: Survey) -> Iterator[ShimError]:
    """Yield pidfds of processes that are not the container's, and of threads."""
    own = {each.pid for each in survey.processes}
    for each in survey.processes:
        for descriptor in each.descriptors:
            if descriptor.link != "anon_inode:[pidfd]":
                continue
            pid = int(descriptor.info.get("Pid", "-1"))
            if pid not in (*own, -1) and Process(pid).namespace("pid") not in ("", survey.init.namespace("pid")):
                said = f"process {pid}, which is not the container's"
            elif int(descriptor.info.get("flags", "0"), 8) & THREAD:
                said = "a thread"
            else:
                continue
            yield ShimError(f"{each} has a pidfd (descriptor {descriptor.number}) of {said}: CRIU can't dump it", LATE)
