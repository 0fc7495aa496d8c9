"""A job's number is enough for all that its user asks for, on whichever host, wherever its checkpoints are."""

from __future__ import annotations

import json
import shlex
import subprocess

from tests.harness import jobs
from tests.harness.cluster import Cluster, wait_for
from tests.harness.cluster.suite import SUITE
from tests.harness.jobs import Job, Work, quoting
from tests.slurm.test_preemption import judge
from tests.slurm.test_terminal import session

Done = subprocess.CompletedProcess[str]
NOTES = "/home/alice/.local/state/oci-criu-shim/.jobs"


def shim(cluster: Cluster, *words: str, user: str = "alice", check: bool = True, input: str | None = None) -> Done:
    return cluster.exec("ctl", ["oci-criu-shim", *words], user, check=check, input=input)


def in_it(cluster: Cluster, job: Job, text: str, *options: str, check: bool = True, input: str | None = None) -> Done:
    """Have a shell in the job's container run `text`."""
    return shim(cluster, "job", "exec", *options, job.number, "--", "sh", "-c", text, check=check, input=input)


def test_of_a_job_with_a_directory_of_its_own(shim_cluster: Cluster, shim_bundle: str) -> None:
    cluster = shim_cluster
    job = jobs.batch(cluster, shim_bundle, "number", Work(ticks=60), *jobs.OPTIONS)
    path = f"{jobs.CHECKPOINTS}/{job.number}/batch.0"
    with quoting(job):
        job.wait_running()
        job.wait_ticks(2)
        (taken,) = json.loads(shim(cluster, "job", "checkpoint", "--json", job.number).stdout)
        assert taken["checkpoint"]["path"] == f"{path}/1"
        assert f"job {job.number}" in shim(cluster, "job", "status", job.number).stdout
        assert job.number in shim(cluster, "job", "status").stdout
        assert [row["path"] for row in json.loads(shim(cluster, "ckpt", "list", "--json", job.number).stdout)] == [
            f"{path}/1"
        ]
        assert shim(cluster, "ckpt", "show", f"{job.number}:1").stdout.startswith(f"checkpoint  {path}/1\n")
        assert shim(cluster, "ckpt", "verify", job.number).stdout == f"{path}/1: ok\n"
        runs_in_it(cluster, job)
        for user, hint in (("bob", "only "), ("root", f"`runuser --pty -u alice -- oci-criu-shim {{}} {job.number}`")):
            for verb in ("job status", "job logs", "job checkpoint", "job exec", "ckpt list", "ckpt show", "ckpt rm"):
                done = shim(cluster, *verb.split(), job.number, user=user, check=False)
                assert done.returncode == 1 and not done.stdout
                assert f"job {job.number} belongs to user alice (hint: " in done.stderr
                assert hint.format(verb) in done.stderr
        preempt_while_there(cluster, job)
        assert in_it(cluster, job, "hostname; tr '\\0' ' ' </proc/1/cmdline").stdout.startswith(
            "crun\npython3 /shared/"
        )
        judge(job)
        wait_for(lambda: not job.checkpoints().exists(), 20, "its checkpoints to be removed")
        assert "completed" in shim(cluster, "job", "status", job.number).stdout
        assert shim(cluster, "ckpt", "list", job.number).stdout.startswith("no checkpoints in ")
        told = shim(cluster, "job", "logs", job.number).stdout.splitlines()
        assert told[0] == f"output: /home/alice/{job.number}.out"
        assert [line.removeprefix(f"  {jobs.MARK}") for line in told[1:]] == job.events()
    refused = shim(cluster, "job", "exec", job.number, check=False)
    assert refused.returncode == 1 and "does not run: it is COMPLETED" in refused.stderr
    cluster.exec("ctl", ["rm", "-r", NOTES])
    asked = shim(cluster, "job", "status", job.number, check=False)
    if SUITE.tells_submit_line:
        assert "completed" in asked.stdout
    else:
        assert f"job {job.number} has no history in /home/alice/" in asked.stderr
        assert "(hint: if it was submitted with --checkpoint-dir, give that here, too; " in asked.stderr


def runs_in_it(cluster: Cluster, job: Job) -> None:
    """Programs with our input, output and exit status, and a shell with a terminal."""
    assert in_it(cluster, job, "hostname; cat", input="typed\n").stdout == "crun\ntyped\n"
    done = in_it(cluster, job, "echo told >&2; exit 7", "--step=batch", "--task=0", check=False)
    assert (done.returncode, "told\n" in done.stderr) == (7, True)
    assert "no such container" in in_it(cluster, job, "true", "--step=0", check=False).stderr
    argv = ["env", "TERM=xterm", "oci-criu-shim", "job", "exec", job.number]
    with session(cluster, "ctl", argv) as shell:
        shell.until("[#$] ")
        shell.type("while ! stty size | grep '33 77'; do sleep 0.1; done; echo $TERM; exit 5\r")
        shell.resized(33, 77, r"33 77\r?\nxterm")
        assert shell.status() == 5


def preempt_while_there(cluster: Cluster, job: Job) -> None:
    """Whoever has a shell in it then is put out."""
    argv = cluster.argv("ctl", ["oci-criu-shim", "job", "exec", job.number, "sleep", "300"], "alice")
    with subprocess.Popen(argv, stdin=subprocess.DEVNULL) as there:
        wait_for(lambda: "sleep 300" in in_it(cluster, job, "ps ax").stdout, 30, "it to be there")
        job.preempt()
        assert there.wait(30)
    assert "sleep 300" not in in_it(cluster, job, "ps ax").stdout


def test_a_directory_that_only_slurm_knows(shim_cluster: Cluster, shim_bundle: str) -> None:
    """Where the home of a job's node is not that of the host on which its user asks."""
    cluster, work = shim_cluster, Work(ticks=60)
    script = f"#SBATCH --checkpoint-dir={jobs.CHECKPOINTS}\nexec srun --container={shim_bundle} {{command}}"
    job = jobs.submit(cluster, "script", script, work, "--checkpoint")
    with quoting(job):
        job.wait_running()
        job.wait_ticks(2)
        cluster.exec("ctl", ["rm", "-r", NOTES])
        assert f"job {job.number}" in shim(cluster, "job", "status", job.number).stdout
        assert "step 0, task 0" in shim(cluster, "job", "status", job.number).stdout
    cluster.exec("ctl", ["scancel", job.number])
    job.wait_end()


def test_without_checkpoints_and_on_two_nodes(shim_cluster: Cluster, shim_bundle: str) -> None:
    """Only the backends know of such containers."""
    cluster = shim_cluster
    script = f"srun --container={shim_bundle} {{command}}"
    job = jobs.submit(cluster, "plain", script, Work(ticks=60), "-N2", "-n3", "--ntasks-per-node=2")
    with quoting(job):
        wait_for(lambda: job.state() == "RUNNING", 60, "it to run")
        job.wait_ticks(6)
        several = in_it(cluster, job, "true", check=False)
        assert several.returncode == 1 and f"job {job.number} has 3 containers: step 0 task 0 on n1, " in several.stderr
        hint = several.stderr.partition("(hint: `oci-criu-shim ")[2].partition("`)")[0]
        assert shim(cluster, *shlex.split(hint), input="echo $SLURM_PROCID\n").stdout == "0\n"
        for task in ("1", "2"):
            assert in_it(cluster, job, "echo $SLURM_PROCID", f"--task={task}").stdout == f"{task}\n"
        assert in_it(cluster, job, "echo $SLURM_PROCID", "--node=n2").stdout == "2\n"
        none = shim(cluster, "job", "status", job.number, check=False)
        assert "without --checkpoint it has none" in none.stderr
        assert shim(cluster, "job", "logs", job.number).stdout == f"output: /home/alice/{job.number}.out\n"
    cluster.exec("ctl", ["scancel", job.number])
    job.wait_end()


def test_of_an_array(shim_cluster: Cluster, shim_bundle: str) -> None:
    """Its job has a number, and the array's with its own."""
    cluster = shim_cluster
    job = jobs.batch(cluster, shim_bundle, "array", Work(ticks=60), *jobs.OPTIONS, "--array=3")
    name = f"{job.number}_3"
    with quoting(job):
        job.wait_running()
        job.wait_ticks(2)
        assert name in shim(cluster, "job", "status", name).stdout.splitlines()[0]
        (taken,) = json.loads(shim(cluster, "job", "checkpoint", "--json", name).stdout)
        (listed,) = json.loads(shim(cluster, "ckpt", "list", "--json", name).stdout)
        assert listed["path"] == taken["checkpoint"]["path"] == f"{jobs.CHECKPOINTS}/{job.number}/batch.0/1"
        assert shim(cluster, "job", "exec", name, "hostname").stdout == "crun\n"
        assert shim(cluster, "job", "logs", name).stdout.startswith(f"output: /home/alice/{job.number}.out\n")
        assert shim(cluster, "ckpt", "rm", "--force", f"{name}:1").stdout == ""
        assert shim(cluster, "ckpt", "list", name).stdout.startswith("no checkpoints in ")
    cluster.exec("ctl", ["scancel", job.number])
    job.wait_end()
