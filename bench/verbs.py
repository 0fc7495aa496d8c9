"""Measures what each verb of the shim costs beside the same verb of crun, for root's containers on a node.

Both run the same round in turns: a container is created, started, asked, paused, checkpointed, ended, deleted, and
another one runs `true`. There is no `restore`: that of crun 1.21 stops a node whose control groups are of version 1. In
the goal Python's own start stands in for crun's: it is what an interpreted program cannot do without.
"""

from __future__ import annotations

import json
from pathlib import Path

from bench.report import Measure, Progress, Result, differences, ratios, versions
from tests.harness.cluster import Cluster
from tests.harness.cluster.bundle import make_bundle
from tests.harness.cluster.settings import REPOSITORY

RUNS = 20
GOAL = 0.010
WITH_GOAL = ("state", "kill", "delete")
PROGRAM = REPOSITORY / "bench/programs/verbs.py"


def measure(progress: Progress) -> Result:
    """Run this benchmark, which takes a minute. Raise ClusterError if a verb fails."""
    with Cluster("bench-verbs", nodes=1) as cluster:
        make_bundle_of_root(cluster.shared / "verbs")
        result = Result(versions(cluster))
        progress(f"{RUNS} rounds")
        said = cluster.exec("n1", ["python3", "-IS", f"/src/{PROGRAM.relative_to(REPOSITORY)}", str(RUNS)], "root")
        times: dict[str, dict[str, list[float]]] = json.loads(said.stdout)
    python = times["python"]["start"]
    result.measures["python"] = Measure.of(python)
    for verb, crun in times["crun"].items():
        shim = times["oci-criu-shim"][verb]
        result.measures[f"{verb}_ratio"] = Measure.of(ratios(shim, crun), "ratio")
        if verb in WITH_GOAL:
            result.measures[f"{verb}_over_python"] = Measure.of(differences(shim, python), goal=GOAL)
    return result


def make_bundle_of_root(path: Path) -> None:
    """A bundle of root's, without a user namespace, that waits for its end."""
    config = make_bundle(path, 0, 0) / "config.json"
    spec = json.loads(config.read_text())
    spec["process"]["args"] = ["sleep", "1000"]
    linux = spec["linux"]
    linux["namespaces"] = [entry for entry in linux["namespaces"] if entry["type"] != "user"]
    for mapping in ("uidMappings", "gidMappings"):
        linux.pop(mapping, None)
    config.write_text(json.dumps(spec))
