"""`job migrate`: a running job goes on on another node, from memory to memory; if that fails, it stays where it is."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import pytest

from tests.harness import jobs
from tests.harness.cluster import Cluster, ClusterError, wait_for
from tests.harness.jobs import Job, Work
from tests.harness.slow_link import slow_links
from tests.harness.verdict import ledger_failures

SHIM = "oci-criu-shim"
WORK = Work(ticks=60, tick=0.3, mib=96, text=True)
LARGE = Work(ticks=80, tick=0.3, mib=192)  # enough to be sent in rounds
WAYS = ["contained", "bare", "step"]
FAST = ("rate", "400mbit", "burst", "1m", "latency", "50ms")
LINK = ("rate", "16mbit", "burst", "64k", "latency", "400ms")  # 2 MB/s


def started(cluster: Cluster, bundle: str, way: str, work: Work = WORK) -> Job:
    script = "exec {command}"
    options = [*jobs.OPTIONS]
    if way == "contained":
        options.append(f"--container={bundle}")
    if way == "step":
        script = f"exec srun --container={bundle} {{command}}"
    job = jobs.submit(cluster, f"migrate-{way}", script, work, *options)
    job.wait_running()
    job.wait_ticks(4)
    return job


def migrate(job: Job, *options: str) -> subprocess.CompletedProcess[str]:
    """Have the job's user migrate it; say nothing of whether that succeeds."""
    return job.cluster.exec("ctl", [SHIM, "job", "migrate", *options, job.number], check=False)


def memory(cluster: Cluster) -> list[str]:
    """What is in the memory of the nodes."""
    found = [cluster.exec(node, ["ls", "-A", "/dev/shm"]).stdout.split() for node in cluster.compute_nodes()]
    return [name for names in found for name in names]


@pytest.mark.parametrize("way", WAYS)
def test_it_goes_on_there(shim_cluster: Cluster, shim_bundle: str, way: str) -> None:
    job = started(shim_cluster, shim_bundle, way)
    with jobs.quoting(job):
        to = next(node for node in shim_cluster.compute_nodes() if node != job.nodes[0])
        done = migrate(job, "--json")
        assert not done.returncode, done.stderr
        found = json.loads(done.stdout)
        assert (found["job"], found["source"], found["to"]) == (int(job.number), job.nodes[0], to)
        assert found["sent"] < 0.9 * found["bytes"]
        job.preemptions = 1
        job.wait_restart()
        kept = job.checkpoints().parent / ("0.0" if way == "step" else "batch.0") / "1/manifest.json"
        wait_for(kept.exists, 60, "the checkpoint in its directory")
        wait_for(lambda: not memory(shim_cluster), 30, "the memory to be free")
        assert json.loads(kept.read_text())["reason"] == "migrate"
        argv = [SHIM, "job", "status", "--json", f"--checkpoint-dir={jobs.CHECKPOINTS}", job.number]
        task = json.loads(shim_cluster.exec("ctl", argv).stdout)["tasks"][-1]
        assert [run["origin"] for run in task["runs"]] == ["", f"{job.number}:1"]
        job.wait_end()
        assert not job.failures()


def test_it_may_go_anywhere_after_that(shim_cluster: Cluster, shim_bundle: str) -> None:
    """And back, when it is preempted."""
    job = started(shim_cluster, shim_bundle, "bare")
    with jobs.quoting(job):
        assert not migrate(job).returncode
        job.preemptions = 1
        job.wait_restart()
        job.preempt()
        assert job.record()["required_nodes"] == ""
        job.wait_end()
        assert not job.failures()


@pytest.mark.parametrize("way", ["contained", "bare"])
def test_it_is_sent_while_it_runs(shim_cluster: Cluster, shim_bundle: str, way: str) -> None:
    """And is frozen for what it has written since: the last images have little, and their parents the rest."""
    job = started(shim_cluster, shim_bundle, way, LARGE)
    with jobs.quoting(job):
        with slow_links(shim_cluster, shim_cluster.compute_nodes(), *FAST):
            done = migrate(job, "--json")
        assert not done.returncode, done.stderr
        assert any(line.startswith("sent memory of job ") and " while it ran: " in line for line in job.events())
        job.preemptions = 1
        job.wait_restart()
        kept = job.checkpoints() / "1/manifest.json"
        wait_for(kept.exists, 60, "the checkpoint in its directory")
        sizes = json.loads(kept.read_text())["files"]
        pages = {name: size for name, size in sizes.items() if "/pages-" in name}
        ahead = sum(size for name, size in pages.items() if name.startswith("checkpoint/parent/"))
        assert ahead > LARGE.mib << 20
        assert sum(pages.values()) - ahead < ahead / 4
        job.preempt()  # from the copy of it, if it has no newer one
        job.wait_end()
        assert not job.failures()


def test_it_is_sent_only_when_it_is_frozen(shim_cluster: Cluster, shim_bundle: str) -> None:
    job = started(shim_cluster, shim_bundle, "bare", LARGE)
    with jobs.quoting(job):
        done = migrate(job, "--precopy=off")
        assert not done.returncode, done.stderr
        assert not any(" while it ran: " in line for line in job.events())
        job.preemptions = 1
        job.wait_restart()
        job.wait_end()
        assert not job.failures()


def receiver(job: Job) -> str:
    """Return the number of the job that receives this one; empty if there is none."""
    name = f"--name=migrate-{job.number}"
    found = job.cluster.exec("ctl", ["squeue", "--noheader", name, "--states=running", "--format=%i"]).stdout
    return str(found.strip())


def arriving(cluster: Cluster, node: str) -> bool:
    """Whether some of a checkpoint is in the node's memory."""
    found = cluster.exec(node, ["sh", "-c", "find /dev/shm -name pages-1.img -size +0"], "root")
    return bool(found.stdout)


@contextmanager
def migrating(job: Job) -> Iterator[Callable[[], subprocess.CompletedProcess[str]]]:
    """A migration that is in the midst of sending when the block begins; its outcome can be waited for."""
    source, to = job.nodes[0], next(node for node in job.cluster.compute_nodes() if node != job.nodes[0])
    with slow_links(job.cluster, [source], *LINK), ThreadPoolExecutor() as threads:
        done = threads.submit(migrate, job, f"--to={to}")
        wait_for(lambda: done.done() or arriving(job.cluster, to), 60, "what is sent")
        assert not done.done(), done.result().stderr
        yield done.result


def stays(job: Job) -> None:
    """Raise AssertionError unless the job runs on where it was, and does all of its work there."""
    ticks = job.ticks()
    job.wait_ticks(ticks + 3)
    wait_for(lambda: not memory(job.cluster), 60, "the memory to be free")
    job.preemptions = 0
    assert job.wait_end() == "COMPLETED"
    assert not job.failures()


@pytest.mark.parametrize("work", [WORK, LARGE], ids=["frozen", "while it runs"])
def test_the_receiver_dies(shim_cluster: Cluster, shim_bundle: str, work: Work) -> None:
    job = started(shim_cluster, shim_bundle, "contained", work)
    with jobs.quoting(job):
        with migrating(job) as outcome:
            shim_cluster.exec("ctl", ["scancel", receiver(job)])
            done = outcome()
        assert done.returncode == 1
        assert " runs on: " in done.stderr
        stays(job)


@pytest.mark.parametrize("work", [WORK, LARGE], ids=["frozen", "while it runs"])
def test_the_link_is_cut(shim_cluster: Cluster, shim_bundle: str, work: Work) -> None:
    """So that nothing says that the other end is gone."""
    job = started(shim_cluster, shim_bundle, "bare", work)
    with jobs.quoting(job):
        with migrating(job) as outcome, cut(shim_cluster, job.nodes[0]):
            done = outcome()
        assert done.returncode == 1
        assert " runs on: " in done.stderr
        stays(job)


@contextmanager
def cut(cluster: Cluster, node: str) -> Iterator[None]:
    """In the block, nothing of what the node sends by the connections of a migration arrives."""
    ports = ["ss", "-tnH", "state", "established", "dport", ">", ":10000"]
    found = [line.split()[3].rpartition(":")[2] for line in cluster.exec(node, ports).stdout.splitlines()]
    assert found
    chain = "add table inet cut; add chain inet cut out { type filter hook output priority 0; }"
    cluster.exec(node, ["nft", f"{chain}; add rule inet cut out tcp dport {{ {', '.join(found)} }} drop"], "root")
    try:
        yield
    finally:
        cluster.exec(node, ["nft", "delete table inet cut"], "root")


def test_no_node_is_free(shim_cluster: Cluster, shim_bundle: str) -> None:
    job = started(shim_cluster, shim_bundle, "bare")
    with jobs.quoting(job):
        to = next(node for node in shim_cluster.compute_nodes() if node != job.nodes[0])
        argv = [
            "sbatch",
            "--parsable",
            "-p",
            "high",
            "-w",
            to,
            "--exclusive",
            "--output=/dev/null",
            "--wrap",
            "sleep 60",
        ]
        other = shim_cluster.exec("ctl", argv).stdout.strip()
        wait_for(lambda: shim_cluster.node_states()[to] == "allocated", 30, "a node that is not free")
        done = migrate(job, "--wait=2s")
        shim_cluster.exec("ctl", ["scancel", other])
        assert done.returncode == 1
        assert "no node for the job is free now" in done.stderr
        stays(job)


def test_no_memory_there(shim_cluster: Cluster, shim_bundle: str) -> None:
    job = started(shim_cluster, shim_bundle, "bare")
    to = next(node for node in shim_cluster.compute_nodes() if node != job.nodes[0])
    with jobs.quoting(job):
        shim_cluster.exec(to, ["mount", "-o", "remount,size=16m", "/dev/shm"], "root")
        try:
            done = migrate(job, f"--to={to}")
        finally:
            shim_cluster.exec(to, ["mount", "-o", "remount,size=50%", "/dev/shm"], "root")
            shim_cluster.exec(to, ["rm", "-rf", "/run/mount"], "root")  # which mount(8) makes
        assert done.returncode == 1
        assert "/dev/shm has room for 16" in done.stderr
        stays(job)


def test_another_processor(shim_cluster: Cluster, shim_bundle: str) -> None:
    job = started(shim_cluster, shim_bundle, "contained")
    to = next(node for node in shim_cluster.compute_nodes() if node != job.nodes[0])
    with jobs.quoting(job):
        less = "sed 's/ fpu / /' /proc/cpuinfo >/run/cpuinfo && mount --bind /run/cpuinfo /proc/cpuinfo"
        shim_cluster.exec(to, ["sh", "-c", less], "root")
        try:
            done = migrate(job, f"--to={to}")
        finally:
            shim_cluster.exec(to, ["sh", "-c", "umount /proc/cpuinfo && rm -r /run/cpuinfo /run/mount"], "root")
        assert done.returncode == 1
        assert "this node's processor lacks fpu" in done.stderr
        stays(job)


def test_it_can_not_be_restored_there(shim_cluster: Cluster, shim_bundle: str) -> None:
    """It goes on where it came from, and loses nothing."""
    file = "/srv/open"
    for node in shim_cluster.compute_nodes():
        shim_cluster.exec(node, ["touch", file], "root")
    job = jobs.submit(shim_cluster, "back", f"exec 7<{file}; exec {{command}}", WORK, *jobs.OPTIONS)
    with jobs.quoting(job):
        job.wait_running()
        job.wait_ticks(4)
        to = next(node for node in shim_cluster.compute_nodes() if node != job.nodes[0])
        shim_cluster.exec(to, ["rm", file], "root")
        migrate(job, f"--to={to}")
        wait_for(lambda: int(job.record()["restart_cnt"]) == 2, 60, "the way back")
        back = job.wait_running()
        assert back == job.nodes[0]
        assert job.wait_end() == "COMPLETED"
        restored = [event for event in job.events() if event.startswith("restored ")]
        assert [event.rpartition("/")[2] for event in restored] == [f"1 on {back}"]
        assert not ledger_failures(job.ledger(), job.output(), WORK.ticks, WORK.tick)
        shim_cluster.exec(back, ["rm", file], "root")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--to=n9"], "can't run on n9"),
        (["--to=n1"], "runs on n1 already"),
        (["--wait=soon"], "--wait is a time"),
        (["--precopy=on"], "--precopy is auto or off"),
    ],
)
def test_what_is_refused(shim_cluster: Cluster, shim_bundle: str, options: list[str], said: str) -> None:
    job = jobs.submit(shim_cluster, "refused", "exec {command}", Work(ticks=600), *jobs.OPTIONS, "--nodelist=n1")
    job.wait_running()
    job.wait_ticks(1)
    done = migrate(job, *options)
    shim_cluster.exec("ctl", ["scancel", job.number])
    job.wait_end()
    assert done.returncode
    assert said in done.stderr


def test_a_job_without_checkpoints(shim_cluster: Cluster, shim_bundle: str) -> None:
    job = jobs.submit(shim_cluster, "unasked", "exec {command}", Work(ticks=600))
    job.wait_running()
    job.wait_ticks(1)
    done = migrate(job)
    shim_cluster.exec("ctl", ["scancel", job.number])
    job.wait_end()
    assert done.returncode == 1
    assert f"job {job.number} has no container to be checkpointed" in done.stderr


def test_the_source_dies(losing_cluster: Cluster, losing_bundle: str) -> None:
    """The job goes on from its last checkpoint, once."""
    job = started(losing_cluster, losing_bundle, "contained")
    losing_cluster.exec("ctl", [SHIM, "job", "checkpoint", job.number])
    source = job.nodes[0]
    with jobs.quoting(job):
        try:
            with migrating(job) as outcome:
                losing_cluster.kill(source)
                done = outcome()
        except ClusterError:
            pass  # there is no link to make fast again
        assert done.returncode == 1
        try:
            wait_for(lambda: job.record()["restart_cnt"] == 1, 60, "the requeue")
            losing_cluster.exec("ctl", ["scontrol", "update", f"JobId={job.number}", "StartTime=now"])
            other = job.wait_running()
            assert job.wait_end() == "COMPLETED"
            restored = [event for event in job.events() if event.startswith("restored ")]
            assert [event.rpartition("/")[2] for event in restored] == [f"1 on {other}"]
        finally:
            losing_cluster.boot(source)
        wait_for(lambda: not memory(losing_cluster), 60, "the memory to be free")
