"""Every oci.conf that is installed: Slurm takes it, and containers behave as by plain crun, on to their preemption."""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Callable, Iterator
from itertools import groupby

import pytest

from tests import NAME
from tests.harness import jobs, leftovers
from tests.harness.cluster import Cluster, wait_for
from tests.harness.cluster.settings import REPOSITORY
from tests.harness.cluster.suite import SUITE
from tests.harness.jobs import Job, Work

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="namespaces of a cluster need root")

FILES = {path.stem: path for path in (REPOSITORY / "etc/oci.conf.d").glob("*.conf")}
Submit = Callable[..., Job]
MULTI = "multi-runtime"
PROGRAMS = "/usr/local/bin"
# Not to be had here: a program of runc's command line that says that it was called.
NVIDIA = '#!/bin/sh\necho "$*" >>/shared/nvidia.log\nexec runc "$@"\n'
# Apptainer mounts a SIF by FUSE, which a node has for all its users.
FUSE = "umount /dev/fuse && rm /dev/fuse && mknod -m 666 /dev/fuse c 10 229"
# Enroot is not there either: this says how it was called.
SAYING = '#!/bin/sh\necho "${0##*/} $*"\n'

# What a job does to see all of a task: its streams, exit status, and two of them on a node.
LOOK = """
srun -n1 --input=/shared/input {options} sh -c 'cat; echo err >&2; exit 7'; echo status $?
srun -n2 {options} sh -c 'echo task $SLURM_PROCID of $SLURM_NTASKS' | sort
srun -n1 {options} no-such-command; echo status $?
"""
BATCH = 'echo out; echo err >&2; echo "$(cat | wc -c) of input"; echo job $SLURM_JOB_ID; exit 5'
TRAP = "trap 'echo asked to end; exit 3' TERM; echo ready; while :; do sleep 0.1; done"
TRAPS = {True: f"srun --container={{bundle}} sh -c {shlex.quote(TRAP)}; echo status $?", False: TRAP}  # by: in a step
# Commands of an oci.conf that say how they ended: which it was, of which task, as whom, and the exit status.
CALL = re.compile(r'^RunTime(Create|Start|Query|Kill|Delete)="(.*)"$', re.MULTILINE)
NOTED = r'RunTime\1="( \2 ); s=$?; echo \1 %t $(id -u) $s >>/shared/calls; exit $s"'


@pytest.fixture(scope="module")
def oci_cluster() -> Iterator[Cluster]:
    """Two nodes with the project installed, whose oci.conf each test chooses."""
    with Cluster(f"{NAME}-oci-conf", grace_time=20, kill_wait=3) as running:
        for log in ("nvidia.log", "calls"):
            (running.shared / log).touch()
            (running.shared / log).chmod(0o666)
        for node in running.compute_nodes():
            install(running, node, f"{PROGRAMS}/nvidia-container-runtime", NVIDIA)
            install(running, node, f"{PROGRAMS}/enroot", SAYING)
            running.exec(node, ["sh", "-c", FUSE], "root")
        yield running


@pytest.fixture(scope="module")
def bundle(oci_cluster: Cluster) -> str:
    path = jobs.prepare_mapped(oci_cluster)
    (oci_cluster.shared / "input").write_text("input 1\ninput 2\n")
    return path


@pytest.fixture(scope="module")
def plain(plain_cluster: Cluster, plain_bundle: str) -> list[str]:
    """What a job sees of its tasks by plain crun, in the form that Slurm's guide recommends."""
    (plain_cluster.shared / "input").write_text("input 1\ninput 2\n")
    return look(plain_cluster, f"--container={plain_bundle}")


@pytest.fixture(scope="module")
def plain_ends(plain_cluster: Cluster, plain_bundle: str) -> dict[bool, list[str]]:
    """What becomes of a cancelled job, and of a cancelled step, by plain crun."""
    return {in_step: cancelled(plain_cluster, plain_bundle, in_step) for in_step in TRAPS}


def install(cluster: Cluster, node: str, path: str, text: str) -> None:
    cluster.exec(node, ["sh", "-c", f"cat >{path}; chmod 755 {path}"], "root", input=text)


def choose(cluster: Cluster, name: str) -> None:
    """Make one of the files the cluster's; slurmstepd reads it for each step."""
    (cluster.conf / "oci.conf").write_text(FILES[name].read_text())


def look(cluster: Cluster, *options: str) -> list[str]:
    """All that a job's owner sees of LOOK, and on which stream."""
    argv = ["salloc", "-Q", "-n2", "-N1", "-w", "n1", "sh", "-c", LOOK.format(options=" ".join(options))]
    done = cluster.exec("ctl", argv)
    return [f"out: {line}" for line in theirs(done.stdout)] + [f"err: {line}" for line in theirs(done.stderr)]


def said(cluster: Cluster, argv: list[str]) -> str:
    """Its output and errors."""
    done = cluster.exec("ctl", ["sh", "-c", f"{shlex.join(argv)} 2>&1; echo status $?"], check=False)
    return "\n".join(theirs(done.stdout))


def theirs(text: str) -> list[str]:
    """A program's lines, sorted, without Slurm's, times of day, and words about subids."""
    lines = [re.sub(r"^\S+Z: ", "", line) for line in text.splitlines()]
    # Each runtime has its own words for a program that is not there; runc warns where there is no memory group and,
    # by 1.3, of capabilities that a user can't hand on.
    noise = ("no-such-command", "oom kill count", "can't raise ambient capability")
    wanted = (line for line in lines if line and not jobs.NOT_ITS_OWN.match(line))
    return sorted(line for line in wanted if not any(word in line for word in noise))


def cancelled(cluster: Cluster, bundle: str, in_step: bool, *options: str) -> list[str]:
    """What becomes of a job whose container, or whose step, is cancelled: its state, exit status and output."""
    options = options if in_step else (f"--container={bundle}", *options)
    script = TRAPS[in_step].format(bundle=bundle)
    job = jobs.submit(cluster, "cancelled", script, Work(), *options)
    wait_for(lambda: "ready" in job.output(), 30, "the container to run")
    cluster.exec("ctl", ["scancel", f"{job.number}.0"] if in_step else ["scancel", "--full", job.number])
    wait_for(lambda: job.state() in jobs.ENDED, 30, "its end")
    return [job.state(), str(job.record()["exit_code"]), *theirs(job.output())]


@pytest.mark.parametrize("name", sorted(FILES))
@pytest.mark.parametrize("options", [jobs.OPTIONS[:2], ()], ids=["asked", "not-asked"])
def test_tasks_are_as_with_plain_crun(
    oci_cluster: Cluster, bundle: str, plain: list[str], name: str, options: tuple[str, ...]
) -> None:
    choose(oci_cluster, name)
    assert look(oci_cluster, f"--container={bundle}", *options) == plain


@pytest.mark.parametrize("name", sorted(FILES))
def test_batch_step(oci_cluster: Cluster, bundle: str, name: str) -> None:
    """Slurm asks for the state while it runs, where it created it; when all is over, as root and of task -1."""
    (oci_cluster.conf / "oci.conf").write_text(CALL.sub(NOTED, FILES[name].read_text()))
    calls = oci_cluster.shared / "calls"
    calls.write_text("")
    options = (f"--container={bundle}", "--error=/home/alice/%j.err", *jobs.OPTIONS)
    job = jobs.submit(oci_cluster, "batch", BATCH, Work(ticks=1, tick=0), *options)
    wait_for(lambda: job.state() in jobs.ENDED, 30, "its end")
    record = job.record()
    assert (job.state(), record["exit_code"]["return_code"]["number"]) == ("FAILED", 5)
    assert theirs(job.output()) == sorted(["out", "0 of input", f"job {job.number}"])
    assert theirs((oci_cluster.home / f"alice/{job.number}.err").read_text()) == ["err"]
    if name != MULTI:
        wait_for(lambda: calls.read_text().endswith("Query -1 0 0\n"), 10, "Slurm's last question")
        verbs = ("Create", "Query", "Start", "Query", "Delete") if "create" in name else ()
        users = [f"{verb} 0 1000 0" for verb in verbs]
        assert [call for call, _ in groupby(calls.read_text().splitlines())] == [*users, "Query -1 0 0"]
    else:
        leftovers.wait_idle(oci_cluster)
        assert calls.read_text() == ""


@pytest.mark.parametrize(
    ("name", "in_step"), [*((name, False) for name in sorted(FILES)), ("oci-criu-shim", True), ("crun-create", True)]
)
def test_cancelled(
    oci_cluster: Cluster, bundle: str, plain_ends: dict[bool, list[str]], name: str, in_step: bool
) -> None:
    """The container of a batch step is asked to end, by scancel's SIGTERM."""
    choose(oci_cluster, name)
    assert cancelled(oci_cluster, bundle, in_step, *jobs.OPTIONS) == plain_ends[in_step]
    assert ("asked to end" in plain_ends[in_step]) != in_step


@pytest.mark.parametrize(
    ("name", "kind"),
    [("crun-create", jobs.step), ("runc-run", jobs.step), ("runc-create", jobs.batch), (MULTI, jobs.batch)],
    ids=["crun-create-step", "runc-run-step", "runc-create-batch", "multi-runtime-batch"],
)
def test_preempted(oci_cluster: Cluster, bundle: str, name: str, kind: Submit) -> None:
    choose(oci_cluster, name)
    job = kind(oci_cluster, bundle, f"preempted-{name}", Work(mib=1), *jobs.OPTIONS)
    jobs.preempt_once(job)


def test_nvidia_is_called(oci_cluster: Cluster, bundle: str) -> None:
    log = oci_cluster.shared / "nvidia.log"
    for name, verbs in (("nvidia-run", {"run"}), ("nvidia-create", {"create", "start", "delete"})):
        choose(oci_cluster, name)
        log.write_text("")
        assert said(oci_cluster, ["srun", "-n1", f"--container={bundle}", "echo", "out"]).splitlines()[0] == "out"
        calls = log.read_text().splitlines()
        assert verbs <= {word for line in calls for word in line.split()}


@pytest.fixture(scope="module")
def sif(oci_cluster: Cluster, bundle: str) -> str:
    """The root file system as Apptainer's image."""
    quick = "--mksquashfs-args=-noI -noD -noF -noX"
    oci_cluster.exec("n1", ["apptainer", "build", quick, "/shared/image.sif", f"{bundle}/rootfs"], "root")
    return "/shared/image.sif"


@pytest.mark.parametrize("runtime", ["charliecloud", "apptainer", "apptainer-directory"])
def test_other_runtime(oci_cluster: Cluster, bundle: str, sif: str, plain: list[str], runtime: str) -> None:
    """A SIF, and a directory with a root file system, are run by the real Apptainer and Charliecloud."""
    choose(oci_cluster, MULTI)
    image = sif if runtime == "apptainer" else f"{bundle}/rootfs"
    options = [f"--container={image}"]
    if runtime == "apptainer-directory":
        options.append("--export=ALL,SLURM_OCI_RUNTIME=singularity")
    found = look(oci_cluster, *options)
    status = SUITE.not_found[runtime.partition("-")[0]]
    assert [re.sub(rf"status {status}$", "status 1", line) for line in found] == plain
    job = jobs.submit(oci_cluster, runtime, BATCH, Work(ticks=1, tick=0), *options)
    wait_for(lambda: job.state() in jobs.ENDED, 30, "its end")
    assert job.record()["exit_code"]["return_code"]["number"] == 5
    assert {"out", "err", f"job {job.number}"} <= set(job.output().splitlines())


def test_runtime_of_choice(oci_cluster: Cluster, bundle: str) -> None:
    """By what the image is, by partition, by the job's environment, and by a script of the user's, in this order."""
    choose(oci_cluster, MULTI)
    for name in ("image.sif", "image.sqsh"):
        oci_cluster.exec("ctl", ["touch", name])

    def runs(image: str, *options: str, runtime: str = "") -> str:
        chosen = ["env", f"SLURM_OCI_RUNTIME={runtime}"] if runtime else []
        return said(oci_cluster, [*chosen, "srun", "-n1", *options, f"--container=/home/alice/{image}", "echo", "out"])

    assert runs("bundle").splitlines()[0] == "out"
    assert "/home/alice/image.sif: image format not recognized" in runs("image.sif")  # by Apptainer
    assert re.search(r"^enroot start .*/image\.sqsh /usr/bin/echo out$", runs("image.sqsh"), re.MULTILINE)
    assert "slurm-oci: no runtime here knows what /home/alice/nothing is" in runs("nothing")

    partition = "cd /etc/oci-criu-shim/slurm-oci && mkdir partition && ln -s ../singularity partition/high"
    for node in oci_cluster.compute_nodes():
        oci_cluster.exec(node, ["sh", "-c", partition], "root")
    assert "FATAL: " in runs("bundle", "-p", "high")  # for Apptainer has no use for bundles, neither
    assert "ch-run" in runs("bundle", "-p", "high", runtime="charliecloud")  # as little
    assert "there is no runtime podman in" in runs("bundle", runtime="podman")

    install(oci_cluster, "n1", "/home/alice/.slurm-oci-run", SAYING)
    try:
        assert f".slurm-oci-run {'/home/alice/bundle'} " in runs("bundle", runtime="charliecloud")
    finally:
        oci_cluster.exec("ctl", ["rm", ".slurm-oci-run"])
