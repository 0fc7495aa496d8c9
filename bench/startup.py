"""Measures what the shim adds to the start and end of a container, inside and outside of Slurm.

Each pair of commands is run in turns on the same node of the same cluster, and timed on the node, so that what the
test cluster adds to a command is in no figure. slurmstepd and srun read oci.conf and plugstack.conf for every step:
"plain crun" has crun in the one and nothing in the other, so the plugin's cost counts as the shim's. A task without a
container is compared with one that nobody checkpoints.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager

from bench.report import Measure, Progress, Result, ratios, versions
from tests.harness import jobs
from tests.harness.cluster import Cluster, ClusterError, wait_for
from tests.harness.cluster.conf import PLAIN_CRUN

RUNS = 20
WARM_UP = 2
GOAL, BARE_GOAL = 1.15, 1.25
BUNDLE = "/home/alice/bundle"
TRUE = "/home/alice/true"
SLEEP = "/home/alice/sleep"
SRUN = ("srun", f"--container={BUNDLE}", "/bin/true")
PLAIN = ("srun", "/bin/true")
BARE = ("srun", *jobs.OPTIONS[:2], "/bin/true")
WITHOUT = {"oci.conf": PLAIN_CRUN, "plugstack.conf": ""}
"""Slurm's files of a site that has plain crun, and nothing of ours."""
SHIM = ("oci-criu-shim", "--root=/tmp/shim")
CRUN = ("crun", "--root=/tmp/crun", "--cgroup-manager=disabled")

# Runs a command to its end and prints the seconds it took, or fails as it did.
TIMER = """
import subprocess, sys, time
begin = time.perf_counter()
done = subprocess.run(sys.argv[1:], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
print(time.perf_counter() - begin)
sys.exit(done.returncode)
"""


def measure(progress: Progress) -> Result:
    """Run this benchmark, which takes half a minute. Raise ClusterError if a program fails."""
    with Cluster("bench-startup", nodes=1) as cluster:
        jobs.prepare(cluster)
        for path, argv in ((TRUE, ["/bin/true"]), (SLEEP, ["sleep", "1000"])):
            _derive_bundle(cluster, path, argv)
        result = Result(versions(cluster))
        _srun(cluster, result, progress)
        _run(cluster, result, progress)
        _state(cluster, result, progress)
        return result


def _derive_bundle(cluster: Cluster, path: str, argv: list[str]) -> None:
    """A bundle with the root of BUNDLE that runs argv."""
    home = cluster.home.parent
    spec = json.loads((home / BUNDLE[1:] / "config.json").read_text())
    spec["root"]["path"] = f"{BUNDLE}/rootfs"
    spec["process"]["args"] = argv
    directory = home / path[1:]
    directory.mkdir()
    (directory / "config.json").write_text(json.dumps(spec))


def _srun(cluster: Cluster, result: Result, progress: Progress) -> None:
    def plain(argv: Sequence[str]) -> float:
        with without(cluster):
            return timed(cluster, "ctl", argv)

    kinds = {"shim": lambda: timed(cluster, "ctl", SRUN), "crun": lambda: plain(SRUN)}
    compare(result, progress, "srun", kinds, GOAL)
    kinds = {"shim": lambda: timed(cluster, "ctl", BARE), "plain": lambda: plain(PLAIN)}
    compare(result, progress, "bare", kinds, BARE_GOAL)


@contextmanager
def without(cluster: Cluster) -> Iterator[None]:
    """In the block, Slurm has plain crun, and nothing of ours."""
    installed = {name: (cluster.conf / name).read_text() for name in WITHOUT}
    _configure(cluster, WITHOUT)
    try:
        yield
    finally:
        _configure(cluster, installed)


def _configure(cluster: Cluster, texts: Mapping[str, str]) -> None:
    # The former job's epilog still uses the former plugstack.conf.
    wait_for(lambda: set(cluster.node_states().values()) == {"idle"}, 30, "an idle node")
    for name, text in texts.items():
        (cluster.conf / name).write_text(text)


def _run(cluster: Cluster, result: Result, progress: Progress) -> None:
    def run(runtime: Sequence[str]) -> float:
        return timed(cluster, "n1", (*runtime, "run", "--bundle", TRUE, "one"))

    compare(result, progress, "run", {"shim": lambda: run(SHIM), "crun": lambda: run(CRUN)})


def _state(cluster: Cluster, result: Result, progress: Progress) -> None:
    def state(runtime: Sequence[str]) -> float:
        return timed(cluster, "n1", (*runtime, "state", "other"))

    with _running(cluster, SHIM), _running(cluster, CRUN):
        compare(result, progress, "state", {"shim": lambda: state(SHIM), "crun": lambda: state(CRUN)})


@contextmanager
def _running(cluster: Cluster, runtime: Sequence[str]) -> Iterator[None]:
    """The container `other`, as long as the block lasts."""
    null = subprocess.DEVNULL
    argv = cluster.argv("n1", (*runtime, "run", "--bundle", SLEEP, "other"))
    with subprocess.Popen(argv, stdin=null, stdout=null, stderr=null) as child:

        def answers() -> bool:
            done = cluster.exec("n1", (*runtime, "state", "other"), check=False)
            return '"running"' in done.stdout

        try:
            wait_for(answers, 20, f"{runtime[0]} to run a container")
            yield
        finally:
            cluster.exec("n1", (*runtime, "delete", "--force", "other"), check=False)
            child.wait(20)


def compare(
    result: Result,
    progress: Progress,
    name: str,
    kinds: Mapping[str, Callable[[], float]],
    goal: float | None = None,
    runs: int = RUNS,
    warm_up: int = WARM_UP,
    unit: str = "s",
    better: str = "lower",
) -> None:
    """Measure two kinds in turns; add both, and the ratio of the first to the second."""
    samples: dict[str, list[float]] = {kind: [] for kind in kinds}
    for number in range(1 - warm_up, runs + 1):
        for kind, once in kinds.items():
            sample = once()
            if number > 0:
                samples[kind].append(sample)
        progress(f"{name}: {max(number, 0)} of {runs}")
    result.measures |= {f"{name}_{kind}": Measure.of(found, unit, better=better) for kind, found in samples.items()}
    result.measures[f"{name}_ratio"] = Measure.of(ratios(*samples.values()), "ratio", goal, better)


def timed(cluster: Cluster, node: str, argv: Sequence[str], user: str = "alice") -> float:
    """Return the seconds that argv takes on a node. Raise ClusterError if it fails."""
    done = cluster.exec(node, ("python3", "-IS", "-c", TIMER, *argv), user)
    try:
        return float(done.stdout)
    except ValueError:
        raise ClusterError(f"{argv[0]} was not timed: {done.stdout!r}") from None
