"""Tests that what a test leaves on a node is seen. Every other test of this directory relies on it."""

from __future__ import annotations

import pytest

from tests.harness import jobs, leftovers
from tests.harness.cluster import Cluster, ClusterError

SOCKET = "import socket; socket.socket(socket.AF_UNIX).bind('/run/left.sock')"
THINGS = {
    # What leaves it, what ends it, and what is said of it.
    "process": ("setsid sleep 4243 & echo $! >/root/pid", "kill $(cat /root/pid)", "process of user 0: sleep 4243"),
    "mount": ("mount -t tmpfs left /mnt", "umount /mnt && rmdir /run/mount", "mount at /mnt of type tmpfs"),
    "namespace": (
        "setsid unshare --ipc sleep 4243 & echo $! >/root/pid",
        "kill $(cat /root/pid)",
        "namespace of type ipc",
    ),
    "interface": ("ip link add left type dummy || ip link add left type veth", "ip link del left", "interface left"),
    "rules": ("nft add table inet left", "nft delete table inet left", "nftables: table inet left {"),
    "socket": (f'python3 -c "{SOCKET}"', "rm /run/left.sock", "file /run/left.sock"),
    "file": ("mkdir -p /run/oci-criu-shim/7", "rm -r /run/oci-criu-shim", "file /run/oci-criu-shim/7"),
    "group": (
        "mkdir -p /sys/fs/cgroup/freezer/slurm_n1/left || mkdir /sys/fs/cgroup/left",
        "rmdir /sys/fs/cgroup/freezer/slurm_n1/left || rmdir /sys/fs/cgroup/left",
        "/left",
    ),
    "memory": ("ipcmk --shmem 4096 >/dev/null", "ipcrm --all=shm", "System V shm"),
    "stage": (
        f"mkdir -p {jobs.CHECKPOINTS}/7/.stage.n1.1.1",
        f"rm -r {jobs.CHECKPOINTS}/7; rmdir --ignore-fail-on-non-empty {jobs.CHECKPOINTS}",
        "unfinished checkpoint: 7/.stage.n1.1.1",
    ),
}


@pytest.mark.parametrize("kind", THINGS)
def test_what_is_left_is_seen(plain_cluster: Cluster, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    leave, end, said = THINGS[kind]
    monkeypatch.setattr(leftovers, "SETTLING", 0)
    with pytest.raises(ClusterError, match="left behind:") as caught, leftovers.none_on(plain_cluster):
        plain_cluster.exec("n1", ["sh", "-c", f"exec >/dev/null 2>&1; {leave}"], "root")
    plain_cluster.exec("n1", ["sh", "-c", end], "root")
    assert said in caught.value.message


def test_nothing_left_is_nothing_said(plain_cluster: Cluster) -> None:
    with leftovers.none_on(plain_cluster):
        assert plain_cluster.exec("ctl", ["srun", "hostname"]).stdout == "n1\n"


def test_a_node_that_does_not_get_idle(plain_cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    """What keeps it so is said, and the next test has it back."""
    monkeypatch.setattr(leftovers, "IDLE", 2)
    drain = ["scontrol", "update", "NodeName=n1", "State=DRAIN", "Reason=broken"]
    plain_cluster.exec("ctl", drain, "root")
    number = plain_cluster.exec("ctl", ["sbatch", "--parsable", "--output=/dev/null", "--wrap", "true"]).stdout.strip()
    with pytest.raises(ClusterError, match="in vain") as caught:
        leftovers.wait_idle(plain_cluster)
    said = caught.value.message
    assert "n1 drained " in said and "broken" in said and f"{number} wrap PENDING" in said and "slurmd -D" in said
    assert "was mended" in said
    monkeypatch.undo()
    leftovers.wait_idle(plain_cluster)
