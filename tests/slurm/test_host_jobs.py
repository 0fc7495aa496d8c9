"""Jobs without a container: the same as without --checkpoint, but that they survive a preemption."""

from __future__ import annotations

import functools

import pytest

from tests.harness import jobs
from tests.harness.cluster import Cluster, wait_for
from tests.harness.jobs import Job, Work, quoting
from tests.slurm.test_dump import LENT, holders, preempt_and_finish
from tests.slurm.test_terminal import PROMPT, SALLOC, SHELL, Session

WORK = Work(ticks=20, tick=0.4, mib=8)
ASKED = " ".join(jobs.OPTIONS[:2])
# What there is to see of a task. SLURM_* tells where it runs, and so do a few others; a pipe takes the place of a file.
LOOK = """
id; hostname; pwd; umask; nice; ulimit -Sa | grep -v pipe; ulimit -Ha | grep -v pipe
tr '\\0' '\\n' </proc/$$/environ | grep -v '^SLURM_\\|^SRUN_\\|^_=\\|_MCA_\\|HYDRA_BOOTSTRAP=\\|^UCX_NET' | sort
cat /proc/$$/status | grep 'Cpus_allowed\\|Mems_allowed\\|NoNewPrivs'
test -t 0; echo $?; cat; printf '%s|' "$0" "$@"; exit 7
"""
SHELL_SCRIPT = """
echo "runs $0"; head -c 100000 /dev/urandom >/tmp/data; mkfifo /tmp/fifo; sum=$(md5sum </tmp/data)
{command} | cat &
wait; test "$sum" = "$(md5sum </tmp/data)" && test -p /tmp/fifo && echo the same
"""


@pytest.fixture(autouse=True)
def prepared(shim_bundle: str) -> None:
    """What jobs need, but the bundle."""


def through(job: Job) -> Job:
    """Preempt a job, which then runs to its end on another node."""
    with quoting(job):
        job.wait_running()
        job.wait_ticks(3)
        job.preempt()
        assert job.wait_end() == "COMPLETED"
        assert not job.failures()
    return job


@pytest.mark.parametrize("kind", ["program", "shell"])
def test_a_batch_script_goes_on(shim_cluster: Cluster, kind: str) -> None:
    """On another node, at the same point, with what it has in /tmp."""
    script = "exec {command}" if kind == "program" else SHELL_SCRIPT
    job = through(jobs.submit(shim_cluster, f"bare-{kind}", script, WORK, *jobs.OPTIONS))
    assert [event.split()[0] for event in job.events()] == ["checkpointed", "requeueing", "restored"], job.quoted()
    if kind == "shell":
        assert job.output().startswith(f"runs /var/spool/slurmd/job{int(job.number):05}/slurm_script\n")
        assert job.output().endswith("the same\n"), job.quoted()


@pytest.mark.parametrize("hidden", [False, True])
def test_steps_go_on(shim_cluster: Cluster, hidden: bool) -> None:
    """The script begins at its top, whether it names srun or has another one start it."""
    (shim_cluster.shared / "starts.sh").write_text('srun "$@"\n')
    script = "bash /shared/starts.sh {command}" if hidden else "srun {command}"
    job = through(jobs.submit(shim_cluster, f"bare-{hidden}", f"echo top; {script}; echo $?", WORK, *jobs.OPTIONS))
    assert job.output().count("top\n") == 2 and job.output().endswith("\n0\n"), job.quoted()
    assert any("starts steps" in event for event in job.events()) == hidden
    assert sum(event.startswith("restored") for event in job.events()) == 1


def test_files_that_a_script_and_its_step_pass_to_each_other(shim_cluster: Cluster) -> None:
    """In the node's /tmp, which the script names: the step does not get one of its own."""
    (shim_cluster.shared / "stage.sh").write_text("cd /tmp/staged && tr a-z A-Z <in >out; echo >/dev/shm/own\n")
    script = "mkdir /tmp/staged; cd /tmp/staged; echo in >in; cd; srun sh /shared/stage.sh; cat /tmp/staged/out"
    job = jobs.submit(shim_cluster, "bare-staged", f"{script}; rm -r /tmp/staged", WORK, *jobs.OPTIONS)
    with quoting(job):
        assert job.wait_end() == "COMPLETED"
        assert job.output().endswith("\nIN\n")
        (said,) = job.events()
        assert said.startswith("/tmp stays the node's, since what the batch script names is there")


def test_a_script_goes_on_in_another_job(shim_cluster: Cluster) -> None:
    """Whose own script is another one, and in which it can be checkpointed again."""
    first = jobs.submit(shim_cluster, "bare-first", "{command}; echo first", WORK, *jobs.OPTIONS)
    with quoting(first):
        first.wait_running()
        first.wait_ticks(3)
        shim_cluster.exec("ctl", ["oci-criu-shim", "job", "checkpoint", first.number])
        shim_cluster.exec("ctl", ["scancel", first.number])
        first.wait_end()
    argv = ["sbatch", "--parsable", "-p", "low", "--output=/home/alice/%j.out", *jobs.OPTIONS]
    argv += [f"--restart-dir={first.number}", "--wrap", "echo second"]
    second = Job(shim_cluster, shim_cluster.exec("ctl", argv).stdout.strip(), WORK, first.ledger_path)
    with quoting(second):
        second.wait_running()
        second.wait_ticks(second.ticks() + 2)
        second.preempt()
        assert second.wait_end() == "COMPLETED"
        assert second.output().endswith("end sum-ok\nfirst\n")


def test_nothing_else_is_changed(shim_cluster: Cluster) -> None:
    """Of what a task sees of itself, its output and its status; TaskProlog counts, too."""
    (shim_cluster.shared / "look.sh").write_text(LOOK)
    (shim_cluster.shared / "prolog.sh").write_text("#!/bin/sh\necho export PROLOG=run\necho export TMPDIR=/tmp/own\n")
    (shim_cluster.shared / "prolog.sh").chmod(0o755)
    words = ["srun", "-p", "low", "-w", "n1", "-n1", "--task-prolog=/shared/prolog.sh", "--quiet"]
    script = ["bash", "/shared/look.sh", "a b", "", "c"]
    plain, asked = (
        shim_cluster.exec("ctl", ["sh", "-c", 'echo input | "$@"', "sh", *words, *more, *script], check=False)
        for more in ([], list(jobs.OPTIONS[:2]))
    )
    shim_cluster.exec("n1", ["rmdir", "/tmp/own"])  # which slurmstepd has made
    assert plain.returncode == 7 and "PROLOG=run\n" in plain.stdout
    assert (asked.stdout, asked.returncode) == (plain.stdout, plain.returncode)


def test_what_can_not_be_run(shim_cluster: Cluster) -> None:
    """Slurm's own words are said, with its own status."""
    for program in ("/nowhere", "nowhere", "/etc/passwd"):
        plain, asked = (
            shim_cluster.exec("ctl", ["srun", "-p", "low", "-w", "n1", *more, program], check=False)
            for more in ([], ["--checkpoint"])
        )
        assert asked.returncode == plain.returncode
        assert f"execve(): {program}" in plain.stderr and f"execve(): {program}" in asked.stderr, asked.stderr


def test_terminals(shim_cluster: Cluster) -> None:
    """Of `srun --pty`, and of salloc's shell."""
    argv = [*SHELL[:3], "srun", "-p", "low", *jobs.OPTIONS[:2], "--pty", *SHELL[3:]]
    for words, status in ((argv, 3), ([*SALLOC, "-p", "low", *jobs.OPTIONS[:2]], 4)):
        session = Session(shim_cluster.argv("ctl", list(words), "alice"))
        session.until(PROMPT)
        session.type("tty; echo $$\n")
        assert "/dev/pts/0\r\n2\r\n" in session.until(f"2\r\n.*{PROMPT}")
        session.type(f"exit {status}\n")
        assert session.status() == status


def test_a_terminal_goes_on_in_another_job(shim_cluster: Cluster) -> None:
    """With what its shell has, on the terminal of the new job's user."""
    argv = [*SHELL[:3], "srun", "-p", "low", *jobs.OPTIONS[:2]]
    session = Session(shim_cluster.argv("ctl", [*argv, "--pty", *SHELL[3:]], "alice"))
    session.until(PROMPT)
    session.type("kept=in-the-shell; echo job $SLURM_JOB_ID.\n")
    number = session.until(r"job \d+\.\r").rpartition("job ")[2].rstrip(".\r")
    shim_cluster.exec("ctl", ["oci-criu-shim", "job", "checkpoint", number])
    shim_cluster.exec("ctl", ["scancel", number])
    session.status()  # srun's: 0 if it does not wait until the step has ended
    session = Session(shim_cluster.argv("ctl", [*argv, f"--restart-dir={number}", "--pty", "false"], "alice"))
    session.until("restored job")
    session.type("echo $kept; tty; exit 5\n")
    assert "/dev/pts/0" in session.until("in-the-shell\r\n.*\r\n")
    assert session.status() == 5


@pytest.mark.parametrize("names", ["none", "bob, @root"])
def test_a_site_that_does_not_allow_it(shim_cluster: Cluster, names: str) -> None:
    """The task runs as it is, and is told so."""
    with jobs.settings(shim_cluster, f'bare-jobs = "{names}"\n'):
        done = shim_cluster.exec("ctl", ["srun", "-p", "low", "-n2", "--overcommit", "--checkpoint", "id", "-u"])
    assert done.stdout == "1000\n1000\n"
    assert done.stderr.count("is outside of a container, which this site does not checkpoint (bare-jobs)") == 1
    with jobs.settings(shim_cluster, 'bare-jobs = "bob, @alice"\n'):
        done = shim_cluster.exec("ctl", ["srun", "-p", "low", "--checkpoint", "sh", "-c", "echo $$"])
    assert done.stdout == "2\n"


def test_a_node_without_an_init(shim_cluster: Cluster) -> None:
    shim_cluster.exec("n1", ["mv", "/usr/bin/tini", "/usr/bin/tini.gone"], "root")
    done = shim_cluster.exec("ctl", ["srun", "-p", "low", "-w", "n1", "--checkpoint", "true"], check=False)
    shim_cluster.exec("n1", ["mv", "/usr/bin/tini.gone", "/usr/bin/tini"], "root")
    assert done.returncode and "no init for a task without a container (tini or catatonit)" in done.stderr


def test_only_a_dump_holds_capabilities(shim_cluster: Cluster) -> None:
    """Those that are lent, as for a container; a restore holds none."""
    with (
        jobs.program(shim_cluster, "n1", "capabilities", "1000") as first,
        jobs.program(shim_cluster, "n2", "capabilities", "1000") as second,
    ):
        script = "exec python3 /shared/features.py 30 0.5"
        preempt_and_finish(jobs.submit(shim_cluster, "bare-caps", script, Work(), *jobs.OPTIONS, "-w", "n1,n2", "-N1"))
        dumping, restoring = (holders(watcher.communicate()[0]) for watcher in (first, second))
    assert restoring == {}
    assert set(dumping.values()) == {LENT}


def test_what_the_worker_refuses(shim_cluster: Cluster) -> None:
    """A process outside of its user's namespace, one of another job's and one of another user's."""
    first, second = (
        jobs.submit(shim_cluster, f"bare-{name}", "exec sleep 300", WORK, *jobs.OPTIONS, "-w", "n1")
        for name in ("asks", "other")
    )
    with quoting(first):
        first.wait_running()
        second.wait_running()
        for job in (first, second):
            wait_for(functools.partial(init_of, job), 30, "its init")
        supervisor = shim_cluster.exec("n1", ["cat", *paths(first, "pid")]).stdout.strip()
        others = shim_cluster.exec("n1", ["pgrep", "-o", "slurmd"]).stdout.strip()
        for pid, words in (
            (supervisor, "not in a user namespace of its own"),
            (init_of(second), f"not one of job {first.number}"),
            (others, ""),
        ):
            assert words in ask(first, pid), words
    shim_cluster.exec("ctl", ["scancel", first.number, second.number])
    first.wait_end()
    second.wait_end()


def paths(job: Job, name: str) -> list[str]:
    return [f"/run/oci-criu-shim/{job.number}/n1.{job.number}.batch.0/{name}"]


def init_of(job: Job) -> str:
    return job.cluster.exec("n1", ["cat", *paths(job, "init.pid")], check=False).stdout.strip()


def ask(job: Job, pid: str) -> str:
    """Have the job's worker dump a process; what it answers."""
    place = f"/run/oci-criu-shim/{job.number}"
    script = (
        f"mkdir -p ~/asked && exec python3 -I /src/tests/harness/programs/asking.py {place}/helper.*.sock {pid} ~/asked"
    )
    done = job.cluster.exec("n1", ["sh", "-c", script], check=False)
    return done.stdout + done.stderr
