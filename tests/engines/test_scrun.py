"""Podman's and Docker's containers as steps of Slurm, by Slurm's scrun and our scrun.lua."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests import NAME
from tests.engines.support import COUNT, Done, export_root
from tests.harness import jobs, leftovers
from tests.harness.cluster import Cluster, wait_for
from tests.harness.cluster.settings import REPOSITORY
from tests.harness.cluster.suite import SUITE
from tests.harness.cluster.waiting import patient
from tests.harness.jobs import Work

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="namespaces of a cluster need root")

# As Slurm's guide to containers has it, but for what a node without systemd lacks.
CONTAINERS = """
[containers]
apparmor_profile = "unconfined"
cgroupns = "host"
default_sysctls = []
ipcns = "host"
label = false
log_driver = "k8s-file"
netns = "host"
no_hosts = true
userns = "host"
utsns = "host"
[engine]
cgroup_manager = "cgroupfs"
events_logger = "file"
runtime = "slurm"
[engine.runtimes]
slurm = ["/usr/bin/scrun"]
"""
STORAGE = """
[storage]
driver = "vfs"
runroot = "/run/user/1000/containers"
graphroot = "/home/alice/containers"
"""
PODMANS = re.compile(r"/run/user/1000|libpod|podman|^n\d: (namespace of|mount at) ")
# Docker without root, which Debian has no rootlesskit for: a user namespace, and in it a /run of its own.
DOCKER_HOST = "unix:///run/user/1000/docker.sock"
DOCKERD = f"""
mkdir /tmp/run && mount --rbind /run /tmp/run && mount -t tmpfs tmpfs /run
for path in /tmp/run/*; do ln -s "$path" /run; done
exec env PATH=/usr/sbin:/usr/bin XDG_RUNTIME_DIR=/run/user/1000 dockerd \\
    --host={DOCKER_HOST} --pidfile=/run/user/1000/docker.pid \\
    --data-root=/home/alice/docker/data --exec-root=/home/alice/docker/exec --storage-driver=vfs --bridge=none \\
    --iptables=false --ip6tables=false --ip-forward=false --userland-proxy=false \\
    --add-runtime=slurm=/usr/bin/scrun --default-runtime=slurm
"""
UNCONFINED = ("--security-opt=label=disable", "--security-opt=seccomp=unconfined", "--network=none")
ENVIRONMENT = "XDG_RUNTIME_DIR=/run/user/1000 PODMAN_IGNORE_CGROUPSV1_WARNING=1"
RUN = "podman --log-level=fatal run --rm --rootfs /home/alice/bundle/rootfs"
# What a job's podman is told of it: Slurm's variables, --checkpoint among them, and how often it was restarted.
IN_JOB = f"export {ENVIRONMENT}; exec {RUN.replace('--rm', '--rm --env-host -v /shared:/shared')} {{command}}"


@pytest.fixture(scope="module")
def scrun_cluster() -> Iterator[Cluster]:
    """Two nodes with the project and scrun.lua; alice's Podman hands its containers to Slurm."""
    with Cluster(f"{NAME}-scrun", grace_time=20, kill_wait=3, subids=True) as running:
        jobs.prepare(running)
        shutil.copy(REPOSITORY / "etc/scrun.lua", running.conf / "scrun.lua")
        directory = running.home / "alice/.config/containers"
        directory.mkdir(parents=True)
        (directory / "containers.conf").write_text(CONTAINERS)
        (directory / "storage.conf").write_text(STORAGE)
        for path in (directory.parent, directory, *directory.iterdir()):
            shutil.chown(path, 1000, 1000)
        yield running


@pytest.fixture(autouse=True)
def nothing_left(scrun_cluster: Cluster) -> Iterator[None]:
    """Nothing is left but what Podman keeps until the next boot."""
    leftovers.wait_idle(scrun_cluster)
    before = leftovers.look(scrun_cluster)
    yield
    leftovers.end_jobs(scrun_cluster)

    def found() -> list[str]:
        lines = (leftovers.look(scrun_cluster) - before).elements()
        return [line for line in lines if not PODMANS.search(line)]

    wait_for(lambda: not found(), leftovers.SETTLING, "nothing to be left")


@pytest.fixture
def docker(scrun_cluster: Cluster) -> Iterator[Callable[..., Done]]:
    """alice's Docker on n2, with an image."""

    def call(*words: str, check: bool = True) -> Done:
        return scrun_cluster.exec("n2", ["docker", f"--host={DOCKER_HOST}", *words], check=check)

    scrun_cluster.exec("n2", ["mkdir", "/home/alice/docker"])
    argv = ["unshare", "--map-root-user", "--map-auto", "--mount", "sh", "-c", DOCKERD]
    with (
        (scrun_cluster.shared / "dockerd.log").open("w") as log,
        subprocess.Popen(scrun_cluster.argv("n2", argv), stdin=subprocess.DEVNULL, stdout=log, stderr=log) as process,
    ):
        try:
            wait_for(lambda: call("version", check=False).returncode == 0, 30, "dockerd")
            call("import", export_root(scrun_cluster), "small")
            yield call
        finally:
            leftovers.end_jobs(scrun_cluster)
            wait_for(lambda: not call("ps", "--quiet", check=False).stdout, 30, "the containers' end")
            # Of a container that has ended this moment, scrun's `delete` fails, and a shim of containerd's stays.
            script = 'kill "$(cat /run/user/1000/docker.pid)"; pkill -f ^/usr/bin/containerd-shim; true'
            scrun_cluster.exec("n2", ["sh", "-c", script])
            process.wait(patient(30))
            scrun_cluster.exec("n2", ["sh", "-c", "rmdir /tmp/run; rm -r /home/alice/docker"], "root")


def test_docker(scrun_cluster: Cluster, docker: Callable[..., Done]) -> None:
    """Its container is a step on another node, maybe, and goes on when it is started again."""
    command = ("sh", "-c", "echo job $SLURM_JOB_ID; echo err >&2")
    done = docker("run", "--rm", *UNCONFINED, "small", *command, check=False)
    if SUITE.docker_fails_without_root:  # scrun needs the node's network
        assert "failed to create a netlink handle" in done.stderr
        return
    assert done.returncode in (0, 137), done.stderr  # the second where scrun itself had to be ended (etc/scrun.lua)
    assert re.fullmatch(r"job \d+\n", done.stdout) and "err" in done.stderr.splitlines()

    def numbers() -> list[int]:
        return [int(line) for line in docker("logs", "one").stdout.split()]

    def wait_beyond(number: int) -> list[int]:
        wait_for(lambda: (numbers() or [-1])[-1] > number, 30, f"it to count beyond {number}")
        return numbers()

    asked = [annotation("checkpoint", "preempt"), annotation("checkpoint-dir", jobs.CHECKPOINTS)]
    docker("run", "--detach", "--name=one", *UNCONFINED, *asked, "small", *COUNT)
    wait_beyond(3)
    displace(scrun_cluster)
    wait_for(lambda: not docker("ps", "--quiet").stdout, 30, "its end")
    reached = numbers()[-1]
    docker("start", "one")
    # For some seconds: the extern step of a job that was cancelled at once has been seen not to end (Slurm 24.11).
    assert wait_beyond(reached + 30)[: reached + 31] == list(range(reached + 31))


def left(cluster: Cluster) -> list[Path]:
    """Bundles that were made for a container and not removed."""
    return [path for path in (cluster.home / "alice/.local/share/oci-criu-shim/scrun").glob("*") if path.is_dir()]


def podman(cluster: Cluster, *words: str, check: bool = True) -> Done:
    """On n2."""
    argv = ["env", *ENVIRONMENT.split(), "podman", "--log-level=fatal", *words]
    return cluster.exec("n2", argv, check=check)


def counted(cluster: Cluster, name: str) -> list[int]:
    """The numbers that a container of COUNT has printed."""
    return [int(line) for line in podman(cluster, "logs", name).stdout.split()]


def annotation(key: str, value: str) -> str:
    return f"--annotation=oci-criu-shim.{key}={value}"


def variable(key: str, value: str) -> str:
    return f"--env=SLURM_{key.upper().replace('-', '_')}={value}"


def count(cluster: Cluster, name: str, asking: Callable[[str, str], str], *options: str) -> None:
    """Start a container that counts, and asks for checkpoints."""
    asked = [asking("checkpoint", "preempt"), asking("checkpoint-dir", jobs.CHECKPOINTS)]
    words = [*asked, "--rootfs", "/home/alice/bundle/rootfs", *COUNT]
    podman(cluster, "run", "--detach", f"--name={name}", *options, *words)


def wait_counts(cluster: Cluster, name: str, beyond: int) -> list[int]:
    wait_for(lambda: (counted(cluster, name) or [-1])[-1] > beyond, 30, f"{name} to count beyond {beyond}")
    return counted(cluster, name)


def displace(cluster: Cluster) -> str:
    """Preempt the only job that runs; its number."""
    number, node = cluster.exec("ctl", ["squeue", "--noheader", "--format=%A %N"]).stdout.split()
    words = ("--partition=high", f"--nodelist={node}", "--exclusive", "--output=/dev/null", "--wrap=sleep 2")
    cluster.exec("ctl", ["sbatch", *words])
    return number


def test_started_again(scrun_cluster: Cluster) -> None:
    """In a job of its own, which Slurm does not requeue: podman starts the container again, and it goes on. So does
    another one that is told to, as often as one likes; by annotations or by variables."""
    try:
        count(scrun_cluster, "one", annotation)
        wait_counts(scrun_cluster, "one", 3)
        first = displace(scrun_cluster)
        wait_for(lambda: not podman(scrun_cluster, "ps", "--quiet").stdout, 30, "its end")
        reached = counted(scrun_cluster, "one")[-1]
        told = (
            f"job {first} is not requeued (it has no batch script): a job with --restart-dir={first} goes on from here"
        )
        assert told in podman(scrun_cluster, "logs", "one").stderr
        podman(scrun_cluster, "start", "one")
        assert wait_counts(scrun_cluster, "one", reached + 3)[: reached + 4] == list(range(reached + 4))

        count(scrun_cluster, "two", variable, variable("restart-dir", first))
        found = wait_counts(scrun_cluster, "two", reached + 3)
        assert found == list(range(reached + 1, found[-1] + 1))
        last = max(map(int, scrun_cluster.exec("ctl", ["squeue", "--noheader", "--format=%A"]).stdout.split()))
        scrun_cluster.exec("ctl", ["test", "-e", f"{jobs.CHECKPOINTS}/{last}/0.0/started"])  # it is checkpointed, too
    finally:
        podman(scrun_cluster, "rm", "--all", "--force", "--time=1", check=False)


def test_container_is_a_step(scrun_cluster: Cluster) -> None:
    """In an allocation; the shell is the first process of a pid namespace of its own.

    Without one scrun submits a job itself, and, of Slurm 24.11, now and then goes round in circles when that has ended
    (watch() in src/conmgr).
    """
    command = "cat; echo job $SLURM_JOB_ID step $SLURM_STEP_ID process $$; echo err >&2"
    script = f"export {ENVIRONMENT}; echo input | {RUN.replace('--rm', '--rm -i --env-host')} sh -c '{command}'"
    done = scrun_cluster.exec("n2", ["salloc", "-Q", "-n1", "sh", "-c", f"echo $SLURM_JOB_ID; {script}"])
    number = done.stdout.partition("\n")[0]
    assert done.stdout == f"{number}\ninput\njob {number} step 0 process 1\n"
    assert "err" in done.stderr.splitlines()
    wait_for(lambda: not left(scrun_cluster), 10, "no bundles")


def test_preempted(scrun_cluster: Cluster) -> None:
    """In a batch job, which Slurm can requeue: the container goes on where it was."""
    job = jobs.submit(scrun_cluster, "scrun", IN_JOB, Work(mib=1), *jobs.OPTIONS)
    jobs.preempt_once(job)
