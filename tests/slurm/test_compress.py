"""Jobs whose checkpoints are compressed go on from them, and podman and we read what they are."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import NAME
from tests.harness import jobs
from tests.harness.cluster import Cluster, wait_for
from tests.harness.jobs import Job, Work
from tests.node.support import SHIM

WORK = Work(ticks=60, tick=0.3, mib=2)  # random bytes: what shrinks is the interpreter's
EVERY = ("--checkpoint=preempt,interval:2s", *jobs.OPTIONS[1:])
PAGES = "checkpoint/pages-1.img"


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    with Cluster(f"{NAME}-compress", grace_time=15, kill_wait=3, requeue_delay=120) as made:
        yield made


@pytest.fixture(scope="module")
def bundle(cluster: Cluster) -> str:
    return jobs.prepare(cluster)


def configure(cluster: Cluster, setting: str, more: str = "") -> None:
    for node in cluster.compute_nodes():
        cluster.exec(node, ["tee", jobs.SETTINGS], "root", input=f'compress = "{setting}"\n{more}')


def names(path: Path) -> set[str]:
    return {file.name for file in path.rglob("pages-*")}


def events(job: Job, word: str) -> list[str]:
    return [event for event in job.events() if event.startswith(word)]


@pytest.mark.parametrize(("setting", "suffix"), [("zstd:3", "zst"), ("lz4", "lz4")])
def test_preempted(cluster: Cluster, bundle: str, setting: str, suffix: str) -> None:
    configure(cluster, setting)
    job = jobs.batch(cluster, bundle, f"compressed-{suffix}", WORK, *jobs.OPTIONS)
    job.wait_running()
    job.wait_ticks(3)
    high = job.displace()
    job.wait_restart()
    assert ", compressed to " in events(job, "checkpointed")[0], job.quoted()
    first = f"{jobs.CHECKPOINTS}/{job.number}/batch.0/1"
    assert names(job.checkpoints() / "1") == {f"pages-1.img.{suffix}"}
    assert cluster.exec("n1", [SHIM, "ckpt", "verify", first]).stdout == f"{first}: ok\n"
    shown = json.loads(cluster.exec("n1", [SHIM, "ckpt", "show", "--json", first]).stdout)
    assert (shown["compressed"], shown["bytes"] < shown["dumped"]) == ([setting.partition(":")[0]], True)
    cluster.exec("ctl", ["scancel", high])
    assert job.wait_end() == "COMPLETED", job.quoted()
    for node in cluster.compute_nodes():
        assert ".stage." not in cluster.exec(node, ["ls", "-A", "/var/tmp"], "root").stdout
    assert not job.failures()


def test_while_it_runs_on(cluster: Cluster, bundle: str) -> None:
    configure(cluster, "zstd")
    job = jobs.batch(cluster, bundle, "runs-on", Work(ticks=60, tick=0.5, mib=2), *EVERY)
    job.wait_running()
    path = job.checkpoints()
    wait_for(lambda: any(names(path / str(seq)) == {"pages-1.img.zst"} for seq in range(1, 9)), 60, "compression")
    job.preempt()
    cluster.exec("ctl", ["scancel", job.number])
    wait_for(lambda: job.state() == "CANCELLED", 60, "its end")
    newest = max(int(seq.name) for seq in path.iterdir() if seq.name.isdecimal())
    checkpoint = f"{jobs.CHECKPOINTS}/{job.number}/batch.0/{newest}"
    said = cluster.exec("n1", [SHIM, "ckpt", "verify", checkpoint]).stdout.removeprefix(f"{checkpoint}: ").rstrip()
    assert said in ("ok", "not verified: it has no checksums of its memory")  # if its job was cancelled before it had
    for left in path.glob(".gone.*"):  # or while it removed one before it: the next writer would sweep that
        shutil.rmtree(left)


def test_export_is_raw(cluster: Cluster, bundle: str) -> None:
    configure(cluster, "zstd")
    job = jobs.batch(cluster, bundle, "exported", Work(ticks=100, tick=0.5, mib=2), *jobs.OPTIONS)
    job.wait_running()
    job.wait_ticks(3)
    high = job.displace()
    wait_for(lambda: job.state() == "PENDING", 60, "it to be requeued")
    cluster.exec("ctl", ["scancel", job.number, high])
    first = f"{jobs.CHECKPOINTS}/{job.number}/batch.0/1"
    assert names(job.checkpoints() / "1") == {"pages-1.img.zst"}
    archive = f"/home/alice/{job.number}.tar"
    cluster.exec("n1", [SHIM, "ckpt", "export", first, archive])
    listed = cluster.exec("n1", ["tar", "-tf", archive]).stdout.split()
    assert PAGES in listed
    assert not [name for name in listed if name.endswith(".zst")]
    imported = f"/home/alice/imported-{job.number}"
    cluster.exec("n1", [SHIM, "ckpt", "import", archive, imported])
    assert cluster.exec("n1", [SHIM, "ckpt", "verify", f"{imported}/1"]).stdout == f"{imported}/1: ok\n"
    changed = json.loads(cluster.exec("n1", [SHIM, "ckpt", "diff", "--json", first, f"{imported}/1"]).stdout)
    assert changed["memory"][0] == changed["memory"][1]


def stages(job: Job) -> int:
    """How many checkpoints are being written or compressed."""
    return len(list(job.checkpoints().glob(".stage.*")))


def test_too_little_time(cluster: Cluster, bundle: str) -> None:
    """The job is told beforehand. In its grace time, what compresses a checkpoint is ended, and the next one is raw."""
    configure(cluster, "zstd:19", 'dump-rate = "4M"\n')
    job = jobs.batch(cluster, bundle, "hurried", Work(ticks=200, tick=0.3, mib=64), "--mem=100M", *jobs.OPTIONS)
    job.wait_running()
    job.wait_ticks(2)
    told = r"a checkpoint of (?:.*, of up to 100.0 MiB,|all that job \d+ has in memory on this node now) "
    told += r"takes about \d+ s, but a preemption in partition low gives 15 s; --checkpoint-interval limits the loss\n"
    wait_for(lambda: len(re.findall(told, job.output())) == 2, 30, "both warnings")
    cluster.exec("ctl", [SHIM, "job", "checkpoint", job.number])
    wait_for(lambda: stages(job) == 1, 10, "its compression")
    high, seen = job.displace(), set()

    def taken() -> bool:
        seen.add(stages(job))
        return (job.checkpoints() / "2").exists()

    wait_for(taken, 30, "a checkpoint in the grace time")
    assert max(seen) == 1, "it was still compressed when that was taken"
    job.wait_restart()
    cluster.exec("ctl", ["scancel", high, job.number])
    assert [names(job.checkpoints() / seq) for seq in "12"] == [{"pages-1.img"}] * 2, job.quoted()
    assert "compressed" not in job.output()
