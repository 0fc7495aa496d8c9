"""Where the checkpoint directory is slow, memory is compressed on its way there."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest

from tests import NAME
from tests.harness import jobs
from tests.harness.cluster import Cluster
from tests.harness.jobs import Work
from tests.harness.slow_disk import slow_disk


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    with Cluster(f"{NAME}-slow", grace_time=60, kill_wait=3, requeue_delay=120) as made:
        yield made


@pytest.fixture(scope="module")
def bundle(cluster: Cluster) -> str:
    return jobs.prepare(cluster)


@pytest.mark.parametrize("way", ["contained", "bare"])
def test_compressed_on_the_way(cluster: Cluster, bundle: str, way: str) -> None:
    """By the settings as they are installed. The disk is so slow that a busy machine compresses faster."""
    options = [f"--container={bundle}"] if way == "contained" else []
    with slow_disk(cluster, jobs.CHECKPOINTS, "20M"):
        work = Work(ticks=60, tick=0.3, mib=96, text=True)
        job = jobs.submit(cluster, f"slow-{way}", "exec {command}", work, *options, *jobs.OPTIONS)
        jobs.preempt_once(job)
    said = next(event for event in job.events() if event.startswith("checkpointed "))
    sizes = re.search(r" \((\d+)\.\d MiB.*, compressed to (\d+)\.\d MiB", said)
    assert sizes, job.quoted()
    assert int(sizes[2]) < 0.7 * int(sizes[1])


def test_random_memory_is_not(cluster: Cluster, bundle: str) -> None:
    with slow_disk(cluster, jobs.CHECKPOINTS, "50M"):
        job = jobs.batch(cluster, bundle, "random", Work(ticks=60, tick=0.3, mib=96), *jobs.OPTIONS)
        jobs.preempt_once(job)
    assert "compressed" not in job.output(), job.quoted()
