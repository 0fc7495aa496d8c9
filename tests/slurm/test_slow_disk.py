"""Where the checkpoint directory is slow, memory is compressed on its way there."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest

from tests import NAME
from tests.harness import jobs
from tests.harness.cluster import Cluster, wait_for
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


# Its children share some memory, and have written to a part of what was their parent's.
FAMILY = """exec python3 -c '
import hashlib, mmap, os, time
ours = bytearray(os.urandom(1 << 19).hex().encode() * 32)
shared = mmap.mmap(-1, 64 << 20)
shared.write(bytes(ours) * 2)
sums = [hashlib.sha256(memory).hexdigest() for memory in (ours, shared)]
children = []
for number in range(2):
    if not (child := os.fork()):
        ours[number << 20 : number + 1 << 20] = bytes(1 << 20)
        own = hashlib.sha256(ours).hexdigest()
        while not os.path.exists("/shared/family.go"):
            time.sleep(0.1)
        os._exit([hashlib.sha256(memory).hexdigest() for memory in (ours, shared)] != [own, sums[1]])
    children.append(child)
open("/shared/family.begun", "w").close()
found = [os.waitpid(child, 0)[1] for child in children]
found.append([hashlib.sha256(memory).hexdigest() for memory in (ours, shared)] != sums)
print("family", found, flush=True)
'"""


@pytest.mark.usefixtures("bundle")
def test_shared_memory(cluster: Cluster) -> None:
    with slow_disk(cluster, jobs.CHECKPOINTS, "20M"):
        job = jobs.submit(cluster, "family", FAMILY, Work(), *jobs.OPTIONS)
        job.wait_running()
        wait_for((cluster.shared / "family.begun").exists, 60, "its memory")
        high = job.displace()
        wait_for(lambda: any(event.startswith("restored ") for event in job.events()), 120, "its restore")
        cluster.exec("ctl", ["scancel", high])
        (cluster.shared / "family.go").touch()
        assert job.wait_end() == "COMPLETED", job.quoted()
    assert "family [0, 0, False]\n" in job.output()
    assert ", compressed to " in next(event for event in job.events() if event.startswith("checkpointed "))


def test_random_memory_is_not(cluster: Cluster, bundle: str) -> None:
    with slow_disk(cluster, jobs.CHECKPOINTS, "50M"):
        job = jobs.batch(cluster, bundle, "random", Work(ticks=60, tick=0.3, mib=96), *jobs.OPTIONS)
        jobs.preempt_once(job)
    assert "compressed" not in job.output(), job.quoted()
