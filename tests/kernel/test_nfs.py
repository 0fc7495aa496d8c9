"""Checkpoints on NFS: a server on this machine, whose root is nobody there (root_squash)."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator

import pytest

from tests.cluster import wait_for
from tests.system.support import Life, Site

EXPORT = "/srv/exported"
SERVER = f"""
set -e
mkdir -p {EXPORT}
mount -t tmpfs -o size=96m,mode=755 exported {EXPORT}
install -d -m 0700 -o 1000 -g 1000 {EXPORT}/alice
mount -t nfsd nfsd /proc/fs/nfsd
exportfs -o rw,fsid=0,sync,insecure,no_subtree_check,root_squash 127.0.0.1:{EXPORT}
rpc.nfsd --no-nfs-version 3 --grace-time 10 --lease-time 10 2
"""
ALICE = ("setpriv", "--reuid=1000", "--regid=1000", "--clear-groups", "--")


@pytest.fixture(scope="module")
def place() -> Iterator[str]:
    """A directory of alice's. The server is not taken down: the machine is gone after the tests."""
    subprocess.run(["sh", "-c", SERVER], check=True)
    with subprocess.Popen(["rpc.mountd", "--no-nfs-version", "2", "--no-nfs-version", "3", "--foreground"]) as exporter:
        subprocess.run(["mount", "-t", "nfs4", "127.0.0.1:/", "/mnt"], check=True)
        yield "/mnt/alice"
        exporter.kill()


def test_store(place: str) -> None:
    """What its unit tests ask of it: commits, damage, pruning, writers and readers at once."""
    names = [f"tests/unit/test_{name}.py" for name in ("store", "integrity", "directory", "files")]
    argv = ["python3", "-m", "pytest", "-q", "-p", "no:cacheprovider", f"--basetemp={place}/unit", *names]
    done = subprocess.run([*ALICE, *argv], stdout=subprocess.PIPE, text=True, check=False)
    assert done.returncode == 0 and " passed" in done.stdout and "skipped" not in done.stdout, done.stdout


@pytest.fixture
def life(site: Site, place: str) -> Iterator[Life]:
    """A container of alice's with its bundle, and so its checkpoint, on NFS."""
    site.counter += 1
    life = Life(site, "alice", f"c{site.counter}", f"{place}/bundle{site.counter}", site.spec("alice"))
    life.write()
    with site.lending("alice"):
        yield life
        life.stop()


def test_restored(life: Life, site: Site, place: str) -> None:
    life.run()
    before = life.look()
    assert site.exec(["ls", place], check=False).returncode  # this node's root is nobody there
    for _ in range(2):
        life.checkpoint()
        life.restore()
        assert life.look()["process"] == before["process"]
    assert life.end() == 0


def test_full(life: Life, site: Site, place: str) -> None:
    """The checkpoint that is there stays, and the container runs on."""
    life.run()
    life.look()
    life.checkpoint("--leave-running")
    before = site.exec(["ls", life.images], "alice").stdout
    site.exec(["sh", "-c", f"cat /dev/zero >{place}/much"], "alice", check=False)
    failed = life.checkpoint(check=False)
    assert failed.returncode and "the checkpoint directory is full" in failed.stderr
    assert site.exec(["ls", life.images], "alice").stdout == before
    life.look()
    site.exec(["rm", f"{place}/much"], "alice")
    wait_for(lambda: life.checkpoint(check=False).returncode == 0, 20, "room for a checkpoint")
    life.restore()
    life.look()
    assert life.end() == 0
