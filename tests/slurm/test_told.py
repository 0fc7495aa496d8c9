"""What a user is told in time: at submission, at a job's start, at its end, and on a node that can't go on with it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tests import NAME
from tests.harness import jobs
from tests.harness.cluster import Cluster, wait_for
from tests.harness.jobs import Job, Work, quoting

WORK = Work()
STAYS = "trap 'exit 3' TERM; while :; do sleep 0.2; done"
PLUGSTACK = "plugstack.conf"
NOT_HERE = "is outside of a container, which this site does not checkpoint (bare-jobs)"


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    with Cluster(f"{NAME}-told", grace_time=30, kill_wait=3, requeue_delay=120) as running:
        yield running


@pytest.fixture(scope="module")
def bundle(cluster: Cluster) -> str:
    return jobs.prepare(cluster)


def ended(cluster: Cluster, script: str, *options: str) -> list[str]:
    """What the output of a job has, of lines of ours, when the job has ended."""
    job = jobs.submit(cluster, "told", script, WORK, *options)
    job.wait_end()
    return job.events()


def staying(cluster: Cluster, bundle: str, name: str, *options: str) -> Job:
    """A job on n1 that runs until it is told to end."""
    return jobs.submit(cluster, name, STAYS, WORK, f"--container={bundle}", *jobs.OPTIONS, "-w", "n1", *options)


def cancel(job: Job) -> None:
    job.cluster.exec("ctl", ["scancel", job.number])
    job.wait_end()


def wait_event(job: Job, words: str) -> str:
    """Return the first line that has the words, once there is one."""
    found = wait_for(lambda: [line for line in job.events() if words in line], 60, words)
    return str(found[0]) if found else ""


def test_what_runs_outside_of_a_container(cluster: Cluster, bundle: str) -> None:
    """Where the site does not checkpoint that."""
    with jobs.settings(cluster, 'bare-jobs = "none"\n'):
        (said,) = ended(cluster, "srun hostname", *jobs.OPTIONS)
        assert NOT_HERE in said and "step 0" in said
        (said,) = ended(cluster, "hostname", *jobs.OPTIONS)
        assert NOT_HERE in said and "step batch" in said
        assert ended(cluster, "srun hostname") == []
        assert ended(cluster, f"srun --container={bundle} true", *jobs.OPTIONS) == []
        assert ended(cluster, "true", *jobs.OPTIONS, f"--container={bundle}") == []


def test_nothing_of_slurms_own(cluster: Cluster, bundle: str) -> None:
    """That there is no container any more is no error."""
    job = jobs.submit(cluster, "quiet", "exec true", WORK, f"--container={bundle}")
    job.wait_end()
    assert "RunTimeQuery" not in job.output()
    assert "RunTimeQuery" not in cluster.logs("n1") + cluster.logs("n2")


def test_the_default_directory_is_in_the_users_home(cluster: Cluster, bundle: str) -> None:
    """Whatever slurmd's HOME is."""
    path = "/home/alice/.local/state/oci-criu-shim"
    cluster.exec("n1", ["rm", "-rf", path])
    script = f"srun --checkpoint --container={bundle} true; ls -d {path}"
    job = jobs.submit(cluster, "default", script, WORK, "--checkpoint")
    assert job.wait_end() == "COMPLETED", job.quoted()


def test_no_oci_conf(cluster: Cluster, bundle: str) -> None:
    path = cluster.conf / "oci.conf"
    text = path.read_text()
    path.unlink()
    try:
        (said,) = ended(cluster, "true", *jobs.OPTIONS, f"--container={bundle}")
        assert said.startswith("there is no oci.conf on this node")
        done = cluster.exec("ctl", ["srun", *jobs.OPTIONS[:2], f"--container={bundle}", "true"], check=False)
        assert "oci-criu-shim: there is no oci.conf on this node" in done.stderr
    finally:
        path.write_text(text)


def test_at_submission(cluster: Cluster) -> None:
    submit = ["sbatch", "--test-only", "--wrap", "true", "--checkpoint", "--checkpoint-dir"]
    done = cluster.exec("ctl", [*submit, "/none/of/these"])
    assert "oci-criu-shim: --checkpoint-dir=/none/of/these: No such file or directory, and you can't" in done.stderr
    done = cluster.exec("ctl", [*submit, "here", "--restart-dir=4294"])
    assert "oci-criu-shim: --checkpoint-dir is not an absolute path: it means /home/alice/here\n" in done.stderr
    done = cluster.exec("ctl", [*submit, jobs.CHECKPOINTS, "--restart-dir=4294"])
    assert f"--restart-dir=4294: there is no such checkpoint in {jobs.CHECKPOINTS} on this host\n" in done.stderr
    done = cluster.exec("ctl", [*submit, jobs.CHECKPOINTS])
    assert "oci-criu-shim" not in done.stderr
    for wrong in ("--restart-dir=8:x", "--checkpoint=preempt,timeuot"):
        assert cluster.exec("ctl", [*submit, jobs.CHECKPOINTS, wrong], check=False).returncode


@contextmanager
def plugstack(cluster: Cluster, text: str) -> Iterator[None]:
    path = cluster.conf / PLUGSTACK
    before = path.read_text()
    path.write_text(text)
    try:
        yield
    finally:
        path.write_text(before)


def test_two_lines_in_plugstack_conf(cluster: Cluster, bundle: str) -> None:
    """As from `cat … >>/etc/slurm/plugstack.conf` on each node, if they share it."""
    with plugstack(cluster, 2 * (cluster.conf / PLUGSTACK).read_text()):
        done = cluster.exec("ctl", ["sbatch", "--test-only", "--wrap", "true", *jobs.OPTIONS])
        assert "provided by both" not in done.stderr
        job = jobs.batch(cluster, bundle, "twice", Work(), *jobs.OPTIONS)
        with quoting(job):
            job.wait_running()
            job.wait_ticks(2)
            done = cluster.exec("ctl", ["oci-criu-shim", "job", "checkpoint", job.number])
            assert "could not" not in done.stdout + done.stderr
            job.preempt()
            assert job.wait_end() == "COMPLETED"
            assert not job.failures()


def test_before_slurmd_has_loaded_the_plugin(cluster: Cluster, bundle: str) -> None:
    with plugstack(cluster, ""):
        cluster.reconfigure()
    try:
        for options in (jobs.OPTIONS[:2], ()):
            done = cluster.exec("ctl", ["srun", *options, f"--container={bundle}", "true"], check=False)
            assert done.returncode and "had not loaded the plugin when job" in done.stderr, done.stderr
            assert "`scontrol reconfigure`" in done.stderr
    finally:
        cluster.reconfigure()
    cluster.exec("ctl", ["srun", *jobs.OPTIONS[:2], f"--container={bundle}", "true"])


def test_at_the_start(cluster: Cluster, bundle: str) -> None:
    job = staying(cluster, bundle, "start", "--no-requeue")
    with quoting(job):
        job.wait_running()
        wait_event(job, f"job {job.number} will not be requeued if it is preempted (--no-requeue): ")
        assert len(job.events()) == 1
    cancel(job)


def test_a_node_that_can_checkpoint_nothing(cluster: Cluster, bundle: str) -> None:
    cluster.exec("n1", ["mv", "/usr/sbin/criu", "/usr/sbin/criu.away"], "root")
    try:
        job = staying(cluster, bundle, "nothing")
        with quoting(job):
            job.wait_running()
            assert wait_event(job, "error: n1 can't checkpoint job").endswith("(hint: install CRIU 4.2 or newer)")
        cancel(job)
    finally:
        cluster.exec("n1", ["mv", "/usr/sbin/criu.away", "/usr/sbin/criu"], "root")


def test_by_its_time_limit(cluster: Cluster, bundle: str) -> None:
    job = staying(cluster, bundle, "limit", "--time=1")
    with quoting(job):
        assert job.wait_end(180) == "TIMEOUT"
        wait_event(job, f"job {job.number} ends by its time limit: with `timeout` in --checkpoint it would have been")


OWN = "/tmp/own"


def test_a_directory_of_the_nodes_own(cluster: Cluster, bundle: str) -> None:
    """Another node finds that the checkpoints are not there, and the job goes back."""
    options = ("--checkpoint", f"--checkpoint-dir={OWN}", "--open-mode=append")
    job = jobs.batch(cluster, bundle, "own", Work(), *options)
    with quoting(job):
        node = job.wait_running()
        wait_event(job, f"{OWN} is on overlay, {node}'s own: job {job.number} can go on on no other node (hint: ")
        high = job.displace()
        wait_event(job, f"{OWN} has nothing of job {job.number} on ")
        wait_event(job, f"requeueing job {job.number}, to go on on {node}, once it is free")
        wait_for(lambda: job.state() == "PENDING", 60, "it to wait")
        cluster.exec("ctl", ["scancel", high])
        wait_event(job, f"restored job {job.number} step batch task 0 from {OWN}/")
        assert job.wait_end() == "COMPLETED"
    cluster.exec(node, ["rm", "-r", OWN])
