"""Runs on a node as root: prints all that a container or a job could leave there, a line each.

The line of a thing stays the same from one look to the next, and after a boot.
"""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

PLACES = ("/run", "/tmp", "/var/tmp", "/dev/shm", "/dev/mqueue")
# What CRIU knows of the kernel, kept by root's until the next boot; crun's own root directory, which root's makes.
KEPT = ("/run/criu.kdat", "/run/crun")
EMPTY_DIRECTORY = ".empty-directory"  # crun 1.28 leaves one in each root directory
NAMESPACE = re.compile(r"(cgroup|ipc|mnt|net|pid|time|user|uts):\[\d+\]")
# Slurm 24.11's extern step can't remove its empty group while its X11 thread has the user's effective id.
SLURMS = re.compile(r".*/slurm_\w+/uid_\d+(/job_\d+(/step_extern)?)?")
EMPTY = ("0A", "07")  # of sockets that nobody is connected to: listening ones of TCP, all of UDP


def pids() -> list[str]:
    """Every process but this one."""
    return [name for name in os.listdir("/proc") if name.isdecimal() and int(name) != os.getpid()]


def processes() -> Iterator[str]:
    for pid in pids():
        try:
            words = Path(f"/proc/{pid}/cmdline").read_text(errors="replace").replace("\0", " ").strip()
            name = Path(f"/proc/{pid}/comm").read_text().strip()
            yield f"process of user {os.stat(f'/proc/{pid}').st_uid}: {words or f'({name}, ended and not reaped)'}"
        except (FileNotFoundError, ProcessLookupError):
            continue


def mounts() -> Iterator[str]:
    for line in Path("/proc/1/mountinfo").read_text().splitlines():
        fields, _, source = line.partition(" - ")
        yield f"mount at {fields.split()[4]} of type {source.split()[0]}"


def namespaces() -> Iterator[str]:
    """Those that a process is in, and those that one holds a descriptor of."""
    found: set[str] = set()
    for pid in pids():
        for directory in (f"/proc/{pid}/ns", f"/proc/{pid}/fd"):
            try:
                links = [os.readlink(entry) for entry in os.scandir(directory)]
            except (FileNotFoundError, ProcessLookupError):
                continue
            found.update(link for link in links if NAMESPACE.fullmatch(link))
    yield from (f"namespace of type {link.partition(':')[0]}" for link in found)


def interfaces() -> Iterator[str]:
    for line in Path("/proc/1/net/dev").read_text().splitlines()[2:]:
        yield f"interface {line.partition(':')[0].strip()}"


def rules() -> Iterator[str]:
    listed = subprocess.run(["nft", "--stateless", "list", "ruleset"], capture_output=True, text=True, check=True)
    yield from (f"nftables: {line.strip()}" for line in listed.stdout.splitlines() if line.strip(" \t}"))


def sockets() -> Iterator[str]:
    """Sockets with a name."""
    for line in Path("/proc/1/net/unix").read_text().splitlines()[1:]:
        if len(fields := line.split(maxsplit=7)) == 8:
            yield f"unix socket {fields[7]}"
    for kind in ("tcp", "tcp6", "udp", "udp6"):
        for line in Path(f"/proc/1/net/{kind}").read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] in EMPTY:
                yield f"{kind} socket at {fields[1]}"


def files() -> Iterator[str]:
    for place in PLACES:
        for directory, below, names in os.walk(place):
            paths = {f"{directory}/{name}" for name in [*below, *names] if name != EMPTY_DIRECTORY}
            yield from (f"file {path}" for path in paths.difference(KEPT))


def groups() -> Iterator[str]:
    for directory, _, _ in os.walk("/sys/fs/cgroup"):
        if not SLURMS.fullmatch(directory):
            yield f"control group {directory}"


def shared_memory() -> Iterator[str]:
    for kind in ("shm", "sem", "msg"):
        for line in Path(f"/proc/sysvipc/{kind}").read_text().splitlines()[1:]:
            yield f"System V {kind} with key {line.split()[0]}"


def main() -> None:
    for kind in (processes, mounts, namespaces, interfaces, rules, sockets, files, groups, shared_memory):
        for line in kind():
            print(line)


if __name__ == "__main__":
    main()
