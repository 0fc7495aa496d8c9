"""Checkpoints that are looked at, moved, damaged, or too large for their disk, on a live node."""

from __future__ import annotations

import json
import os
import re
import subprocess
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests import NAME
from tests.harness import jobs
from tests.harness.cluster import Cluster, wait_for
from tests.harness.cluster.bundle import make_bundle
from tests.harness.cluster.waiting import patient
from tests.harness.jobs import Job, Work, quoting
from tests.harness.verdict import ledger_failures
from tests.node.support import SHIM, Life, Site, home

USERS = pytest.mark.parametrize("user", ["root", "alice"])
IDS = {"root": 0, "alice": 1000}
PAGES = "checkpoint/pages-1.img"
# Two processes and a socket, until a file is there.
WAITING = """
import os, socket, subprocess, sys, time
server = socket.create_server(("127.0.0.1", 0))
child = subprocess.Popen(["sleep", "600"])
print("listening", flush=True)
while not os.path.exists(sys.argv[1]):
    time.sleep(0.1)
child.kill()
"""


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    with Cluster(f"{NAME}-checkpoints", nodes=1, grace_time=15, kill_wait=3, requeue_delay=120) as made:
        yield made


@pytest.fixture(scope="module")
def site(cluster: Cluster) -> Site:
    made = Site(cluster)
    made.prepare("alice")
    return made


@pytest.fixture(scope="module")
def bundle(cluster: Cluster) -> str:
    return jobs.prepare(cluster)


@contextmanager
def running(site: Site, user: str) -> Iterator[Life]:
    """A container outside of Slurm."""
    life = site.container(user, site.spec(user))
    try:
        with site.lending(user):
            life.run()
            life.look()
            yield life
    finally:
        life.stop()


def keep(
    life: Life, *, leave_running: bool = False, compress: Sequence[str] = (), check: bool = True
) -> subprocess.CompletedProcess[str]:
    """Checkpoint it into a store; it ends by that, unless it is to run on. `compress`: keep.py's last arguments."""
    helper = "" if life.user == "root" else f"{home(life.user)}/run/helper.0.sock"
    leave = "yes" if leave_running else "no"
    program = ["python3", "-I", "/src/tests/harness/programs/keep.py"]
    argv = [*program, f"{home(life.user)}/run", life.name, life.images, helper, leave, *compress]
    done = life.site.exec(argv, life.user, check)
    if life.process and not leave_running:
        life.process.communicate(timeout=patient(20))
    return done


def ckpt(life: Life, *words: str, check: bool = True) -> subprocess.CompletedProcess[str]:
    return life.site.exec([SHIM, "ckpt", *words], life.user, check)


@USERS
def test_verbs(site: Site, user: str) -> None:
    with running(site, user) as life:
        keep(life, leave_running=True)
        keep(life)
        first, second = f"{life.images}/1", f"{life.images}/2"
        listed = json.loads(ckpt(life, "list", "--json", life.images).stdout)
        assert [(row["path"], row["damaged"]) for row in listed] == [(first, None), (second, None)]
        assert ckpt(life, "verify", first, second).stdout == f"{first}: ok\n{second}: ok\n"
        verified = json.loads(ckpt(life, "verify", "--json", first, second).stdout)
        assert verified == [{"path": path, "verified": True, "damaged": None} for path in (first, second)]
        sums = json.loads(site.exec(["cat", f"{second}/checksums.json"], user).stdout)
        assert (PAGES in sums["xxh3"], sums["sha256"]) == (True, {})
        shown = json.loads(ckpt(life, "show", "--json", second).stdout)
        assert [process["command"] for process in shown["processes"]] == ["python3"]
        assert shown["memory"] > 1 << 20
        assert {"/", "/proc"} <= {mount["mountpoint"] for mount in shown["mounts"]}
        assert {file["kind"] for file in shown["files"]} >= {"PIPE"}
        changed = json.loads(ckpt(life, "diff", "--json", first, second).stdout)
        assert changed["memory"][1] == shown["memory"]
        assert changed["processes"]["gone"] == changed["processes"]["new"] == changed["mounts"]["gone"] == []


@USERS
@pytest.mark.parametrize(
    ("suffix", "compress", "options"),
    [
        (".tar", [], ["--rootfs"]),
        (".tar.gz", [], []),
        (".tar", ["zstd"], []),
        (".tar", ["zstd", "pays"], []),
        (".tar", ["lz4", "pays"], []),
    ],
)
def test_what_was_imported_runs(site: Site, user: str, suffix: str, compress: list[str], options: list[str]) -> None:
    with running(site, user) as life:
        seen = life.look()
        keep(life, compress=compress)
        shown = json.loads(ckpt(life, "show", "--json", f"{life.images}/1").stdout)
        assert shown["compressed"] == compress[:1]
        archive = f"{life.bundle}/moved{suffix}"
        exported = json.loads(ckpt(life, "export", "--json", *options, f"{life.images}/1", archive).stdout)
        assert (exported["checkpoint"], exported["archive"]) == (f"{life.images}/1", archive)
        site.exec(["rm", "-r", life.images], user)
        assert ckpt(life, "import", archive, life.images).stdout == f"{life.images}/1\n"
        life.restore()
        assert life.look()["process"]["pid"] == seen["process"]["pid"]
        assert life.end() == 0


def flip(path: Path) -> None:
    with path.open("r+b") as stream:
        stream.seek(path.stat().st_size // 2)
        byte = stream.read(1)[0]
        stream.seek(-1, os.SEEK_CUR)
        stream.write(bytes([byte ^ 1]))


def truncate(path: Path) -> None:
    os.truncate(path, path.stat().st_size - 1)


def outdate(path: Path) -> None:
    path.write_text(path.read_text().replace('"version": 1', '"version": 3'))


def give_away(path: Path) -> None:
    os.chown(path, 4711, 4711)


DAMAGES: list[tuple[str, Callable[[Path], None], str]] = [
    (PAGES, flip, f"{PAGES} is damaged: its checksum is not what it was"),
    (PAGES, truncate, f"{PAGES} has "),
    (PAGES, Path.unlink, f"{PAGES}: No such file or directory"),
    ("checkpoint/core-1.img", flip, "checkpoint/core-1.img is damaged"),
    ("checksums.json", truncate, "checksums.json is damaged"),
    ("spec.dump", flip, "spec.dump is damaged"),
    ("manifest.json", outdate, "manifest.json is of version 3"),
    ("manifest.json", truncate, "manifest.json cannot be read"),
    ("", give_away, "{} belongs to user 4711"),
]


def test_what_is_damaged_does_not_run(site: Site) -> None:
    with running(site, "root") as life:
        for _ in DAMAGES:
            keep(life, leave_running=True)
        life.end()
        for name, damage, said in reversed(DAMAGES):
            newest = json.loads(ckpt(life, "list", "--json", life.images).stdout)[-1]["path"]
            damage(Path(f"/proc/{site.cluster.node_pid(site.node)}/root{newest}", name))
            expected = said.format(newest)
            assert expected in ckpt(life, "verify", newest, check=False).stderr
            argv = life.argv("restore", "--image-path", life.images, "--bundle", life.bundle, life.name)
            done = site.exec(argv, check=False)
            assert done.returncode == 1
            assert expected in done.stderr
            assert site.exec(["pgrep", "-f", "/inside.py"], check=False).stdout == ""
            site.exec(["rm", "-r", newest])


@USERS
def test_a_full_disk(site: Site, user: str) -> None:
    with running(site, user) as life:
        site.exec(["mkdir", life.images], user)
        options = f"size=40m,mode=700,uid={IDS[user]}"
        site.exec(["mount", "-n", "-t", "tmpfs", "-o", options, "small", life.images])
        try:
            keep(life, leave_running=True)
            free = int(site.exec(["stat", "-fc", "%a", life.images]).stdout) * 4096
            site.exec(["fallocate", "-l", str(free - (1 << 20)), f"{life.images}/filled"], user)
            failed = keep(life, leave_running=True, check=False)
            assert failed.returncode == 1
            assert "full" in failed.stderr or "No space left" in failed.stderr
            assert site.exec(["ls", "-A", life.images], user).stdout.split() == ["1", "filled"]
            assert ckpt(life, "verify", f"{life.images}/1").stdout == f"{life.images}/1: ok\n"
            assert life.look()
            site.exec(["rm", f"{life.images}/filled"], user)
            keep(life, leave_running=True)
        finally:
            # The worker that was lent capabilities may be on its way out.
            wait_for(lambda: not site.exec(["umount", "-n", life.images], check=False).returncode, 10, "umount")


def events(job: Job, word: str) -> list[str]:
    return [event for event in job.events() if event.startswith(word)]


def displace(job: Job) -> str:
    """Preempt the job, and wait until it has a checkpoint and is queued; the other job's number."""
    before = len(events(job, "checkpointed"))
    high = job.displace()
    wait_for(lambda: len(events(job, "checkpointed")) > before, 60, "a checkpoint")
    wait_for(lambda: job.state() == "PENDING", 60, "it to be requeued")
    return high


def go_on(job: Job, high: str) -> None:
    before = len(events(job, "restored"))
    job.cluster.exec("ctl", ["scancel", high])
    wait_for(lambda: len(events(job, "restored")) > before, 90, "the restore")


def status(job: Job, *words: str) -> str:
    words = (SHIM, "job", "status", f"--checkpoint-dir={jobs.CHECKPOINTS}", *words, job.number)
    return job.cluster.exec("n1", words).stdout


def request(job: Job) -> None:
    job.cluster.exec("n1", [SHIM, "job", "checkpoint", "--here", job.number])


def look_at(job: Job, path: str) -> None:
    """What `ckpt show` knows of a job's checkpoint."""
    shown = json.loads(job.cluster.exec("n1", [SHIM, "ckpt", "show", "--json", path]).stdout)
    assert (shown["job"], shown["step"], shown["task"], shown["reason"]) == (int(job.number), "batch", 0, "request")
    processes = [(process["pid"], process["ppid"], process["command"]) for process in shown["processes"]]
    assert processes == [(1, 0, "python3"), (2, 1, "sleep")]
    assert shown["memory"] == sum(process["memory"] for process in shown["processes"]) > 1 << 20
    assert {(file["pid"], file["fd"]) for file in shown["files"] if file["kind"] == "PIPE"} >= {(1, 1), (2, 1)}
    (listening,) = [one for one in shown["sockets"] if one["kind"] == "INETSK"]
    assert listening["pid"] == 1 and re.fullmatch(r"tcp 127\.0\.0\.1:\d+ listening", listening["name"])
    assert {"/", "/proc", "/shared"} <= {mount["mountpoint"] for mount in shown["mounts"]}
    table = job.cluster.exec("n1", [SHIM, "ckpt", "show", path]).stdout
    assert re.search(rf"(?m)^job +{job.number}, step batch, task 0$", table)
    assert re.search(r"(?m)^  1 +0 .* python3\n  2 +1 .*B +\\_ sleep$", table), table


def test_the_next_older_one_is_taken(cluster: Cluster, bundle: str) -> None:
    """Down to the first of all; what is known of the others stays when they are gone."""
    damages = DAMAGES[:-1]  # of the job's own
    (cluster.shared / "waiting.py").write_text(WAITING)
    script = "exec python3 /shared/waiting.py /shared/enough"
    options = (f"--container={bundle}", f"--checkpoint-keep={len(damages) + 1}", *jobs.OPTIONS)
    job = jobs.submit(cluster, "ladder", script, Work(), *options)
    path, place = f"{jobs.CHECKPOINTS}/{job.number}/batch.0", job.checkpoints()
    with quoting(job):
        job.wait_running()
        wait_for(lambda: "listening" in job.output(), 30, "its socket")
        for _ in damages:
            request(job)
        look_at(job, f"{path}/1")
        high = displace(job)
        cluster.exec("n1", [SHIM, "ckpt", "prune", "--older-than=0s", jobs.CHECKPOINTS])
        refused = cluster.exec("n1", [SHIM, "ckpt", "rm", f"{path}/2"], check=False)
        assert (refused.returncode, f"Slurm still knows job {job.number}" in refused.stderr) == (1, True)
        for seq, (name, damage, _) in enumerate(damages, 2):
            damage(place / str(seq) / name)
        go_on(job, high)
        assert f" from {path}/1 on n1" in events(job, "restored")[-1]
        (task,) = json.loads(status(job, "--json"))["tasks"]
        refusals = reversed(list(zip(events(job, "error"), task["problems"], strict=True)))
        for seq, (name, _, said), (event, problem) in zip(range(2, 10), damages, refusals, strict=True):
            assert event.startswith(f"error: job {job.number} step batch task 0: {path}/{seq}/{name}")
            assert f"{said}" in event and said in problem["reason"]
            assert said in (place / f"{seq}/restore.log").read_text()
        log = task["problems"][-1]["log"]
        assert events(job, "error")[-1].endswith(f" (see {log})")
        wait_for(lambda: job.record()["comment"].startswith("oci-criu-shim: restored from 1: 9: "), 30, "the comment")
        request(job)
        assert {name for name in os.listdir(place) if name.isdecimal()} == {"1", "9", "10"}
        (cluster.shared / "enough").touch()
        assert job.wait_end() == "COMPLETED"
        wait_for(lambda: not place.exists(), 20, "its checkpoints to be removed")
        assert log == f"{jobs.CHECKPOINTS}/history/{job.number}/batch.0.1.restore-2.log"
        assert f"{PAGES} is damaged" in cluster.exec("n1", ["head", "-n1", log]).stdout
        assert f" (see {log})\n" in status(job)


def test_somebody_elses(cluster: Cluster, bundle: str) -> None:
    """alice's job can't begin with a checkpoint of bob's, even if bob has opened its directory to all."""
    make_bundle(cluster.home / "bob/bundle", 1001, 1001)
    cluster.exec("n1", ["mkdir", "ckpt"], "bob")
    argv = ["sbatch", "--parsable", "-p", "low", "--container=/home/bob/bundle", "--checkpoint"]
    number = cluster.exec("ctl", [*argv, "--checkpoint-dir=/home/bob/ckpt", "--wrap", "sleep 60"], "bob").stdout.strip()
    request = [SHIM, "job", "checkpoint", "--here", number]
    wait_for(lambda: not cluster.exec("n1", request, "bob", check=False).returncode, 30, "a checkpoint of bob's")
    cluster.exec("ctl", ["scancel", number], "bob")
    path = f"/home/bob/ckpt/{number}/batch.0"
    for mode, said in (("700", f"{path}: Permission denied"), ("755", f"{path}/1 belongs to user bob")):
        cluster.exec("n1", ["chmod", "-R", mode, "/home/bob/ckpt"], "bob")
        cluster.exec("n1", ["chmod", mode, "/home/bob"], "bob")
        job = jobs.batch(cluster, bundle, "others", Work(ticks=1), f"--restart-dir={path}", *jobs.OPTIONS)
        assert job.wait_end() == "FAILED", job.quoted()
        assert f"{said} (hint: a checkpoint is for its owner alone)" in job.output()
        assert job.ticks() == 0


GROWING = """exec sh -c '{command} & until [ -e /shared/grow ]; do sleep 0.1; done
exec python3 /shared/ledger.py /shared/grown 200 0.5 48'"""


def test_quota(cluster: Cluster, bundle: str) -> None:
    """The task's older checkpoint makes room; one that is too large by itself leaves what is there."""
    for name in ("grow", "grown"):
        (cluster.shared / name).unlink(missing_ok=True)
    with jobs.settings(cluster, 'quota = "40M"\n'):
        job = jobs.submit(cluster, "quota", GROWING, Work(ticks=200), f"--container={bundle}", *jobs.OPTIONS)
        job.wait_running()
        job.wait_ticks(2)
    request(job)
    assert sequence(job) == ["1"]
    request(job)
    assert sequence(job) == ["2"], "both are more than 40 MiB"
    (cluster.shared / "grow").touch()
    wait_for((cluster.shared / "grown").exists, 30, "it to grow")
    high = job.displace()
    said = f"error: job {job.number} step batch task 0 could not be checkpointed and runs on: a checkpoint of "
    wait_for(lambda: events(job, said), 30, "the refusal")
    assert "is more than the quota of 40.0 MiB" in events(job, said)[0]
    job.wait_ticks(job.ticks() + 2)
    assert sequence(job) == ["2"]
    second = f"{jobs.CHECKPOINTS}/{job.number}/batch.0/2"
    assert cluster.exec("n1", [SHIM, "ckpt", "verify", second]).stdout == f"{second}: ok\n"
    cluster.exec("ctl", ["scancel", high, job.number])


def sequence(job: Job) -> list[str]:
    """The numbers of its checkpoints; nothing else is there but what is noted at the start."""
    return sorted(path.name for path in job.checkpoints().iterdir() if not path.name.startswith(("started", "rootfs.")))


SMALL = "/home/alice/small"


@pytest.fixture
def small(cluster: Cluster) -> Iterator[Callable[[], None]]:
    """A file system of its own at SMALL; what fills it up to a few KiB."""
    cluster.exec("n1", ["mkdir", SMALL])
    options = f"size=40m,mode=700,uid={IDS['alice']}"
    cluster.exec("n1", ["mount", "-n", "-t", "tmpfs", "-o", options, "small", SMALL], "root")

    def fill() -> None:
        free = int(cluster.exec("n1", ["stat", "-fc", "%a", SMALL]).stdout) * 4096
        cluster.exec("n1", ["fallocate", "-l", str(free - (64 << 10)), f"{SMALL}/filled"])

    yield fill
    umount = ["umount", "-n", SMALL]
    wait_for(lambda: not cluster.exec("n1", umount, "root", check=False).returncode, 30, "umount")


def test_a_full_disk_in_the_grace_time(cluster: Cluster, bundle: str, small: Callable[[], None]) -> None:
    """The job goes on from the checkpoint that there is."""
    options = ("--checkpoint", f"--checkpoint-dir={SMALL}", "--open-mode=append")
    job = jobs.batch(cluster, bundle, "full", Work(ticks=200, tick=0.3, mode="append"), *options)
    job.wait_running()
    job.wait_ticks(2)
    request(job)
    small()
    high = job.displace()
    said = f"error: job {job.number} step batch task 0 could not be checkpointed and runs on: "
    wait_for(lambda: events(job, said), 30, "the dump to fail")
    assert f"{said}{SMALL}: the disk is full (" in events(job, said)[0]
    job.wait_ticks(job.ticks() + 2)
    wait_for(lambda: job.record()["restart_cnt"] == 1, 60, "its requeue")
    go_on(job, high)
    assert events(job, "restored")[0].endswith(f" from {SMALL}/{job.number}/batch.0/1 on n1")
    job.wait_ticks(job.ticks() + 2)
    cluster.exec("ctl", ["scancel", job.number])
    job.wait_end()
    assert ledger_failures(job.ledger(), "end sum-ok", job.ticks(), job.work.tick) == [], job.quoted()


def test_prune_of_ended_jobs(site: Site) -> None:
    """Slurm has never known of job 4294."""
    with running(site, "alice") as life:
        keep(life)
        task = f"{home('alice')}/pruned/4294/0.0"
        site.exec(["mkdir", "-p", task], "alice")
        site.exec(["mv", f"{life.images}/1", f"{task}/1"], "alice")
        now = ("--older-than=0s",)
        planned = json.loads(ckpt(life, "prune", *now, "--dry-run", "--json", f"{home('alice')}/pruned").stdout)
        assert [row["path"] for row in planned["removed"]] == [f"{task}/1"]
        ckpt(life, "prune", *now, "--keep=1", f"{home('alice')}/pruned")
        assert f"{task}/1: ok" in ckpt(life, "verify", f"{task}/1").stdout
        ckpt(life, "prune", *now, f"{home('alice')}/pruned")
        assert site.exec(["ls", f"{home('alice')}/pruned"], "alice").stdout == ""
