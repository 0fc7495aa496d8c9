"""The cluster itself: what the other tests of this directory stand on. Plain crun, nothing installed."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import NAME
from tests.harness.cluster import Cluster, ClusterError, wait_for
from tests.harness.cluster.bundle import make_bundle
from tests.harness.cluster.cgroups import hierarchies
from tests.harness.cluster.settings import DATA, REPOSITORY, STATE

# Whoever runs the tests in the background has SIGINT ignored, in all that they start.
STARTER = """
import signal, sys, time
from tests.harness.cluster import Cluster
signal.signal(signal.SIGINT, signal.default_int_handler)
with Cluster(sys.argv[1], nodes=1, install=False) as cluster:
    print(cluster.node_pid("n1"), flush=True)
    time.sleep(600)
"""


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    quick = ("MessageTimeout=2", "SlurmdTimeout=5")
    with Cluster(f"{NAME}-cluster", install=False, grace_time=1, kill_wait=2, slurm_conf=quick) as running:
        yield running


@pytest.fixture(scope="module")
def bundle(cluster: Cluster) -> str:
    return "/shared/" + make_bundle(cluster.shared / "bundle", 1000, 1000).name


def job(cluster: Cluster, number: str) -> dict[str, str]:
    """What `scontrol show job` says, by key."""
    text = cluster.exec("ctl", ["scontrol", "show", "job", number]).stdout
    return dict(re.findall(r"(\S+?)=(\S*)", text))


def submit(cluster: Cluster, *options: str) -> str:
    return cluster.exec("ctl", ["sbatch", "--parsable", "--output=/shared/%j.out", *options]).stdout.strip()


def wait_for_state(cluster: Cluster, number: str, state: str, timeout: float = 30) -> None:
    wait_for(lambda: job(cluster, number)["JobState"] == state, timeout, f"job {number} to be {state}")


def traces(name: str) -> list[str]:
    """What of an instance can be seen on the host."""
    paths = [STATE / name, STATE / f"{name}.lock", DATA / name]
    paths += [tree.mount / f"oci-criu-shim-{name}" for tree in hierarchies()]
    mounts = [line for line in Path("/proc/self/mounts").read_text().splitlines() if f"/{name}/" in line]
    return [str(path) for path in paths if path.exists()] + mounts


def processes() -> set[Path]:
    return set(Path("/proc").glob("[0-9]*"))


def network_namespaces(among: set[Path], group: str = "") -> set[str]:
    """Return those that some of these processes are in: of this control group, or of any."""
    found = set()
    for process in among:
        try:
            if group in (process / "cgroup").read_text():
                found.add(os.readlink(process / "ns/net"))
        except (FileNotFoundError, ProcessLookupError, PermissionError):
            continue
    return found


def start_starter(name: str) -> tuple[subprocess.Popen[str], int]:
    """A process that holds a cluster; and the init of its node."""
    argv = [sys.executable, "-c", STARTER, name]
    starter = subprocess.Popen(argv, cwd=REPOSITORY, stdout=subprocess.PIPE, text=True)
    assert starter.stdout
    with starter.stdout as out:
        return starter, int(out.readline())


def test_step_on_both_nodes(cluster: Cluster) -> None:
    done = cluster.exec("ctl", ["srun", "-N2", "hostname"])
    assert sorted(done.stdout.split()) == ["n1", "n2"]


def test_exec_as_user(cluster: Cluster) -> None:
    done = cluster.exec("n1", ["sh", "-c", "id -un; pwd; hostname; cat"], user="bob", input="input\n")
    assert done.stdout.split() == ["bob", "/home/bob", "n1", "input"]


def test_exec_status(cluster: Cluster) -> None:
    assert cluster.exec("n1", ["sh", "-c", "exit 42"], check=False).returncode == 42
    with pytest.raises(ClusterError, match="status 42"):
        cluster.exec("n1", ["sh", "-c", "exit 42"])


def test_exec_timeout_leaves_nothing(cluster: Cluster) -> None:
    with pytest.raises(subprocess.TimeoutExpired):
        cluster.exec("n1", ["sleep", "4242"], timeout=0.5)
    wait_for(lambda: cluster.exec("n1", ["pgrep", "-fx", "sleep 4242"], check=False).returncode == 1, 5, "its end")


def test_files_are_shared(cluster: Cluster) -> None:
    cluster.exec("n1", ["sh", "-c", "echo one >/shared/one; echo two >two"])
    assert cluster.exec("n2", ["cat", "/shared/one", "two"]).stdout.split() == ["one", "two"]
    assert (cluster.shared / "one").read_text() == "one\n"
    assert cluster.exec("n2", ["cat", "/home/alice/two"], user="bob", check=False).returncode != 0


@pytest.mark.parametrize("clock", ["CLOCK_MONOTONIC", "CLOCK_BOOTTIME"])
def test_clocks_differ(cluster: Cluster, clock: str) -> None:
    program = ["python3", "-c", f"import time; print(time.clock_gettime(time.{clock}))"]
    times = [float(cluster.exec(node, program).stdout) for node in cluster.all_nodes()]
    assert min(abs(a - b) for a in times for b in times if a is not b) > 1000


def test_container_under_plain_crun(cluster: Cluster, bundle: str) -> None:
    script = "import os; print(os.getpid(), os.getuid(), open('/proc/self/uid_map').read().split())"
    done = cluster.exec("ctl", ["srun", f"--container={bundle}", "python3", "-c", script])
    assert done.stdout.strip() == "1 0 ['0', '1000', '1']"


def test_container_status(cluster: Cluster, bundle: str) -> None:
    done = cluster.exec("ctl", ["srun", f"--container={bundle}", "bash", "-c", "exit 7"], check=False)
    assert done.returncode == 7


def test_preemption_requeues(cluster: Cluster) -> None:
    low = submit(cluster, "-p", "low", "-N2", "--exclusive", "--wrap", "echo started; sleep 600")
    wait_for_state(cluster, low, "RUNNING")
    cluster.exec("ctl", ["srun", "-p", "high", "-N2", "--exclusive", "true"])
    assert job(cluster, low)["Restarts"] == "1"
    wait_for_state(cluster, low, "RUNNING")
    wait_for(lambda: (cluster.shared / f"{low}.out").read_text().count("started") == 2, 10, "the second start")
    cluster.exec("ctl", ["scancel", low])
    wait_for_state(cluster, low, "CANCELLED")


def test_power_loss_and_boot(cluster: Cluster) -> None:
    lost = submit(cluster, "-w", "n2", "--wrap", "sleep 600")
    wait_for_state(cluster, lost, "RUNNING")
    init = cluster.node_pid("n2")
    cluster.kill("n2")
    assert not Path(f"/proc/{init}").exists()
    with pytest.raises(ClusterError, match="not up"):
        cluster.exec("n2", ["true"])
    wait_for(lambda: job(cluster, lost)["Restarts"] == "1", 30, "the lost job's requeue")
    cluster.exec("ctl", ["scancel", lost])
    cluster.boot("n2")
    assert cluster.exec("ctl", ["srun", "-w", "n2", "hostname"]).stdout == "n2\n"
    assert float(cluster.exec("n2", ["cat", "/proc/uptime"]).stdout.split()[0]) < 1000


def test_boot_at_once_after_power_loss(cluster: Cluster) -> None:
    # Slurm 24.11 takes half a minute to ask again about a job that was just completing on a node that went away.
    wait_for(lambda: cluster.node_states()["n2"] == "idle", 10, "n2 to be idle")
    cluster.kill("n2")
    cluster.boot("n2")
    assert cluster.exec("ctl", ["srun", "-w", "n2", "hostname"]).stdout == "n2\n"


def test_dead_daemon_is_seen(cluster: Cluster) -> None:
    cluster.exec("n1", ["pkill", "-SEGV", "-x", "munged"], user="root")
    wait_for(lambda: "munged was killed by SIGSEGV" in cluster.logs("n1"), 5, "a line in the log")
    cluster.kill("n1")
    cluster.boot("n1")


def test_name_is_taken(cluster: Cluster) -> None:
    with pytest.raises(ClusterError, match="already up"), Cluster(cluster.name, install=False):
        pass
    assert cluster.exec("n1", ["true"]).returncode == 0


def test_two_at_once(cluster: Cluster) -> None:
    with Cluster(f"{NAME}-other", nodes=1, install=False) as other:
        assert other.exec("ctl", ["srun", "hostname"]).stdout == "n1\n"
        assert cluster.exec("ctl", ["srun", "-w", "n2", "hostname"]).stdout == "n2\n"
    assert not traces(f"{NAME}-other")


@pytest.mark.parametrize("signum", [signal.SIGKILL, signal.SIGINT], ids=lambda signum: signal.Signals(signum).name)
def test_dead_starter_leaves_nothing(signum: int) -> None:
    starter, init = start_starter(f"{NAME}-starter")
    assert traces(f"{NAME}-starter")
    before = processes()  # a namespace that another test makes later may have the same number
    made = network_namespaces(before, f"oci-criu-shim-{NAME}-starter") - {os.readlink("/proc/self/ns/net")}
    assert made
    starter.send_signal(signum)
    starter.wait()
    wait_for(lambda: not traces(f"{NAME}-starter"), 15, "everything to be removed")
    assert not Path(f"/proc/{init}").exists()
    wait_for(lambda: not network_namespaces(before) & made, 5, "the network namespaces' end")


def test_dead_keeper_is_swept() -> None:
    starter, init = start_starter(f"{NAME}-keeper")
    keeper = int(Path(f"/proc/{starter.pid}/task/{starter.pid}/children").read_text())
    os.kill(keeper, signal.SIGKILL)
    wait_for(lambda: not Path(f"/proc/{init}").exists(), 5, "the nodes' end")
    starter.kill()
    starter.wait()
    Cluster(f"{NAME}-keeper").down()
    assert not traces(f"{NAME}-keeper")
    Cluster(f"{NAME}-keeper").down()
