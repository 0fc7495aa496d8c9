"""Tests that what a user puts into a job's run directory leads root to nothing.

Root is slurmstepd at a step's end, by any oci.conf, and an administrator. Two layers guard it, and each is tried by
itself: oci.conf, and the program.
"""

from __future__ import annotations

import json
import shlex
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from oci_criu_shim.cli.doctor import oci
from tests import NAME
from tests.harness import jobs, leftovers
from tests.harness.cluster import Cluster, ClusterError, wait_for
from tests.harness.jobs import Job, Work
from tests.slurm.test_oci_conf import CALL, FILES, FUSE, MULTI, NOTED, NVIDIA, PROGRAMS, install

ALICE = 1000
# A backend of the user's own, which says who ran it. Its container runs, it answers, or nobody would ask on.
BACKEND = """#!/bin/sh
id -u >>/shared/marks
echo '{"status": "running", "pid": 1}'
"""
# What crun runs when it deletes a container of the user's making: it hangs, and so does what it leaves behind.
HOOK = """#!/bin/sh
id -u >>/shared/marks
setsid sleep 4712 &
exec sleep 4712
"""
STOPPED = {
    "config.json": {
        "ociVersion": "1.0.2",
        "process": {"args": ["true"], "cwd": "/"},
        "root": {"path": "/"},
        "hooks": {"poststop": [{"path": "/shared/hook"}]},
    },
    "status": {
        **{"pid": 1 << 22, "process-start-time": 1, "rootfs": "/", "bundle": "/", "owner": "alice", "detached": True},
        **{"created": "2026-01-01T00:00:00Z", "systemd-cgroup": False, "external_descriptors": "[]"},
        **dict.fromkeys(("cgroup-path", "scope", "intelrdt"), ""),
    },
}
# A program of the node's that users may have looked after by: it says what it was given.
PEEK = """#!/bin/sh
exec >>/shared/marks
id -u; id -G; pwd; umask; echo $0 $*; readlink /proc/self/fd/0
env | cut -d= -f1 | sort | tr '\\n' ' '; find /proc/$$/fd -mindepth 1 -printf '%f '; cat /proc/$$/oom_score_adj
grep -c 'root of the node' /proc/keys
grep -E '^(CapInh|CapPrm|CapEff|CapAmb|NoNewPrivs)' /proc/self/status | tr -d '\\n\\t'
"""
# Root with much to lose: it becomes the program that is named.
LENDER = """
import ctypes, os, sys
os.chdir("/root")
os.umask(0)
os.environ["SECRET"] = "root's"
os.dup2(os.open("/etc/shadow", os.O_RDONLY), 7)
try:
    with open("/proc/self/oom_score_adj", "w") as stream:
        stream.write("-500")
except PermissionError:
    pass  # in a container, say
libc, key = ctypes.CDLL(None), b"root of the node"
if os.uname().machine == "x86_64":
    libc.syscall(250, 1, None)
    libc.syscall(248, b"user", key, key, len(key), -3)
    assert key in open("/proc/keys", "rb").read()
os.execvp(sys.argv[1], sys.argv[1:])
"""
# What a user can have root find when a step ends: a container of a backend of the user's; one that is held for a
# restore by a process of somebody else; one whose file nobody ever writes.
HOSTILE = """
d=/run/oci-criu-shim/$SLURM_JOB_ID
of() {{ echo n1.alice.$SLURM_JOB_ID.$1.-1; }}
mkdir -p $d/$(of 0) $d/.:shared:backend/$(of 0) $d/$(of 1) $d/$(of 2)
echo '{{"backend": "/shared/backend"}}' >$d/$(of 0)/state.json
echo '{{"held": true, "supervisor": [{pid}, {start}], "init": [{pid}, {start}]}}' >$d/$(of 1)/state.json
mkfifo $d/$(of 2)/state.json
"""
# The job's directory may be gone before slurmstepd asks of the last one.
STEPS = "for step in 0 1 2; do srun --container={bundle} echo ran; done; sleep 2"
# The same, but all of it is root's, and so the directory: a file system of the user's says so.
MOUNTED = (
    """
tree=/tmp/mounted.$SLURM_JOB_ID; mkdir $tree
"""
    + HOSTILE.replace("d=/run/oci-criu-shim/$SLURM_JOB_ID", "d=$tree")
    + """
cp /shared/backend $d; sed -i s,/shared/,/run/oci-criu-shim/$SLURM_JOB_ID/, $d/$(of 0)/state.json
mv $d/.:shared:backend $d/.:run:oci-criu-shim:$SLURM_JOB_ID:backend
mksquashfs $tree $tree.img -all-root -quiet >/dev/null
squashfuse_ll -o allow_other $tree.img /run/oci-criu-shim/$SLURM_JOB_ID
until [ $(stat -c %u /run/oci-criu-shim/$SLURM_JOB_ID) = 0 ]; do sleep 0.1; done
rm -r $tree*
"""
)


@dataclass(frozen=True)
class Victim:
    """A process of root's on the node: its pid there, and when it started."""

    cluster: Cluster
    pid: int
    start: int

    def lives(self) -> bool:
        return self.cluster.exec("n1", ["kill", "-0", str(self.pid)], "root", check=False).returncode == 0


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    """A node where all that etc/oci.conf.d speaks of is there, and users may mount for all to see."""
    with Cluster(f"{NAME}-boundary", nodes=1, kill_wait=3) as running:
        for name in ("calls", "marks", "nvidia.log"):
            (running.shared / name).touch()
            (running.shared / name).chmod(0o666)
        install(running, "n1", f"{PROGRAMS}/nvidia-container-runtime", NVIDIA)
        for path, text in (("/shared/backend", BACKEND), ("/shared/hook", HOOK)):
            install(running, "n1", path, text)
        running.exec("n1", ["sh", "-c", f"{FUSE}; echo user_allow_other >>/etc/fuse.conf"], "root")
        yield running


@pytest.fixture(scope="module")
def bundle(cluster: Cluster) -> str:
    return jobs.prepare_mapped(cluster)


@pytest.fixture
def victim(cluster: Cluster) -> Iterator[Victim]:
    argv = ["sh", "-c", "echo $$ $(cut -d' ' -f22 /proc/$$/stat); exec sleep 4711 >/dev/null"]
    with subprocess.Popen(cluster.argv("n1", argv, "root"), stdout=subprocess.PIPE, text=True) as running:
        assert running.stdout
        pid, start = map(int, running.stdout.readline().split())
        yield Victim(cluster, pid, start)
        cluster.exec("n1", ["kill", "-KILL", str(pid)], "root", check=False)


def choose(cluster: Cluster, text: str) -> None:
    """Make it the oci.conf, with its calls noted, of which there were none yet."""
    (cluster.conf / "oci.conf").write_text(CALL.sub(NOTED, text))
    for name in ("calls", "marks"):
        (cluster.shared / name).write_text("")


def text_of(name: str, guarded: bool) -> str:
    """An oci.conf of ours; not guarded, what a site may have from before that was so."""
    text = FILES[name].read_text()
    assert oci.GUARD in text
    for guard in () if guarded else oci.guards("RunTimeQuery"):
        text = text.replace(f"{guard} ", "")
    return text


def calls(cluster: Cluster) -> list[str]:
    """What slurmstepd had run as root so far, with exit statuses."""
    found = (line.split() for line in (cluster.shared / "calls").read_text().splitlines())
    return [f"{verb} {status}" for verb, task, uid, status in found if (task, uid) == ("-1", "0")]


def require_calls(cluster: Cluster, *wanted: str) -> None:
    """Raise AssertionError where these were not what it had run, in whatever order: a step, and a job, may be over
    before that."""
    try:
        wait_for(lambda: len(calls(cluster)) >= len(wanted), 30, "slurmstepd's calls")
    except ClusterError:
        pass
    leftovers.wait_idle(cluster)
    assert sorted(calls(cluster)) == sorted(wanted)


def marks(cluster: Cluster) -> list[str]:
    """The uids of those who ran what is the user's."""
    return (cluster.shared / "marks").read_text().split()


def submit(cluster: Cluster, name: str, script: str) -> Job:
    """Its braces are its own."""
    return jobs.submit(cluster, name, script.replace("{", "{{").replace("}", "}}"), Work())


@pytest.mark.parametrize("guarded", [True, False], ids=["by-oci-conf", "by-the-program"])
@pytest.mark.parametrize("name", sorted(FILES))
def test_a_steps_end(cluster: Cluster, bundle: str, victim: Victim, name: str, guarded: bool) -> None:
    choose(cluster, text_of(name, guarded))
    script = HOSTILE.format(pid=victim.pid, start=victim.start) + STEPS.format(bundle=bundle)
    job = submit(cluster, "hostile", script)
    assert job.wait_end(60) == "COMPLETED"
    assert job.output().splitlines().count("ran") == 3
    assert (marks(cluster), victim.lives()) == ([], True)
    if name == MULTI:
        require_calls(cluster)
    elif guarded:
        require_calls(cluster, *["Query 0"] * 3)
    else:  # the user was told what is the user's own, and did not end what isn't
        require_calls(cluster, "Query 1", "Query 0", "Delete 1", "Query 1")


@pytest.mark.parametrize("guarded", [True, False], ids=["by-oci-conf", "by-the-program"])
@pytest.mark.parametrize("name", ["oci-criu-shim", "crun-create"])
def test_a_directory_that_says_that_it_is_roots(
    cluster: Cluster, bundle: str, victim: Victim, name: str, guarded: bool
) -> None:
    """Where users may mount for others (user_allow_other of fuse.conf). No container starts there."""
    choose(cluster, text_of(name, guarded))
    script = MOUNTED.format(pid=victim.pid, start=victim.start) + STEPS.format(bundle=bundle)
    job = submit(cluster, "mounted", script)
    job.wait_end(60)
    assert (marks(cluster), victim.lives()) == ([], True)
    require_calls(cluster, *(["Query 0"] * 3 if guarded else ["Query 1", "Query 0", "Delete 1", "Query 1"]))


def started(cluster: Cluster, name: str, script: str) -> str:
    """The run directory of a job that has come as far as to write `ready`."""
    job = submit(cluster, name, f"{script}\necho ready\nsleep 300")
    wait_for(lambda: "ready" in job.output(), 30, "the job")
    return f"/run/oci-criu-shim/{job.number}"


def by_root(cluster: Cluster, *words: str, prefix: tuple[str, ...] = ()) -> subprocess.CompletedProcess[str]:
    """An administrator's call; what it says, it says in a line."""
    done = cluster.exec("n1", [*prefix, "oci-criu-shim", *words], "root", check=False, timeout=40)
    assert done.stderr.count("\n") <= 1
    return done


def test_an_administrator(cluster: Cluster, bundle: str, victim: Victim) -> None:
    choose(cluster, text_of("oci-criu-shim", True))
    root = started(cluster, "hostile", HOSTILE.format(pid=victim.pid, start=victim.start))
    name = f"n1.alice.{root.rpartition('/')[2]}"
    said = {
        f"{name}.0.-1": "root does not have a user run '/shared/backend'",
        f"{name}.1.-1": "",
        f"{name}.2.-1": "state.json: not a plain file",
    }
    for container, words in said.items():
        for verb in (["state"], ["kill", "--all"], ["kill"], ["ps"], ["pause"], ["delete", "--force"]):
            done = by_root(cluster, f"--root={root}", *verb, container)
            assert words in done.stderr, done
            assert (done.returncode == 0) == (not words and verb == ["state"])
    for backend in ([], ["--backend=/shared/backend"]):
        assert "root does not have a user run" in by_root(cluster, f"--root={root}", *backend, "list").stderr
    for verb in (["exec", f"{name}.0.-1", "id"], ["run", "--bundle", bundle, "x"], ["start", f"{name}.0.-1"]):
        done = by_root(cluster, f"--root={root}", *verb)
        assert (done.returncode, "is not for root in" in done.stderr, "runuser" in done.stderr) == (1, True, True)
    assert (marks(cluster), victim.lives()) == ([], True)


def test_other_directories_of_users(cluster: Cluster, victim: Victim) -> None:
    """Neither those that are not a job's, nor what the verbs for jobs and checkpoints look after."""
    root = started(cluster, "hostile", HOSTILE.format(pid=victim.pid, start=victim.start))
    number = root.rpartition("/")[2]
    kept = "/home/alice/ckpt"
    cluster.exec("n1", ["sh", "-c", f"mkdir -p {kept}/7/0.0 && ln -sfn /var/kept {kept}/history && touch {kept}/x.tar"])
    old = "mkdir -p /var/kept/5 && touch -d 2001-01-01 /var/kept/5/0.0.jsonl /var/kept/5"
    cluster.exec("n1", ["sh", "-c", old], "root")
    for words in (
        ["--root=/home/alice/x", "list"],
        ["--root=/shared", "list"],
        ["--root=/shared/new", "list"],
        ["job", "checkpoint", "--here", number],
        ["job", "exec", "--here", number, "id"],
        ["ckpt", "prune", kept],
        ["ckpt", "import", f"{kept}/x.tar", f"{kept}/7/0.0"],
    ):
        done = by_root(cluster, *words)
        assert done.returncode == 1
        assert any(said in done.stderr for said in ("belongs to user alice", "for everybody", "anybody may")), done
    assert cluster.exec("n1", ["ls", "/var/kept/5"], "root").stdout == "0.0.jsonl\n"
    assert victim.lives()
    cluster.exec("n1", ["rm", "-r", "/var/kept"], "root")


def test_what_a_user_mounts_is_his(cluster: Cluster) -> None:
    """In a directory for all, too, whatever it says of itself."""
    choose(cluster, text_of("oci-criu-shim", True))
    place = "/shared/mounted"
    make = "cd /shared && mkdir -p tree/.:shared:backend/one mounted && mksquashfs tree tree.img -all-root -quiet"
    mount = f"squashfuse_ll -o allow_other tree.img {place} && until [ $(stat -c %u {place}) = 0 ]; do sleep 0.1; done"
    started(cluster, "mounted", f"{make} >/dev/null && {mount}")
    try:
        done = by_root(cluster, f"--root={place}", "list")
        assert (done.returncode, "/shared/mounted belongs to user alice" in done.stderr) == (1, True)
        assert marks(cluster) == []
    finally:
        cluster.exec("n1", ["umount", "--lazy", place], "root")
        cluster.exec("n1", ["sh", "-c", "rm -r /shared/tree* /shared/mounted"])


# A file system of the user's on a job's directory, all of it root's, with a link that an epilog follows as who owns it.
HIDING = """
mkdir -p tree/one; ln -s {kept} tree/one/stage.1; touch tree/requeued
mksquashfs tree tree.img -all-root -quiet >/dev/null
squashfuse_ll -o allow_other tree.img {root}
until [ $(stat -c %u {root}) = 0 ]; do sleep 0.1; done
rm -r tree tree.img
"""


def test_what_hides_a_jobs_directory(cluster: Cluster) -> None:
    """From the epilog, which does nothing in there. A process that is not the job's serves it, and so outlives that."""
    choose(cluster, text_of("oci-criu-shim", True))
    kept = "/var/kept/.stage.1"
    cluster.exec("n1", ["mkdir", "-p", kept], "root")
    root = started(cluster, "hidden", "")
    cluster.exec("n1", ["sh", "-ec", HIDING.format(kept=kept, root=root)])
    cluster.exec("ctl", ["scancel", root.rpartition("/")[2]])
    leftovers.wait_idle(cluster)
    assert cluster.exec("n1", ["ls", "-A", "/var/kept"], "root").stdout == ".stage.1\n"
    assert root not in cluster.exec("n1", ["cat", "/proc/self/mountinfo"], "root").stdout
    cluster.exec("n1", ["rm", "-r", "/var/kept"], "root")


@pytest.mark.parametrize("name", ["oci-criu-shim", "runc-run", "crun-create"])
def test_a_users_container(cluster: Cluster, bundle: str, name: str) -> None:
    """It is there for an administrator as for its user, who sees to it."""
    choose(cluster, text_of(name, True))
    root = started(cluster, "looked-after", f"srun --container={bundle} sh -c 'echo ready; exec sleep 300'")
    container = by_root(cluster, f"--root={root}", "list", "--quiet").stdout.strip()
    assert container == f"n1.alice.{root.rpartition('/')[2]}.0.0"

    def status() -> str:
        return str(json.loads(by_root(cluster, f"--root={root}", "state", container).stdout or "{}").get("status"))

    assert status() == "running"
    assert by_root(cluster, f"--root={root}", "kill", container, "0").returncode == 0
    assert by_root(cluster, f"--root={root}", "kill", container, "KILL").returncode == 0
    wait_for(lambda: status() != "running", 20, "its end")
    assert by_root(cluster, f"--root={root}", "delete", "--force", container).returncode == 0
    assert by_root(cluster, f"--root={root}", "list", "--quiet").stdout == ""


def test_what_the_users_child_has_of_root(cluster: Cluster) -> None:
    """Nothing."""
    choose(cluster, text_of("oci-criu-shim", True))
    program = "/usr/local/sbin/nvidia-container-runtime"
    install(cluster, "n1", program, PEEK)
    script = """
d=/run/oci-criu-shim/$SLURM_JOB_ID; mkdir -p $d/.nvidia-container-runtime/one $d/one
echo '{"backend": "nvidia-container-runtime", "dialect": "runc"}' >$d/one/state.json"""
    try:
        root = started(cluster, "peek", script)
        lender = ("python3", "-c", LENDER)
        assert by_root(cluster, f"--root={root}", "state", "one", prefix=lender).returncode == 0
    finally:
        cluster.exec("n1", ["rm", program], "root")
    assert (cluster.shared / "marks").read_text().splitlines() == [
        *("1000", "1000", "/", "0077", f"{program} --root {root}/.nvidia-container-runtime state one", "/dev/null"),
        *("LANG PATH PWD 0 1 2 10 0", "0"),
        "".join(f"Cap{name}:{0:016x}" for name in ("Inh", "Prm", "Eff", "Amb")) + "NoNewPrivs:1",
    ]


@pytest.mark.parametrize("by", ["slurmstepd", "root"])
def test_what_hangs(cluster: Cluster, bundle: str, by: str) -> None:
    """A hook that crun runs, as the user whose it is, keeps nobody waiting for long, nor does what it leaves behind."""
    choose(cluster, text_of("oci-criu-shim", False))
    files = " && ".join(f"echo {shlex.quote(json.dumps(text))} >$c/{name}" for name, text in STOPPED.items())
    script = f"c=/run/oci-criu-shim/$SLURM_JOB_ID/.crun/n1.alice.$SLURM_JOB_ID.0.-1; mkdir -p $c && {files}"
    if by == "slurmstepd":
        until_asked = "until [ -s /shared/marks ]; do sleep 0.1; done"  # or the directory may be gone by then
        job = submit(cluster, "hanging", f"{script}; srun --container={bundle} echo ran; {until_asked}")
        assert job.wait_end(90) == "COMPLETED"
        require_calls(cluster, "Query 0", "Delete 1")
    else:
        root = started(cluster, "hanging", script)
        done = by_root(cluster, f"--root={root}", "delete", "--force", f"n1.alice.{root.rpartition('/')[2]}.0.-1")
        assert (done.returncode, "did not end in 15 s" in done.stderr) == (1, True)
    assert marks(cluster) == [str(ALICE)]
    assert cluster.exec("n1", ["pgrep", "-f", "^sleep 4712"], "root", check=False).stdout == ""
