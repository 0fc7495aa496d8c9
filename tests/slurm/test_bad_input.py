"""What can't be done is refused in one line that says what to do, and nothing of it is left."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.harness.cluster import Cluster, wait_for
from tests.harness.cluster.waiting import patient

HOME = "/home/alice/bad"
ROOT = f"{HOME}/root"
NO_SUCH_CONTAINER = ("container 'x' does not exist", f"those that do are listed by `oci-criu-shim --root {ROOT} list`")


@pytest.fixture(scope="module")
def spec(shim_cluster: Cluster, shim_bundle: str) -> dict[str, Any]:
    """A good config.json that refers to a root file system by its absolute path."""
    path = shim_cluster.instance.data / shim_bundle.lstrip("/") / "config.json"
    spec: dict[str, Any] = json.loads(path.read_text())
    spec["root"]["path"] = f"{shim_bundle}/rootfs"
    spec["process"]["args"] = ["sleep", "6007"]
    return spec


@pytest.fixture
def bad(shim_cluster: Cluster) -> Iterator[Path]:
    """HOME, empty, as the host sees it; at the end no container has left anything in ROOT."""
    shim_cluster.exec("n1", ["mkdir", HOME])
    yield shim_cluster.instance.data / HOME.lstrip("/")
    cruns = ("!", "-name", ".crun", "!", "-name", ".empty-directory")
    left = shim_cluster.exec("n1", ["find", ROOT, "-mindepth", "1", *cruns], check=False).stdout
    shim_cluster.exec("n1", ["rm", "-rf", HOME], "root")
    assert not left


def shim(cluster: Cluster, *words: str) -> subprocess.CompletedProcess[str]:
    return cluster.exec("n1", ["oci-criu-shim", f"--root={ROOT}", *words], check=False)


def assert_refused(done: subprocess.CompletedProcess[str], *said: str, status: int = 1) -> None:
    assert done.returncode == status
    lines = done.stderr.splitlines()
    assert len(lines) == 1 and lines[0].startswith("oci-criu-shim: error: ") and "(hint: " in lines[0], lines
    assert [words for words in said if words not in lines[0]] == [], lines
    assert not done.stdout


def write(bad: Path, config: dict[str, Any] | str) -> None:
    (bad / "config.json").write_text(config if isinstance(config, str) else json.dumps(config))


def asking(spec: dict[str, Any], directory: str) -> dict[str, Any]:
    """The configuration as in a step with --checkpoint and --checkpoint-dir."""
    variables = {"SLURM_JOB_ID": "7", "SLURM_CHECKPOINT": "preempt", "SLURM_CHECKPOINT_DIR": directory}
    env = [*spec["process"]["env"], *(f"{name}={value}" for name, value in variables.items())]
    return {**spec, "process": {**spec["process"], "env": env}}


def faulty(spec: dict[str, Any]) -> dict[str, Any]:
    """Three faults."""
    process = {key: value for key, value in spec["process"].items() if key != "cwd"}
    namespaces = [{"type": "pid"}, {"type": "nonsense"}]
    return {**spec, "hostname": 7, "process": process, "linux": {**spec["linux"], "namespaces": namespaces}}


FAULTS = ("hostname: 7 is not of type 'string'", "process: 'cwd' is a required", "linux.namespaces[1].type: 'nonsense'")


def without_pid_namespace(spec: dict[str, Any]) -> dict[str, Any]:
    namespaces = [entry for entry in spec["linux"]["namespaces"] if entry["type"] != "pid"]
    return {**spec, "linux": {**spec["linux"], "namespaces": namespaces}}


@pytest.mark.parametrize("bundle", ["nowhere", "."], ids=["no-bundle", "no-config"])
def test_no_bundle(shim_cluster: Cluster, bad: Path, bundle: str) -> None:
    done = shim(shim_cluster, "run", "-b", f"{HOME}/{bundle}", "x")
    assert_refused(done, "config.json: No such file or directory", "a bundle is a directory")


def test_no_json(shim_cluster: Cluster, bad: Path) -> None:
    write(bad, '{"ociVersion": ')
    assert_refused(shim(shim_cluster, "run", "-b", HOME, "x"), f"{HOME}/config.json is not valid JSON", "line 1 column")


def test_every_fault_is_named(shim_cluster: Cluster, bad: Path, spec: dict[str, Any]) -> None:
    write(bad, faulty(spec))
    assert_refused(shim(shim_cluster, "run", "-b", HOME, "x"), *FAULTS)


def test_no_pid_namespace(shim_cluster: Cluster, bad: Path, spec: dict[str, Any]) -> None:
    write(bad, asking(without_pid_namespace(spec), HOME))
    assert_refused(shim(shim_cluster, "run", "-b", HOME, "x"), "asks for no pid namespace", "leave out --checkpoint")


@pytest.mark.parametrize(
    ("make", "said"),
    [
        ("ln -s none/store store", "No such file or directory"),
        ("touch store", "is not a directory"),
        ("mkdir -m 500 store && chown alice store", "is not writable"),
        ("mkdir -m 777 store && chown bob store", "belongs to user bob"),
        ("mkdir -m 700 closed && ln -s closed/store store", "Permission denied"),
    ],
)
def test_no_checkpoint_directory(shim_cluster: Cluster, bad: Path, spec: dict[str, Any], make: str, said: str) -> None:
    shim_cluster.exec("n1", ["sh", "-ec", make], "root", cwd=HOME)
    write(bad, asking(spec, f"{HOME}/store"))
    done = shim(shim_cluster, "run", "-b", HOME, "x")
    assert_refused(done, f"checkpoint directory {HOME}/store", said, "--checkpoint-dir")


def test_a_job_of_another_cluster(shim_cluster: Cluster, bad: Path, spec: dict[str, Any]) -> None:
    shim_cluster.exec("n1", ["sh", "-ec", "mkdir -pm 700 store/7; printf other >store/7/cluster"], cwd=HOME)
    config = asking(spec, f"{HOME}/store")
    config["process"]["env"] = [*config["process"]["env"], "SLURM_CLUSTER_NAME=oci-criu-shim"]
    write(bad, config)
    done = shim(shim_cluster, "run", "-b", HOME, "x")
    assert_refused(done, f"{HOME}/store/7 has checkpoints", "of cluster 'other'", "another --checkpoint-dir")
    assert sorted(path.name for path in (bad / "store/7").iterdir()) == ["cluster"]


@pytest.mark.parametrize(
    ("words", "said", "status"),
    [
        (("run", "--nonsense", "x"), "unknown option '--nonsense'", 2),
        (("nonsense", "x"), "unknown command 'nonsense'", 2),
        (("run",), "run needs ID", 2),
        (("run", "../x"), "invalid container id '../x'", 1),
        (("restore", "-b", HOME, "--image-path", f"{HOME}/none", "x"), f"no checkpoint in {HOME}/none", 1),
    ],
)
def test_no_such_thing(
    shim_cluster: Cluster, bad: Path, spec: dict[str, Any], words: tuple[str, ...], said: str, status: int
) -> None:
    write(bad, spec)
    assert_refused(shim(shim_cluster, *words), said, status=status)


@pytest.mark.parametrize("words", [("state",), ("kill",), ("delete",), ("checkpoint", "--image-path", f"{HOME}/i")])
def test_no_such_container(shim_cluster: Cluster, bad: Path, words: tuple[str, ...]) -> None:
    assert_refused(shim(shim_cluster, *words, "x"), *NO_SUCH_CONTAINER)
    assert not (bad / "i").exists()


@contextmanager
def running(cluster: Cluster) -> Iterator[subprocess.Popen[bytes]]:
    """A container in the background; ended at the end of the block."""
    argv = cluster.argv("n1", ["oci-criu-shim", f"--root={ROOT}", "run", "-b", HOME, "x"])
    with subprocess.Popen(argv, stderr=subprocess.DEVNULL) as started:
        try:
            wait_for(lambda: '"running"' in shim(cluster, "state", "x").stdout, 20, "the container")
            yield started
        finally:
            shim(cluster, "kill", "x", "KILL")
            started.wait(patient(20))
            shim(cluster, "delete", "--force", "x")


def test_a_container_that_runs(shim_cluster: Cluster, bad: Path, spec: dict[str, Any]) -> None:
    write(bad, spec)
    with running(shim_cluster) as container:
        assert_refused(shim(shim_cluster, "run", "-b", HOME, "x"), "container 'x' already exists", "delete --force x")
        assert_refused(shim(shim_cluster, "kill", "x", "NONSENSE"), "invalid signal 'NONSENSE'")
        refused = shim(shim_cluster, "checkpoint", "--image-path", f"{HOME}/images", "x")
        assert_refused(refused, "was not started to be checkpointed", "submit with --checkpoint")
        assert shim(shim_cluster, "delete", "x").returncode == 1
        assert '"running"' in shim(shim_cluster, "state", "x").stdout
    assert container.returncode == 137
    assert_refused(shim(shim_cluster, "state", "x"), *NO_SUCH_CONTAINER)
    assert not (bad / "images").exists()


def test_through_slurm(shim_cluster: Cluster, bad: Path, spec: dict[str, Any]) -> None:
    step = ["srun", "-w", "n1", "--checkpoint", f"--checkpoint-dir={HOME}", f"--container={HOME}", "true"]
    assert shim_cluster.exec("ctl", step, check=False).returncode != 0
    write(bad, faulty(spec))
    done = shim_cluster.exec("ctl", step, check=False)
    assert done.returncode == 1 and all(fault in done.stderr for fault in FAULTS), done.stderr
    write(bad, without_pid_namespace(spec))
    done = shim_cluster.exec("ctl", step, check=False)
    assert done.returncode == 1 and "asks for no pid namespace" in done.stderr, done.stderr
    assert shim_cluster.node_states()["n1"] in ("idle", "completing")
