"""Tests from which checkpoint, and on which node, a restarted job goes on if something is wrong.

Also tests jobs that begin with the checkpoint of another job.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from oci_criu_shim.checkpoints import document
from tests.harness import jobs
from tests.harness.cluster import Cluster, wait_for
from tests.harness.jobs import Job, Work
from tests.harness.verdict import ledger_failures

WORK = Work(ticks=60)
DIFFERS = " is tried all the same: "


def displaced(job: Job) -> str:
    """Run it, preempt it, and wait until it is queued; the number of the job that took its node."""
    job.wait_running()
    job.wait_ticks(3)
    high = job.displace()
    said(job, f"requeueing job {job.number}")
    return high


def said(job: Job, text: str, times: int = 1) -> None:
    """Wait until the runtime has said it so often."""

    def enough() -> bool:
        return sum(text in event for event in job.events()) >= times

    try:
        wait_for(enough, 60, text)
    except Exception:
        print(job.quoted())
        raise


def comment(job: Job) -> str:
    return str(job.record()["comment"])


def go_on(job: Job, high: str) -> None:
    """Give the node back, and see the job go on there from its checkpoint, as if nothing had been."""
    job.cluster.exec("ctl", ["scancel", high])
    said(job, f"restored job {job.number} step batch task 0 from {jobs.CHECKPOINTS}/{job.number}/batch.0/1 on ")
    job.wait_ticks(job.ticks() + 2)
    assert job.record()["nodes"] == job.nodes[0]
    assert DIFFERS not in job.output()


def other(job: Job) -> str:
    """The node that it has not been on."""
    return ({*job.cluster.compute_nodes()} - {job.nodes[0]}).pop()


def test_where_the_restore_failed(shim_cluster: Cluster, shim_bundle: str) -> None:
    """CRIU finds no file that was open; the next node has it."""
    held = shim_cluster.shared / "held"
    held.write_text("open")
    held.chmod(0o644)
    script = f"exec sh -c 'exec 3</shared/{held.name}; exec {{command}}'"
    options = (f"--container={shim_bundle}", "--comment=mine | his", *jobs.OPTIONS)
    job = jobs.submit(shim_cluster, "failed", script, WORK, *options)
    high = displaced(job)
    held.rename(aside := held.with_name("aside"))
    log = job.checkpoints() / "1/restore.log"
    said(job, f"to go on on another node than {other(job)}")
    kept = f"{jobs.CHECKPOINTS}/history/{job.number}/batch.0.1.restore-1.log"
    said(job, f"(see {kept})")
    assert "Error (criu/" in log.read_text() == shim_cluster.exec("n1", ["cat", kept]).stdout
    wait_for(lambda: job.record()["excluded_nodes"] == other(job), 30, "the node to be left out")
    assert comment(job).startswith(f"mine | his | oci-criu-shim: requeued from {other(job)}: 1: CRIU could not restore")
    shim_cluster.exec("n1", ["oci-criu-shim", "ckpt", "verify", f"{jobs.CHECKPOINTS}/{job.number}/batch.0/1"])
    aside.rename(held)
    go_on(job, high)
    wait_for(lambda: comment(job) == "mine | his | oci-criu-shim: restored from 1", 30, "the new comment")
    assert not log.exists()


def changed(cluster: Cluster, bundle: str, name: str, change: Callable[[dict[str, Any]], None]) -> str:
    """A bundle called `name` of the same root file system, whose specification is changed."""
    spec = json.loads((cluster.home / bundle.removeprefix("/home/") / "config.json").read_text())
    spec["root"]["path"] = f"{bundle}/rootfs"
    change(spec)
    path = f"/home/alice/{name}"
    cluster.exec("n1", ["mkdir", "-p", path])
    cluster.exec("n1", ["tee", f"{path}/config.json"], input=json.dumps(spec))
    return path


@contextmanager
def with_mount(cluster: Cluster, bundle: str, source: str) -> Iterator[str]:
    """A bundle that binds the directory `source`, which all nodes have."""

    def mount(spec: dict[str, Any]) -> None:
        spec["mounts"].append({"destination": "/mnt", "type": "none", "source": source, "options": ["rbind", "rw"]})

    for node in cluster.compute_nodes():
        cluster.exec(node, ["mkdir", source], "root")
    try:
        yield changed(cluster, bundle, "mounting", mount)
    finally:
        for node in cluster.compute_nodes():
            cluster.exec(node, ["rm", "-rf", source], "root")


def test_a_node_that_does_not_fit(shim_cluster: Cluster, shim_bundle: str) -> None:
    """The job asks for the site's feature as well, from its first requeue on."""
    for node in shim_cluster.compute_nodes():
        update = ["scontrol", "update", f"NodeName={node}", "AvailableFeatures=alike,fast", "ActiveFeatures=alike,fast"]
        shim_cluster.exec("ctl", update, "root")
    source, setting = "/srv/source", 'feature = "alike"\n'
    with jobs.settings(shim_cluster, setting), with_mount(shim_cluster, shim_bundle, source) as bundle:
        job = jobs.batch(shim_cluster, bundle, "misfit", WORK, "--constraint=fast", *jobs.OPTIONS)
        high = displaced(job)
        shim_cluster.exec(other(job), ["rmdir", "/srv/source"], "root")
        said(job, "the container's mount /mnt has no source here: /srv/source")
        said(job, f"requeueing job {job.number}, to go on on another node than {other(job)}")
        assert not (job.checkpoints() / "1/restore.log").exists()
        go_on(job, high)
        record = job.record()
        assert (record["features"], record["excluded_nodes"]) == ("fast&alike", other(job))


LOWER = """\
#!/bin/sh
ulimit -n 900
exec /usr/bin/oci-criu-shim.whole "$@"
"""


@contextmanager
def lower_limit(cluster: Cluster, node: str) -> Iterator[None]:
    """The tasks on a node may have that many open files, as if its slurmd might."""
    path = "/usr/bin/oci-criu-shim"
    cluster.exec(node, ["sh", "-c", f"mv {path} {path}.whole; cat >{path}; chmod 755 {path}"], "root", input=LOWER)
    try:
        yield
    finally:
        cluster.exec(node, ["mv", f"{path}.whole", path], "root")


def test_a_node_with_a_lower_limit(shim_cluster: Cluster, shim_bundle: str) -> None:
    """The program has the one that it raised as long as it runs."""
    script = "exec sh -c 'ulimit -Sn 1000; {command}; ulimit -Sn'"
    job = jobs.submit(shim_cluster, "limits", script, WORK, f"--container={shim_bundle}", *jobs.OPTIONS)
    job.wait_running()
    with lower_limit(shim_cluster, other(job)):
        high = displaced(job)
        said(job, "RLIMIT_NOFILE of 1000, and no more than 900 is allowed here")
        said(job, f"requeueing job {job.number}, to go on on another node than {other(job)}")
        go_on(job, high)
    assert job.wait_end() == "COMPLETED"
    assert "\nend sum-ok\n1000\n" in job.output()


# Listens on the node's own address, the one by which it sees the others, and becomes another program.
LISTEN = """
import os, socket, sys
found = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
found.connect(("10.77.0.1", 9))
listener = socket.create_server((found.getsockname()[0], 7071))
listener.set_inheritable(True)
os.execvp(sys.argv[1], sys.argv[1:])
"""


def share_network(spec: dict[str, Any]) -> None:
    """Have the node's network, and not its /sys, which can't be restored."""
    spec["linux"]["namespaces"] = [one for one in spec["linux"]["namespaces"] if one["type"] != "network"]
    spec["mounts"] = [mount for mount in spec["mounts"] if not mount["destination"].startswith("/sys")]


def test_an_address_of_its_first_node(shim_cluster: Cluster, shim_bundle: str) -> None:
    """The job waits for that node, though the other one is free."""
    bundle = changed(shim_cluster, shim_bundle, "sharing", share_network)
    (shim_cluster.shared / "listen.py").write_text(LISTEN)
    script = "exec python3 /shared/listen.py {command}"
    job = jobs.submit(shim_cluster, "listens", script, WORK, f"--container={bundle}", *jobs.OPTIONS)
    high = displaced(job)
    said(job, f":7071, an address of {job.nodes[0]}, so it goes on only on a node that has it")
    said(job, ":7071, an address that this node does not have")
    said(job, f"requeueing job {job.number}, to go on on {job.nodes[0]}, once it is free")
    wait_for(lambda: job.record()["required_nodes"] == job.nodes[0], 30, "the node to be required")
    go_on(job, high)
    assert json.loads((job.checkpoints() / "tries.json").read_text())["tries"] == 1
    shim_cluster.exec("ctl", ["scancel", job.number])


def test_no_node_fits(shim_cluster: Cluster, shim_bundle: str) -> None:
    job = jobs.batch(shim_cluster, shim_bundle, "unfit", WORK, *jobs.OPTIONS)
    high = displaced(job)
    path = job.checkpoints() / "1/manifest.json"
    manifest = json.loads(path.read_text())
    manifest["needs"]["cpu"].append("avx9000")
    path.write_text(json.dumps(document.sealed(manifest)))
    said(job, f"to go on on another node than {other(job)}")
    shim_cluster.exec("ctl", ["scancel", high])
    assert job.wait_end() == "FAILED"
    lacks = f"this node's processor lacks avx9000, and the checkpoint was made on {job.nodes[0]}, which has them"
    said(job, f"error: job {job.number} step batch task 0: {lacks}", times=2)
    said(job, f"job {job.number} step batch task 0 failed alike on {other(job)}: another node would do no better")
    said(job, f"error: job {job.number} step batch task 0 could not be restored from any checkpoint in ")
    assert comment(job) == f"oci-criu-shim: failed: no checkpoint could be restored: 1: {lacks}"
    assert path.parent.is_dir()


def test_not_for_ever(shim_cluster: Cluster, shim_bundle: str) -> None:
    """One try, then a restart that nothing new was written before."""
    with jobs.settings(shim_cluster, "max-restarts = 1\n"):
        job = jobs.batch(shim_cluster, shim_bundle, "again", WORK, *jobs.OPTIONS)
        job.cluster.exec("ctl", ["scancel", displaced(job)])
        said(job, "restored job")
        shim_cluster.exec("ctl", ["scontrol", "requeue", job.number])
        wait_for(lambda: job.state() == "PENDING", 60, "it to be requeued")
        shim_cluster.exec("ctl", ["scontrol", "update", f"JobId={job.number}", "StartTime=now"])
        assert job.wait_end() == "FAILED"
        said(job, "was tried 1 times from checkpoint 1 and got no further (max-restarts)")
        assert comment(job) == "oci-criu-shim: failed: tried 1 times from checkpoint 1"


def tree(path: Path) -> dict[str, tuple[int, int]]:
    """{name: size and time of change} of all that is below a directory, and itself."""
    found = [path, *path.rglob("*")]
    return {str(each): (each.lstat().st_size, each.lstat().st_mtime_ns) for each in found}


@contextmanager
def crowded(cluster: Cluster) -> Iterator[None]:
    """Five jobs may have the same processor."""
    update = ["scontrol", "update", "PartitionName=low"]
    cluster.exec("ctl", [*update, "OverSubscribe=FORCE:5"], "root")
    try:
        yield
    finally:
        cluster.exec("ctl", [*update, "OverSubscribe=NO"], "root")


INITS = """
import glob, json, os
for path in glob.glob("/run/oci-criu-shim/*/*/state.json"):
    job, container = path.split("/")[3:5]
    print(job, container, os.readlink(f"/proc/{json.load(open(path))['init'][0]}/ns/pid"))
"""


def containers(cluster: Cluster) -> list[list[str]]:
    """Those that there are now: of each its job, its id, and its pid namespace."""
    found = [cluster.exec(node, ["python3", "-c", INITS], "root").stdout for node in cluster.compute_nodes()]
    return [line.split() for line in "".join(found).splitlines()]


def ticks(job: Job) -> list[str]:
    """What the program has printed of them."""
    return [line for line in job.output().splitlines() if re.fullmatch(r"tick \d+", line)]


def test_from_another_jobs_checkpoint(shim_cluster: Cluster, shim_bundle: str) -> None:
    """Ten jobs begin with one checkpoint and run at the same time, and the job that made it goes on last."""
    work, go = Work(ticks=12, mib=4), shim_cluster.shared / "warm.go"
    go.unlink(missing_ok=True)
    # CRIU makes a deleted file anew, under a name that is the same for all of them. The ledger is in their own memory.
    script = f"exec sh -c 'exec 3<>/shared/gone; rm /shared/gone; {work.command('/dev/shm/ledger')}; "
    script += f"until [ -e /shared/{go.name} ]; do sleep 0.2; done; cat /dev/shm/ledger'"
    options = (f"--container={shim_bundle}", *jobs.OPTIONS)
    first = jobs.submit(shim_cluster, "first", script, work, *options)
    first.ledger_path = shim_cluster.home / f"alice/{first.number}.out"
    high = displaced(first)
    shim_cluster.exec("ctl", ["scontrol", "hold", first.number])
    shim_cluster.exec("ctl", ["scancel", high])
    path = f"{jobs.CHECKPOINTS}/{first.number}/batch.0"
    noted = first.checkpoints() / "1/manifest.json"
    manifest = json.loads(noted.read_text()) | {"kernel": "4711.0"}
    manifest["needs"]["image"] = "sha256:0"
    noted.write_text(json.dumps(document.sealed(manifest)))
    before, done = tree(first.checkpoints()), ticks(first)
    with crowded(shim_cluster):
        begun = []
        for value in [first.number, f"{first.number}:1", path] * 3 + [path]:
            begun.append(jobs.submit(shim_cluster, "warm", script, work, f"--restart-dir={value}", *options))
        wait_for(lambda: all("end sum-ok" in job.output() for job in begun), 120, "all to wait for the others")
        numbers, ids, namespaces = zip(*containers(shim_cluster), strict=True)
        assert sorted(numbers) == sorted(job.number for job in begun)
        assert (len(set(ids)), len(set(namespaces))) == (10, 10)
        go.touch()
        for job in begun:
            assert job.wait_end() == "COMPLETED", job.quoted()
    for job in begun:
        assert f"restored job {job.number} step batch task 0 from {path}/1 on " in job.output()
        for what in ("it was made on Linux 4711.0, and", "the bundle is not what it was at the checkpoint (sha256:0"):
            assert f"{path}/1{DIFFERS}{what}" in job.output()
        assert done + ticks(job) == [f"tick {number}" for number in range(1, 13)]
        ledger = "\n".join(line for line in job.output().splitlines() if " pid " in line)
        assert ledger_failures(ledger, job.output(), work.ticks, work.tick) == []
        assert not job.checkpoints().exists()
    assert tree(first.checkpoints()) == before
    shim_cluster.exec("ctl", ["scontrol", "release", first.number])
    assert first.wait_end() == "COMPLETED"


def test_from_no_checkpoint(shim_cluster: Cluster, shim_bundle: str) -> None:
    option = "--restart-dir=4711"
    job = jobs.batch(shim_cluster, shim_bundle, "none", WORK, option, *jobs.OPTIONS)
    assert job.wait_end() == "FAILED"
    path = f"{jobs.CHECKPOINTS}/4711/batch.0"
    assert f"oci-criu-shim: error: --restart-dir=4711: there is no checkpoint in {path} (hint: " in job.output()
