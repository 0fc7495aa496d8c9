"""Jobs of users who have ranges of ids in /etc/subuid, and tasks that may begin again without a checkpoint."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from tests.harness import jobs
from tests.harness.cluster import Cluster, wait_for
from tests.harness.jobs import Work
from tests.node.configured import as_oneself

BECOME_ANOTHER = "exec setpriv --reuid=33 --regid=33 --clear-groups -- {command}"
RANGES = "0 1000 1 1 100000 65536"


def maps(cluster: Cluster, node: str) -> list[str]:
    """The mapping of user ids of each running ledger."""
    script = "for pid in $(pgrep -f '^python3 /shared/ledger'); do echo $(cat /proc/$pid/uid_map); done"
    return cluster.exec(node, ["sh", "-c", script], "root").stdout.splitlines()


def changed(cluster: Cluster, bundle: str, name: str, change: Callable[[dict[str, Any]], object]) -> str:
    """A bundle like this one, with another config.json."""
    here = cluster.instance.data / bundle.lstrip("/")
    spec = json.loads((here / "config.json").read_text())
    change(spec)
    spec["root"]["path"] = f"{bundle}/rootfs"
    (here / name).mkdir()
    (here / name / "config.json").write_text(json.dumps(spec))
    return f"{bundle}/{name}"


def allow_other_users(spec: dict[str, Any]) -> None:
    """Its processes may become other users."""
    for capabilities in spec["process"]["capabilities"].values():
        capabilities += ["CAP_SETUID", "CAP_SETGID"]


def test_own_numbers(ranges_cluster: Cluster, ranges_bundle: str) -> None:
    """The user is the user inside, too, before the preemption and after it."""
    bundle = changed(ranges_cluster, ranges_bundle, "own", as_oneself)
    command = "id -u; {command}; id -u"
    job = jobs.submit(ranges_cluster, "own", command, Work(), f"--container={bundle}", *jobs.OPTIONS)
    node = job.wait_running()
    job.wait_ticks(3)
    before = maps(ranges_cluster, node)
    job.preempt()
    wait_for(lambda: maps(ranges_cluster, job.nodes[-1]), 20, "it to go on")
    assert maps(ranges_cluster, job.nodes[-1]) == before == ["1000 1000 1"], job.quoted()
    job.wait_end()
    assert not job.failures(), job.quoted()
    assert [line for line in job.output().splitlines() if line.isdecimal()] == ["1000", "1000"]


def test_ranges_are_mapped_again(ranges_cluster: Cluster, ranges_bundle: str) -> None:
    job = jobs.batch(ranges_cluster, ranges_bundle, "ranges", Work(), *jobs.OPTIONS)
    node = job.wait_running()
    job.wait_ticks(3)
    before = maps(ranges_cluster, node)
    job.preempt()
    assert maps(ranges_cluster, job.nodes[-1]) == before == [RANGES]
    job.wait_end()
    assert not job.failures(), job.quoted()


def test_a_job_without_checkpoint_begins_again_once(ranges_cluster: Cluster, ranges_bundle: str) -> None:
    """Not once more at its end, as a job would that slurmctld requeued itself when the grace time was over."""
    bundle = changed(ranges_cluster, ranges_bundle, "others", allow_other_users)
    ticks = 90
    work = Work(ticks=ticks, tick=0.3)  # longer than the grace time: what ends in it is begun again by Slurm
    job = jobs.submit(ranges_cluster, "again", BECOME_ANOTHER, work, f"--container={bundle}", *jobs.OPTIONS)
    job.wait_running()
    job.wait_ticks(3)
    job.displace()
    wait_for(lambda: any("starts from its beginning" in e for e in job.events()), 60, "the second start")
    reasons = [event for event in job.events() if "could not be checkpointed and runs on" in event]
    assert len(reasons) == 1 and "runs as a user who is not you outside" in reasons[0]
    assert (job.wait_end(), job.record()["restart_cnt"]) == ("COMPLETED", 1), job.quoted()
    numbers = [int(line.split()[1]) for line in job.ledger().splitlines()]
    assert numbers[-ticks:] == list(range(1, ticks + 1)) and numbers.count(1) == 2
