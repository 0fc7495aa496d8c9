"""Containers of root's, outside of Slurm: checkpointed by a worker of their own instead of a step's helper."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.harness import verdict
from tests.harness.cluster import Cluster, wait_for
from tests.harness.cluster.waiting import patient

DIRECTORY = "/home/root-containers"
TICKS, TICK = 40, 0.1


@pytest.fixture(scope="module")
def directory(shim_cluster: Cluster, shim_bundle: str) -> Path:
    """A bundle of root's by `crun spec`, as the host sees it."""
    made = shim_cluster.home / "root-containers"
    made.mkdir()
    shim_cluster.exec("n1", ["crun", "spec"], "root", cwd=DIRECTORY)
    spec = json.loads((made / "config.json").read_text())
    spec["root"] = {"path": f"{shim_bundle}/rootfs"}
    command = ["python3", "/shared/ledger.py", "/root-containers/ledger", str(TICKS), str(TICK), "4"]
    spec["process"] |= {"terminal": False, "args": command}
    for source, target in (("/shared", "/shared"), (DIRECTORY, "/root-containers")):
        spec["mounts"].append({"destination": target, "type": "none", "source": source, "options": ["rbind", "rw"]})
    (made / "config.json").write_text(json.dumps(spec))
    return made


@pytest.fixture(autouse=True)
def clean(shim_cluster: Cluster, directory: Path) -> Iterator[None]:
    """No ledger before; after, the directories of root's containers and of crun's are empty, and so can be removed."""
    for name in ("ledger", "output"):
        (directory / name).unlink(missing_ok=True)
    yield
    # crun 1.28 leaves an empty one behind.
    script = "path=/run/oci-criu-shim/root/.crun; rmdir --parents $path/.empty-directory || rmdir --parents $path"
    shim_cluster.exec("n1", ["sh", "-c", script], "root", check=False)


def shim(cluster: Cluster, *words: str) -> subprocess.CompletedProcess[str]:
    return cluster.exec("n1", ["oci-criu-shim", *words], "root", check=False)


@contextmanager
def started(cluster: Cluster, directory: Path, words: Sequence[str]) -> Iterator[subprocess.Popen[bytes]]:
    """`run` or `restore` in the background, at work: the ledger has grown; ended at the end of the block."""
    before = ticks(directory)
    argv = cluster.argv("n1", ["oci-criu-shim", *words, "--bundle", DIRECTORY, "own"], "root")
    with (directory / "output").open("ab") as output, subprocess.Popen(argv, stdout=output, stderr=output) as running:
        try:
            wait_for(lambda: ticks(directory) > before + 3 or running.poll() is not None, 20, "ticks")
            yield running
        finally:
            shim(cluster, "delete", "--force", "own")


def ticks(directory: Path) -> int:
    try:
        return (directory / "ledger").read_text().count("\n")
    except FileNotFoundError:
        return 0


def status(cluster: Cluster) -> str:
    return str(json.loads(shim(cluster, "state", "own").stdout)["status"])


def failures(directory: Path) -> list[str]:
    """What is wrong with the ledger and the output of a container that has run to its end."""
    output = (directory / "output").read_text()
    facts = verdict.Facts(TICKS, TICK, "", "", "COMPLETED", 0, 0, ("n1",))
    return verdict.failures((directory / "ledger").read_text(), output, facts)


def test_checkpointed_and_restored(shim_cluster: Cluster, directory: Path) -> None:
    images = f"{DIRECTORY}/images"
    with started(shim_cluster, directory, ["run"]) as first:
        assert status(shim_cluster) == "running"
        done = shim(shim_cluster, "checkpoint", "--image-path", images, "own")
        assert (done.returncode, first.wait(patient(20))) == (0, 137), done.stderr
    assert shim(shim_cluster, "state", "own").returncode == 1
    with started(shim_cluster, directory, ["restore", "--image-path", images]) as second:
        assert status(shim_cluster) == "running"
        # As it runs on, what the second checkpoint has is not gone on from.
        done = shim(shim_cluster, "checkpoint", "--leave-running", "--image-path", f"{images}-2", "own")
        assert done.returncode == 0, done.stderr
        assert status(shim_cluster) == "running"
        assert second.wait(patient(30)) == 0
    assert not failures(directory)


def test_killed_and_deleted(shim_cluster: Cluster, directory: Path) -> None:
    with started(shim_cluster, directory, ["run"]) as running:
        refused = shim(shim_cluster, "delete", "own")
        assert (refused.returncode, "is not stopped" in refused.stderr) == (1, True)
        assert shim(shim_cluster, "kill", "own", "KILL").returncode == 0
        assert running.wait(patient(20)) == 137
    assert "does not exist" in shim(shim_cluster, "kill", "own", "KILL").stderr


def test_deleted_by_force(shim_cluster: Cluster, directory: Path) -> None:
    with started(shim_cluster, directory, ["run"]) as running:
        assert shim(shim_cluster, "delete", "--force", "own").returncode == 0
        assert running.wait(patient(20)) == 137


@pytest.fixture
def full(shim_cluster: Cluster) -> Iterator[str]:
    """A directory with no room for images."""
    shim_cluster.exec("n1", ["sh", "-ec", "mkdir /mnt/full; mount -t tmpfs -o size=512k full /mnt/full"], "root")
    yield "/mnt/full"
    shim_cluster.exec("n1", ["sh", "-ec", "umount /mnt/full; rmdir /mnt/full /run/mount"], "root")


def test_goes_on_where_a_dump_fails(shim_cluster: Cluster, directory: Path, full: str) -> None:
    with started(shim_cluster, directory, ["run"]) as running:
        done = shim(shim_cluster, "checkpoint", "--image-path", full, "own")
        assert done.returncode == 1
        assert len(done.stderr.splitlines()) == 1 and "(hint: the checkpoint directory is full)" in done.stderr
        # CRIU's log says why, and stays.
        assert shim_cluster.exec("n1", ["find", full, "-mindepth", "1"], "root").stdout in ("", f"{full}/dump.log\n")
        assert status(shim_cluster) == "running"
        assert running.wait(patient(30)) == 0
    assert not failures(directory)


@contextmanager
def criu(cluster: Cluster, change: str, back: str) -> Iterator[None]:
    """Another CRIU on the node inside of the block, or none."""
    cluster.exec("n1", ["sh", "-ec", change], "root")
    yield
    cluster.exec("n1", ["sh", "-ec", back], "root")


MISSING = ("mv /usr/sbin/criu /usr/sbin/away", "mv /usr/sbin/away /usr/sbin/criu")
OLD = (
    "printf '#!/bin/sh\\necho Version: 3.17\\n' >/usr/local/sbin/criu; chmod +x /usr/local/sbin/criu",
    "rm /usr/local/sbin/criu",
)


@pytest.mark.parametrize(
    ("change", "said"),
    [(MISSING, "criu is not installed on this node"), (OLD, "CRIU 3.17 is too old for Linux")],
    ids=["missing", "old"],
)
def test_no_criu_that_will_do(shim_cluster: Cluster, directory: Path, change: tuple[str, str], said: str) -> None:
    with started(shim_cluster, directory, ["run"]) as running:
        with criu(shim_cluster, *change):
            done = shim(shim_cluster, "checkpoint", "--image-path", f"{DIRECTORY}/none", "own")
        assert done.returncode == 1
        assert done.stderr.startswith(f"oci-criu-shim: error: {said}") and len(done.stderr.splitlines()) == 1
        assert "(hint: install CRIU 4.2 or newer)" in done.stderr
        assert not list((directory / "none").iterdir())
        assert running.wait(patient(30)) == 0
    assert not failures(directory)


def test_restore_without_criu(shim_cluster: Cluster, directory: Path) -> None:
    images = f"{DIRECTORY}/kept"
    with started(shim_cluster, directory, ["run"]):
        assert shim(shim_cluster, "checkpoint", "--image-path", images, "own").returncode == 0
    with criu(shim_cluster, *MISSING):
        done = shim(shim_cluster, "restore", "--bundle", DIRECTORY, "--image-path", images, "own")
    said = ["oci-criu-shim: error: criu is not installed on this node (hint: install CRIU 4.2 or newer)"]
    assert (done.returncode, done.stderr.splitlines()) == (1, said)
