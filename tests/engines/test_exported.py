"""Checkpoints of jobs that go on as podman's containers, on another node than the job's."""

from __future__ import annotations

import json
import shutil
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from oci_criu_shim.files import timestamp
from tests import NAME
from tests.engines.support import PODMAN, SHIM, Engine, inspected, leftovers, shown
from tests.harness import jobs, verdict
from tests.harness.cluster import Cluster, wait_for
from tests.harness.jobs import CHECKPOINTS, Job, Work
from tests.node.support import Site
from tests.slurm.test_checkpoints import keep

# It reads a line, another one when it may, then the end of its input, and counts from the second one on.
READING = (
    "read i; echo $i; until [ -e /tmp/go ]; do sleep 0.1; done; read i; while read x; do :; done;"
    " while :; do echo $i; i=$((i+1)); sleep 0.1; done"
)
# A shell that reads the batch script, and has a file of its root file system open, which it does not append to.
COUNTING = "exec 7>/var/counted; i=0; while :; do echo $i >&7; echo $i; i=$((i+1)); sleep 0.1; done"


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    with Cluster(f"{NAME}-engine-exported", kill_wait=3) as made:
        yield made


@pytest.fixture(scope="module")
def bundle(cluster: Cluster) -> str:
    return jobs.prepare(cluster)


@pytest.fixture(scope="module")
def of_the_node(cluster: Cluster, bundle: str) -> str:
    """A bundle with the same root file system, and the node's network, names and shared memory."""
    spec = json.loads((cluster.home.parent / bundle[1:] / "config.json").read_text())
    spec["root"]["path"] = f"{bundle}/rootfs"
    spec["linux"]["namespaces"] = [entry for entry in spec["linux"]["namespaces"] if entry["type"] != "network"]
    binds = [
        {"destination": path, "type": "none", "source": path, "options": ["bind", "nosuid", "nodev"]}
        for path in ("/etc/hosts", "/etc/resolv.conf", "/dev/shm")
    ]
    taken = ("/sys", "/sys/fs/cgroup", "/dev/shm")
    spec["mounts"] = [entry for entry in spec["mounts"] if entry["destination"] not in taken] + binds
    cluster.exec("n1", ["mkdir", "/home/alice/of-the-node"])
    cluster.exec("n1", ["tee", "/home/alice/of-the-node/config.json"], input=json.dumps(spec))
    return "/home/alice/of-the-node"


@pytest.fixture(scope="module")
def site(cluster: Cluster) -> Site:
    """What containers outside of Slurm need, on the first node."""
    made = Site(cluster)
    made.prepare("bob")
    return made


@pytest.fixture
def podman(cluster: Cluster) -> Iterator[Engine]:
    """podman on the second node, with its usual storage, empty; it takes the runtime that an archive names."""
    engine = Engine(cluster, (*PODMAN, "--storage-driver=overlay"), "n2")
    yield engine
    engine("rm", "--all", "--force", "--time=0")
    wait_for(lambda: leftovers(cluster, "n2") == "", 10, f"nothing to be left: {leftovers(cluster, 'n2')}")


def checkpointed(job: Job) -> str:
    """Checkpoint the job on request, on the first node; return the checkpoint's path. It runs on."""
    job.cluster.exec("ctl", [SHIM, "job", "checkpoint", job.number])
    return f"{CHECKPOINTS}/{job.number}/batch.0/1"


def cancel(job: Job) -> None:
    job.cluster.exec("ctl", ["scancel", job.number])
    assert job.wait_end() == "CANCELLED"


def export(cluster: Cluster, checkpoint: str, name: str, *options: str) -> str:
    """The archive that the user has written of it."""
    cluster.exec("n1", [SHIM, "ckpt", "export", *options, checkpoint, f"/home/alice/{name}.tar"])
    return f"/home/alice/{name}.tar"


@contextmanager
def away(cluster: Cluster, bundle: str) -> Iterator[None]:
    """The bundle is on no node meanwhile."""
    cluster.exec("n1", ["mv", bundle, f"{bundle}.away"])
    try:
        yield
    finally:
        cluster.exec("n1", ["mv", f"{bundle}.away", bundle])


def test_a_job_goes_on(cluster: Cluster, bundle: str, podman: Engine) -> None:
    """To its end, in the bundle's own root file system, as the user that it was."""
    job = jobs.batch(cluster, bundle, "ledger", Work(ticks=150, tick=0.1), "--nodelist=n1", *jobs.OPTIONS)
    job.wait_ticks(5)
    archive = checkpointed(job)
    cancel(job)
    reached = job.ledger()
    path = export(cluster, archive, "ledger")
    with away(cluster, bundle):
        refused = podman("container", "restore", f"--import={path}", check=False)
    assert f"the container's root file system is not on this node: {bundle}/rootfs" in refused.stderr
    assert "--rootfs" in refused.stderr
    podman("rm", "--all")
    with tarfile.open(cluster.home.parent / path[1:]) as written:
        config = json.load(written.extractfile("config.dump") or pytest.fail("no config.dump"))
    podman("container", "restore", f"--import={path}")
    assert podman("ps", "--quiet", "--no-trunc").stdout.split() == [config["id"]]
    assert podman("exec", "--latest", "cat", "/proc/self/uid_map").stdout.split() == ["0", "1000", "1"]
    assert podman("wait", "--latest").stdout.strip() == "0"
    rest = job.ledger().removeprefix(reached)
    kept = int(rest.split()[1]) - 1  # what the job did after its checkpoint is done once more
    ledger = "".join(reached.splitlines(keepends=True)[:kept]) + rest
    assert verdict.ledger_failures(ledger, podman("logs", "--latest").stdout, 150, 0.1) == []


def test_without_the_bundle(cluster: Cluster, bundle: str, of_the_node: str, podman: Engine) -> None:
    """Two containers of one archive, each with the files as they were; podman's own archives of them, in turn."""
    options = ("--nodelist=n1", f"--container={of_the_node}", *jobs.OPTIONS)
    job = jobs.submit(cluster, "counting", COUNTING, Work(), *options)
    wait_for(lambda: "5\n" in job.output(), 30, "it to count")
    checkpoint = checkpointed(job)
    counted = cluster.home / "alice/bundle/rootfs/var/counted"
    length = counted.stat().st_size
    wait_for(lambda: counted.stat().st_size > length, 20, "it to run on")
    path = export(cluster, checkpoint, "counting", "--rootfs")
    cancel(job)
    with away(cluster, bundle):
        for name in ("a", "b"):
            podman("container", "restore", f"--import={path}", f"--name={name}")
        begun = {name: podman.wait_counts(name, 0)[0] for name in ("a", "b")}
        podman("container", "checkpoint", "--export=/shared/again.tar", "--compress=none", "b")
        podman("rm", "b")
        podman("container", "restore", "--import=/shared/again.tar")
        for name in ("a", "b"):
            podman.wait_counts(name, begun[name] + 30)
            written = [int(line) for line in podman("exec", name, "cat", "/var/counted").stdout.split()]
            assert written == list(range(len(written)))
            assert len(written) > begun[name] + 30
        assert begun["a"] == begun["b"] < written[-1]
        networks = [podman("exec", name, "readlink", "/proc/self/ns/net").stdout for name in ("a", "b")]
        assert {cluster.exec("n2", ["readlink", "/proc/self/ns/net"]).stdout} == set(networks)
        podman("pause", "a")
        podman("unpause", "a")
        podman("container", "checkpoint", "a")
        podman("container", "restore", "a")


def check_by_hand(cluster: Cluster, archive: str, last: int) -> None:
    """What podman has exported of an imported container goes on without podman, too."""
    bundle = cluster.shared / "unpacked"
    shutil.rmtree(bundle, ignore_errors=True)
    bundle.mkdir()
    unpack = f"mkdir rootfs; tar -xf {archive}; tar -xf rootfs-diff.tar -C rootfs"
    cluster.exec("n2", ["sh", "-ec", unpack], "root", cwd="/shared/unpacked")
    spec = json.loads((bundle / "spec.dump").read_text())
    spec["root"]["path"] = "rootfs"
    (bundle / "config.json").write_text(json.dumps(spec))
    # CRIU opens streams anew, as the user who is root inside.
    script = f"{SHIM} restore --detach --image-path=checkpoint unpacked </dev/null 2>&1 | cat >output"
    cluster.exec("n2", ["sh", "-c", f"({script}) >/dev/null 2>&1 &"], "root", cwd="/shared/unpacked")
    output = bundle / "output"
    try:
        wait_for(lambda: output.exists() and output.read_text().count("\n") > 5, 20, "it to go on")
    finally:
        cluster.exec("n2", [SHIM, "delete", "--force", "unpacked"], "root")
    counted = list(map(int, output.read_text().split()))
    assert counted == list(range(last + 1, last + 1 + len(counted)))


@pytest.mark.parametrize("user", ["root", "bob"])
def test_ids(site: Site, podman: Engine, user: str) -> None:
    """All of the node's, and ranges of them. The input is what had not been read, and then its end."""
    spec = site.spec(user)
    spec["root"]["path"] = "/home/bob/base/rootfs"
    spec["process"]["args"] = ["sh", "-c", READING]
    life = site.container(user, spec)
    try:
        with site.lending(user):
            life.run()
            assert life.process and life.process.stdin and life.process.stdout
            life.process.stdin.write("1\n2\n")
            life.process.stdin.flush()
            assert life.process.stdout.readline() == "1\n"
            answered = timestamp()
            keep(life)
    finally:
        life.stop()
    path = f"/shared/{user}.tar"
    site.exec([SHIM, "ckpt", "export", "--rootfs", f"{life.images}/1", path], user)
    row, found = shown(site.cluster, path), inspected(site.cluster, path)
    assert (row[0], row[5], found["container_name"]) == (life.name, "Podman", life.name)
    assert found["created"] <= answered
    assert (found["process_tree"]["command"], found["statistics"]["pages_written"] > 0) == ("sh", True)
    podman("container", "restore", f"--import={path}", "--name=a")
    podman("exec", "a", "touch", "/tmp/go")
    counted = podman.wait_counts("a", 5)
    assert counted == list(range(2, len(counted) + 2))
    mapped = podman("exec", "a", "cat", "/proc/self/uid_map").stdout.split()
    assert mapped == {"root": ["0", "0", "4294967295"], "bob": ["0", "1001", "1", "1", "200000", "65536"]}[user]
    podman("container", "checkpoint", f"--export={path}.again", "--compress=none", "a")
    check_by_hand(site.cluster, f"{path}.again", podman.counted("a")[-1])
