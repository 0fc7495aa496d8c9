"""Checkpoints on NFS: root there is nobody, the server's disk is full at times, and there is another client."""

from __future__ import annotations

import ctypes
import os
import struct
import subprocess
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from functools import partial
from pathlib import Path

import pytest

from oci_criu_shim.checkpoints.committed import Checkpoint
from oci_criu_shim.checkpoints.integrity import Verification
from oci_criu_shim.checkpoints.store import Store
from oci_criu_shim.host import process
from tests.node.in_a_job import go_on, in_a_job, keep, kill, store
from tests.node.support import USERS, Life, Site
from tests.unit.test_schema import full_manifest

EXPORT = Path("/run/export")
HERE = Path("/home/alice/jobs")
THERE = Path("/run/jobs")
# Clients of two versions of the protocol have nothing in common: no cache, no open files. An ext4 has quotas. Linux 7.2
# does not let the time be ended in which older clients may come back, so that is short.
START = f"""
modprobe --all loop nfsd
mkdir {EXPORT} {THERE}
install --directory --owner=alice {HERE}
truncate --size=48M /run/disk
mkfs.ext4 -q -b 4096 -m 0 -O quota,^has_journal /run/disk
mount -o loop,usrquota /run/disk {EXPORT}
chown alice:alice {EXPORT}
chmod 700 {EXPORT}
mount -t nfsd nfsd /proc/fs/nfsd
echo '{EXPORT} 127.0.0.1(rw,fsid=0,root_squash,no_subtree_check)' >/etc/exports
exportfs -r
rpc.nfsd --no-nfs-version 3 --grace-time 10 2
echo Y >/proc/fs/nfsd/v4_end_grace || true
rpc.mountd --no-nfs-version 3
mount -t nfs4 -o vers=4.2 127.0.0.1:/ {HERE}
mount -t nfs4 -o vers=4.1 127.0.0.1:/ {THERE}
"""
END = f"umount {HERE} {THERE}; rpc.nfsd 0; exportfs -ua; umount {EXPORT}"
KEY = "7/batch.0"
MIB = 1 << 20
QUOTACTL_FD, SET_USERS_QUOTA, BLOCKS = 443, 0x800008 << 8, 1  # linux/quota.h


@pytest.fixture(scope="module", autouse=True)
def server() -> Iterator[None]:
    """It exports alice's checkpoint directory."""
    subprocess.run(["sh", "-ec", START], check=True)
    yield
    subprocess.run(["sh", "-ec", END], check=True)


@contextmanager
def alice() -> Iterator[None]:
    """In the block, so is this process."""
    own = USERS["alice"]
    os.setresgid(own, own, 0)
    os.setresuid(own, own, 0)
    try:
        yield
    finally:
        os.setresuid(0, 0, 0)
        os.setresgid(0, 0, 0)


@contextmanager
def full_disk(left: int) -> Iterator[str]:
    """No more than so many bytes are left on it; what is said of that. It may be full before statvfs(3) says so."""
    path = EXPORT / "full"
    try:
        with path.open("wb", buffering=0) as stream, suppress(OSError):
            for piece in (MIB, 4096):
                while os.statvfs(EXPORT).f_bavail * 4096 >= left + piece:
                    stream.write(bytes(piece))
        yield "No space left on device"
    finally:
        path.unlink()


@contextmanager
def full_quota(left: int) -> Iterator[str]:
    """Leave alice no more than so many bytes of quota; what is said of that."""
    used = int(subprocess.run(["du", "-sk", EXPORT], check=True, capture_output=True, text=True).stdout.split()[0])
    set_quota(used + left // 1024)
    try:
        yield "Disk quota exceeded"
    finally:
        set_quota(0)


def set_quota(kib: int) -> None:
    descriptor = os.open(EXPORT, os.O_RDONLY)
    quota = struct.pack("=8QI4x", kib, *[0] * 7, BLOCKS)
    assert not ctypes.CDLL(None).syscall(QUOTACTL_FD, descriptor, SET_USERS_QUOTA, USERS["alice"], quota)
    os.close(descriptor)


FULL = pytest.mark.parametrize("full", [full_disk, full_quota])


def commit(directory: Path, size: int) -> Checkpoint:
    """Of random memory, as CRIU writes it: what close(2) says, it doesn't hear."""
    with Store(str(directory), KEY).stage() as stage:
        descriptor = os.open(f"{stage.images}/pages-1.img", os.O_WRONLY | os.O_CREAT, 0o600)
        try:
            os.write(descriptor, os.urandom(size))
        finally:
            with suppress(OSError):
                os.close(descriptor)
        return stage.commit(full_manifest() | {"files": stage.sizes(), "bytes": size})


def whole(directory: Path) -> list[int]:
    """The numbers of the checkpoints, each of which is whole."""
    found = list(Store(str(directory), KEY).newest_first())
    for checkpoint in found:
        assert isinstance(checkpoint, Checkpoint), checkpoint
        verification = Verification(checkpoint)
        verification.start()
        verification.require()
    return [checkpoint.seq for checkpoint in reversed(found) if isinstance(checkpoint, Checkpoint)]


# Increments of it have more than a MiB, too.
COUNT = """
import os, sys
for count, line in enumerate(sys.stdin):
    memory = os.urandom(4 << 20)
    print(count, flush=True)
"""


@FULL
def test_full(full: Callable[[int], AbstractContextManager[str]]) -> None:
    """The older ones are as they were, whenever that is found out."""
    with alice():
        Store(str(HERE), KEY).prepare()
        older = [*whole(HERE), commit(HERE, 64 << 10).seq]
    for left in (0, 64 << 10, MIB):
        with full(left) as said, alice():
            with pytest.raises(OSError, match=said):
                commit(HERE, 2 * MIB)
            assert whole(HERE) == whole(THERE) == older


def test_a_container_goes_on(site: Site) -> None:
    """From the newest that found room."""
    life = site.container("alice", site.spec("alice"))
    life.spec["process"]["args"] = ["python3", "-I", "-c", COUNT]
    with in_a_job(life):
        assert site.exec(["stat", "--file-system", "--format=%T", f"{HERE}"]).stdout == "nfs\n"
        for _ in range(2):
            reached = count(life)
            keep(life)
        for full in full_disk, full_quota:
            for left in (0, MIB):
                count(life)
                with full(left) as said:
                    assert said in keep(life, check=False)
        kill(life)
        go_on(life)
        assert count(life) == reached + 1
        assert f"restored job 1 step 0 task 0 from {store(life)}/2 " in life.said()
        assert life.end() == 0


def count(life: Life) -> int:
    life.send("\n")
    assert life.process and life.process.stdout
    return int(life.process.stdout.readline())


def write(directory: Path) -> int:
    for _ in range(3):
        commit(directory, 64 << 10)
        whole(THERE if directory == HERE else HERE)
    return 0


def test_two_clients() -> None:
    """They write at once, and each sees the other's checkpoints, whole."""
    with alice():
        Store(str(HERE), KEY).clear()
        Store(str(HERE), KEY).prepare()
        children = [process.fork(partial(write, directory)) for directory in (HERE, THERE)]
        assert [process.wait(child) for child in children] == [0, 0]
        assert whole(HERE) == whole(THERE) == list(range(1, 7))
        Store(str(HERE), KEY).clear()
        assert whole(THERE) == []
