"""Slurm asked by its commands and by pyslurm: one contract for both.

PYSLURM_PATH names a directory with a pyslurm of the nodes' Slurm and Python; without one, only what a node has can be
tried.
"""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Iterator
from typing import Any

import pytest

from tests.harness.cluster import Cluster, wait_for

PACKAGES = "/usr/lib/python3/dist-packages"
ASK = f"""
import json, sys
sys.path[:0] = ["/usr/lib/oci-criu-shim"]
sys.path.append("{PACKAGES}")
from oci_criu_shim.errors import ShimError
from oci_criu_shim.slurm import commands, library
try:
    asked = library.Library(library.load()) if sys.argv[1] == "pyslurm" else commands.Commands()
    answer = getattr(asked, sys.argv[2])(*json.loads(sys.argv[3])) if sys.argv[2:] else asked.describe()
    print(json.dumps({{"answer": list(answer) if isinstance(answer, set) else answer}}))
except ShimError as error:
    print(json.dumps({{"error": str(error)}}))
"""
SETTINGS = (
    *("PrologFlags", "ProctrackType", "PreemptType", "JobRequeue", "JobFileAppend"),
    *("SLURM_VERSION", "PlugStackConfig", "PluginDir"),
)


class Asked:
    """Slurm, asked one of the two ways."""

    def __init__(self, cluster: Cluster, way: str) -> None:
        self.cluster = cluster
        self.way = way

    def said(self, *question: object) -> dict[str, Any]:
        """{answer}, or {error}."""
        words = [question[0], json.dumps(question[1:])] if question else []
        done = self.cluster.exec("n1", ["python3", "-I", "-S", "-c", ASK, self.way, *map(str, words)])
        assert not done.stderr
        found: dict[str, Any] = json.loads(done.stdout)
        return found

    def ask(self, *question: object) -> Any:
        return self.said(*question)["answer"]

    def states(self, job: int) -> list[str]:
        states: list[str] = self.ask("job", job)["states"]
        return states


@pytest.fixture(params=["commands", "pyslurm"])
def asked(request: pytest.FixtureRequest, shim_cluster: Cluster) -> Iterator[Asked]:
    made = Asked(shim_cluster, request.param)
    given = os.environ.get("PYSLURM_PATH") if request.param == "pyslurm" else None
    if given:
        shutil.copytree(given, shim_cluster.shared / "pyslurm", dirs_exist_ok=True)
        shim_cluster.exec("n1", ["ln", "-s", "/shared/pyslurm/pyslurm", PACKAGES], "root")
    try:
        if "error" in (said := made.said()):
            version = shim_cluster.exec("n1", ["scontrol", "--version"]).stdout.split()[-1]
            pytest.skip(f"pyslurm for Slurm {version} can't be had: {said['error']}; PYSLURM_PATH may name one")
        yield made
    finally:
        if given:
            shim_cluster.exec("n1", ["rm", f"{PACKAGES}/pyslurm"], "root")
            shutil.rmtree(shim_cluster.shared / "pyslurm")


@pytest.fixture
def submit(shim_cluster: Cluster) -> Iterator[Any]:
    """Submits alice's jobs, which end with the test."""
    numbers = []

    def made(*options: str, script: str = "sleep 300") -> int:
        argv = ["sbatch", "--parsable", "-p", "low", "--output=/dev/null", *options, "--wrap", script]
        numbers.append(int(shim_cluster.exec("ctl", argv).stdout))
        return numbers[-1]

    yield made
    shim_cluster.exec("ctl", ["scancel", *map(str, numbers)])


def test_a_job_that_runs(asked: Asked, submit: Any) -> None:
    job = submit("--comment=mine, = mine", "-w", "n1", "-x", "n2", "--time=5", "--requeue")
    wait_for(lambda: asked.states(job) == ["RUNNING"], 30, "the job to run")
    found = asked.ask("job", job)
    assert 120 < found.pop("end_time") - time.time() <= 301
    assert found == {
        **{"job_id": job, "name": str(job), "states": ["RUNNING"], "restarts": 0, "preempt_time": 0},
        **{"suspend_time": 0, "expedited": False},
        **{"limited": True, "partition": "low", "batch": True, "batch_host": "n1", "requeue": True, "node_count": 1},
        **{"required_nodes": "n1", "excluded_nodes": "n2", "features": "", "comment": "mine, = mine"},
    }


def test_a_job_that_waits(asked: Asked, submit: Any) -> None:
    job = submit("--hold", "-N2", "--no-requeue")
    found = asked.ask("job", job)
    assert (found["states"], found["limited"], found["requeue"]) == (["PENDING"], False, False)
    assert (found["batch_host"], found["node_count"], found["comment"]) == ("", 2, "")


def test_a_job_in_its_grace_time(asked: Asked, submit: Any) -> None:
    job = submit("--exclusive", "-w", "n1")
    wait_for(lambda: asked.states(job) == ["RUNNING"], 30, "the job to run")
    submit("-p", "high", "--exclusive", "-w", "n1")
    wait_for(lambda: asked.ask("job", job)["preempt_time"], 30, "its preemption")
    found = asked.ask("job", job)
    assert "RUNNING" in found["states"]
    assert 0 < found["end_time"] - found["preempt_time"] <= asked.cluster.grace_time


def test_one_of_an_array(asked: Asked, submit: Any) -> None:
    """Of its tasks the last has the array's number; the first is task 0."""
    array = submit("--array=0-1", "--time=5")
    known = wait_for(lambda: found if len(found := asked.ask("known_jobs", False)) == 2 else None, 30, "its tasks")
    wait_for(lambda: all(asked.states(job) == ["RUNNING"] for job in known or []), 30, "its tasks to run")
    assert array in (known or [])
    assert {asked.ask("job", job)["name"] for job in known or []} == {f"{array}_0", f"{array}_1"}


def test_a_job_that_has_ended(asked: Asked, submit: Any) -> None:
    job = submit(script="true")
    wait_for(lambda: asked.states(job) == ["COMPLETED"], 30, "its end")
    assert job in asked.ask("known_jobs", True)
    assert job not in asked.ask("known_jobs", False)


def test_no_such_job(asked: Asked) -> None:
    assert "job 4242" in asked.said("job", 4242)["error"]


def test_configuration(asked: Asked) -> None:
    found = asked.ask("configuration")
    commands = Asked(asked.cluster, "commands").ask("configuration")
    assert {name: found[name] for name in SETTINGS} == {name: commands[name] for name in SETTINGS}
    assert found["JobRequeue"] == "1"


def test_partitions(asked: Asked) -> None:
    low = {
        "PartitionName": "low",
        "PriorityTier": "1",
        "PreemptMode": "REQUEUE",
        "GraceTime": str(asked.cluster.grace_time),
    }
    high = {"PartitionName": "high", "PriorityTier": "10", "PreemptMode": "OFF", "GraceTime": "0"}
    low |= {"Default": "YES", "DefMemPerNode": "0", "DefMemPerCPU": "0"}
    high |= {"Default": "NO", "DefMemPerNode": "0", "DefMemPerCPU": "0"}
    for each in ("DefMemPerNode", "DefMemPerCPU"):
        asked.cluster.exec("ctl", ["scontrol", "update", "PartitionName=low", f"{each}=1500"], "root")
        told = {name: low[name] for name in low} | {each: "1500"}
        assert sorted(asked.ask("partitions"), key=lambda found: found["PartitionName"]) == [high, told]
    asked.cluster.exec("ctl", ["scontrol", "update", "PartitionName=low", "DefMemPerNode=0"], "root")
    assert sorted(asked.ask("partitions"), key=lambda found: found["PartitionName"]) == [high, low]


def test_no_answer(asked: Asked) -> None:
    """Nothing of Slurm's own gets to the user's eyes."""
    conf = "/tmp/slurm.conf"
    script = f"sed 's/^SlurmctldPort=.*//' /etc/slurm/slurm.conf >{conf}; echo SlurmctldPort=1 >>{conf}"
    asked.cluster.exec("n1", ["sh", "-c", script])
    argv = ["env", f"SLURM_CONF={conf}", "python3", "-I", "-S", "-c", ASK, asked.way, "partitions", "[]"]
    done = asked.cluster.exec("n1", argv)
    asked.cluster.exec("n1", ["rm", conf])
    assert "Unable to contact slurm controller" in json.loads(done.stdout)["error"]
    assert not done.stderr


def test_doctor_says_which(asked: Asked) -> None:
    said = asked.cluster.exec("n1", ["oci-criu-shim", "doctor", "--json"], check=False).stdout
    (found,) = [result["found"] for result in json.loads(said) if result["name"] == "slurm"]
    assert f"; asked by {asked.ask()}" in found
