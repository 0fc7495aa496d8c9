"""What Slurm does with a preempted job, by its configuration and its counts."""

from __future__ import annotations

from typing import Any

import pytest

from oci_criu_shim.errors import ShimError
from oci_criu_shim.slurm import commands, grace
from tests.unit.test_slurm import seen

# As Slurm 24.11 prints them.
SITE = """\
JobRequeue              = 1
MaxBatchRequeue         = 5
PreemptMode             = REQUEUE
PreemptType             = preempt/partition_prio
"""
PARTITIONS = """\
PartitionName=low Default=YES PriorityTier=1 GraceTime=60 PreemptMode=REQUEUE
PartitionName=cut Default=NO PriorityTier=1 GraceTime=60 PreemptMode=CANCEL
"""
JOB = (
    "JobId=12 JobName=a Account=(null) QOS=long JobState=RUNNING Reason=None Requeue=1 Restarts=3 BatchFlag=3 Reboot=0"
)
ARRAY = (
    "JobId=13 ArrayJobId=12 ArrayTaskId=4 QOS=long JobState=RUNNING Reason=None Requeue=1 Restarts=3 BatchFlag=9 R=0"
)
QOS = """\
Current Association Manager state

QOS Records

QOS=normal(1)
    UsageRaw=0.000000
    MinTRESPJ=
    PreemptMode=OFF
    Priority=0
QOS=long(2)
    UsageRaw=0.000000
    PreemptMode={}
    Priority=10
"""
QOS_SITE = SITE.replace("partition_prio", "qos")


class Slurm:
    """Answers in place of Slurm's commands."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.said = {"config": SITE, "partition": PARTITIONS, "job": f"{ARRAY}\n{JOB} Comment=x\n", "assoc_mgr": QOS}
        for module in (commands, grace):
            monkeypatch.setattr(module, "run", lambda *argv: self.said[argv[2]])
        monkeypatch.setattr(commands.Commands, "parts", lambda *_: [{"group": None, "partition": "low"}])


@pytest.fixture
def slurm(monkeypatch: pytest.MonkeyPatch) -> Slurm:
    return Slurm(monkeypatch)


def fate(**changes: Any) -> grace.Fate:
    return grace.fate(seen(**{"preempt_time": 9, **changes}))


@pytest.mark.parametrize(
    ("changes", "site", "obstacle"),
    [
        ({}, SITE, ""),
        ({"partition": "cut"}, SITE, "PreemptMode=CANCEL"),
        ({"partition": "cut", "preempt_time": 0}, SITE, ""),
        ({"requeue": False}, SITE, "--no-requeue"),
        ({"requeue": False}, SITE.replace("JobRequeue              = 1", "JobRequeue = 0"), "JobRequeue=0"),
        ({"batch": False, "partition": "cut"}, SITE, "it has no batch script"),
    ],
)
def test_why_a_job_is_not_requeued(slurm: Slurm, changes: dict[str, Any], site: str, obstacle: str) -> None:
    slurm.said["config"] = site
    assert fate(**changes).obstacle == obstacle


@pytest.mark.parametrize(
    ("changes", "obstacle"),
    [({}, ""), ({"partition": "cut"}, "PreemptMode=CANCEL"), ({"requeue": False}, "--no-requeue")],
)
def test_what_would_become_of_a_job_that_is_not_preempted(slurm: Slurm, changes: dict[str, Any], obstacle: str) -> None:
    assert grace.if_preempted(seen(**changes)).obstacle == obstacle
    assert not grace.fate(seen(**changes)).obstacle


@pytest.mark.parametrize(
    ("qos", "site", "obstacle"),
    [
        ("CANCEL", "REQUEUE", "PreemptMode=CANCEL"),
        ("REQUEUE", "CANCEL", ""),
        ("OFF", "REQUEUE", ""),  # Slurm's word for the site's own mode
        ("OFF", "GANG,SUSPEND", "PreemptMode=GANG,SUSPEND"),
    ],
)
def test_a_mode_of_the_qos(slurm: Slurm, qos: str, site: str, obstacle: str) -> None:
    """Whatever that of the partition is."""
    slurm.said["assoc_mgr"] = QOS.format(qos)
    slurm.said["config"] = QOS_SITE.replace("= REQUEUE", f"= {site}")
    assert fate(partition="cut").obstacle == obstacle


def test_a_qos_that_is_not_cached(slurm: Slurm) -> None:
    slurm.said["assoc_mgr"] = "Current Association Manager state\n\nNo QOS currently cached in Slurm.\n\n"
    slurm.said["config"] = QOS_SITE
    assert not fate().obstacle


def test_a_component_that_is_led_by_another(slurm: Slurm, monkeypatch: pytest.MonkeyPatch) -> None:
    """If one of a heterogeneous job's is to be requeued, all are."""
    parts = [{"group": 0, "partition": "low"}, {"group": 1, "partition": "cut"}]
    monkeypatch.setattr(commands.Commands, "parts", lambda *_: parts)
    assert not fate(partition="cut").obstacle


@pytest.mark.parametrize(
    ("count", "limit", "counts", "is_held"),
    [
        (1, 5, True, False),
        (3, 5, True, False),
        (4, 5, False, False),
        (5, 5, False, True),
        (1, 2, False, False),
        (1, 1, False, True),
        (900, 1000, True, False),
    ],
)
def test_one_count_is_spared(slurm: Slurm, count: int, limit: int, counts: bool, is_held: bool) -> None:
    """For the end of a job that carries the mark of its grace time."""
    slurm.said["job"] = JOB.replace("BatchFlag=3", f"BatchFlag={count}")
    slurm.said["config"] = SITE.replace("= 5", f"= {limit}")
    found = fate()
    assert (found.counts, found.is_held, found.limit) == (counts, is_held, limit)


def test_what_another_slurm_says(slurm: Slurm) -> None:
    slurm.said["job"] = "JobId=12 QOS=long\n"
    with pytest.raises(ShimError, match="gave none that this version reads"):
        fate()
