"""Finds what tests leave on a cluster's nodes: what is there when nothing runs, and was not there before."""

from __future__ import annotations

import subprocess
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

from tests.harness.cluster import Cluster, ClusterError, wait_for
from tests.harness.cluster.process import tail
from tests.harness.jobs import CHECKPOINTS

PROGRAM = "/src/tests/harness/programs/present.py"
JOB, PROCESS = "%A %j %T %r %N", "pid,ppid,user,stat,wchan:20,args"
"""What squeue says of a job, and ps of a process."""
IDLE = 60
"""Seconds that a cluster may take to have ended its jobs."""
BROKEN: set[str] = set()
"""The names of clusters that could not be mended."""
STUCK = 45
"""Seconds for which no extern step waits for the others of its job."""
EMPTY = r"""
for pid in $(pgrep -f '^slurmstepd: \[[0-9]*\.extern\]'); do
    job=$(sed 's/^slurmstepd: \[\([0-9]*\).*/\1/' /proc/$pid/cmdline | tr -d '\0')
    group=$(ls -d /sys/fs/cgroup/freezer/*/uid_*/job_$job/step_extern) || continue
    [ -n "$(find $group -name cgroup.procs -exec cat {} +)" ] || echo $pid
done 2>/dev/null
"""
"""Prints the pids of extern steps' slurmstepd whose group, of version 1, has no process, as before their job's end."""
SETTLING = 15
"""Seconds that Slurm, which clears up after it has called a job ended, may take."""


def look(cluster: Cluster) -> Counter[str]:
    """Return what is there now, on all nodes that are up. A line counts as often as there is such a thing."""
    found = Counter(_unfinished_checkpoints(cluster))
    for node in cluster.all_nodes():
        if cluster.instance.node_state(node).exists():
            done = cluster.exec(node, ["python3", "-ISB", PROGRAM], "root")
            found.update(f"{node}: {line}" for line in done.stdout.splitlines())
    return found


def _unfinished_checkpoints(cluster: Cluster) -> Iterator[str]:
    """Yield what a writer of checkpoints makes and has to remove: names that begin with a dot."""
    store = cluster.home / CHECKPOINTS.removeprefix("/home/")
    yield from (f"unfinished checkpoint: {path.relative_to(store)}" for path in store.rglob(".*"))


def wait_idle(cluster: Cluster) -> None:
    """Wait until no job is left and the nodes that are up are free.

    Raise ClusterError, with all that can be seen of the cluster, if that takes too long. The cluster is mended first,
    so that the tests after this one have a chance; if it can't be mended, they fail at once.
    """
    if cluster.name in BROKEN:
        raise ClusterError(f"cluster {cluster.name} was left broken by an earlier test")
    waiting: dict[str, float] = {}

    def idle() -> bool:
        if busy_nodes(cluster) or jobs_left(cluster):
            end_stuck_steps(cluster, waiting)
            return False
        return True

    try:
        wait_for(idle, IDLE, f"cluster {cluster.name} to be idle")
    except ClusterError as error:
        raise ClusterError(f"{error.message}\n{described(cluster)}\n{mend(cluster)}") from None


def end_stuck_steps(cluster: Cluster, waiting: dict[str, float]) -> None:
    """End each slurmstepd of an extern step that has had nothing to wait for since STUCK seconds; `waiting` notes them.

    If another request to end the step comes while it ends, on a busy machine, slurmstepd may wait for a thread of its
    own that nobody wakes (step_terminate_monitor_stop() in Slurm 24.11). Three minutes later the node is drained, since
    the step could not be ended.
    """
    for node in busy_nodes(cluster):
        for pid in cluster.exec(node, ["sh", "-c", EMPTY], "root", check=False).stdout.split():
            if time.monotonic() > waiting.setdefault(f"{node} {pid}", time.monotonic()) + STUCK:
                cluster.exec(node, ["kill", "-KILL", pid], "root", check=False)


def busy_nodes(cluster: Cluster) -> list[str]:
    """Return the nodes that are up but not idle."""
    states = cluster.node_states()
    return [node for node in nodes_up(cluster) if states.get(node) != "idle"]


def nodes_up(cluster: Cluster) -> list[str]:
    return [node for node in cluster.compute_nodes() if cluster.instance.node_state(node).exists()]


def jobs_left(cluster: Cluster) -> str:
    """Return a line for each job that Slurm has not done with; also something if slurmctld does not answer."""
    done = cluster.exec("ctl", ["squeue", "--noheader", f"--format={JOB}"], "root", check=False)
    return done.stdout + done.stderr


def described(cluster: Cluster) -> str:
    """Return what the controller says of its jobs and nodes, and what runs and was logged on each."""
    commands = [("ctl", ["sinfo", "--Node", "--format=%N %T %H %E"]), ("ctl", ["squeue", f"--format={JOB}"])]
    commands += [(node, ["ps", "-eo", PROCESS, "--forest"]) for node in nodes_up(cluster)]
    said = []
    for node, argv in commands:
        done = cluster.exec(node, argv, "root", check=False)
        said.append(f"{node}: {' '.join(argv)}\n{tail(done.stdout + done.stderr, 60)}")
    return "\n".join([*said, *(f"{node}:\n{tail(cluster.logs(node), 40)}" for node in cluster.all_nodes())])


def mend(cluster: Cluster) -> str:
    """Cancel all jobs and boot the nodes that are not idle, which ends whatever keeps them so. Return how that went."""
    try:
        if not cluster.node_states():
            raise ClusterError("its controller does not answer")
        cancel_all(cluster)
        for node in busy_nodes(cluster):
            cluster.kill(node)
            cluster.exec("ctl", ["scontrol", "update", f"NodeName={node}", "State=RESUME"], "root", check=False)
            cluster.boot(node)
    except (ClusterError, subprocess.TimeoutExpired) as error:
        BROKEN.add(cluster.name)
        return f"it could not be mended: {error}"
    return "it was mended: jobs were cancelled, and nodes that were not idle were booted"


def cancel_all(cluster: Cluster) -> None:
    cluster.exec("ctl", ["sh", "-c", "squeue --noheader --format=%A | xargs -r scancel"], "root", check=False)


def end_jobs(cluster: Cluster) -> None:
    """Cancel every job, and wait for their end."""
    cancel_all(cluster)
    wait_idle(cluster)


def left(cluster: Cluster, before: Counter[str]) -> list[str]:
    """Return what was not there before, and does not go away in SETTLING seconds."""
    found: list[str] = []

    def nothing() -> bool:
        found[:] = sorted((look(cluster) - before).elements())
        return not found

    try:
        wait_for(nothing, SETTLING, "nothing to be left")
    except ClusterError:
        return found
    return []


@contextmanager
def none_on(*clusters: Cluster) -> Iterator[None]:
    """Have the clusters idle before and after the block. Raise ClusterError if the block leaves anything on them."""
    for cluster in clusters:
        wait_idle(cluster)
    before = [look(cluster) for cluster in clusters]
    yield
    for cluster in clusters:
        end_jobs(cluster)
    for cluster, seen in zip(clusters, before, strict=True):
        if found := left(cluster, seen):
            logs = (f"{node}:\n{tail(cluster.logs(node), 40)}" for node in cluster.compute_nodes())
            raise ClusterError("\n".join(["\n  ".join(["left behind:", *found]), *logs]))
