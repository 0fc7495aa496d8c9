"""What is said at a job's start of its checkpoints."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from oci_criu_shim.dump import client
from oci_criu_shim.errors import Misfit, ShimError
from oci_criu_shim.host import criu
from oci_criu_shim.slurm import controller, grace
from oci_criu_shim.task import outlook, where
from oci_criu_shim.task.policy import Policy
from oci_criu_shim.task.take import Taker
from tests.unit.test_policy import Make, make
from tests.unit.test_slurm import seen

__all__ = ["make"]
Capture = pytest.CaptureFixture[str]
Told = Callable[..., list[str]]
STEP = {"SLURM_STEP_ID": "0", "SLURMD_NODENAME": "n1"}


def has_bundle(policy: Policy, path: str) -> None:
    config: Any = {"process": {"env": [f"SLURM_CONTAINER={path}"]}, "root": {"path": "/usr"}}
    policy.container.update({"bundle": "/var/spool/slurmd/oci-job7-0/task-0", "config": config})


@pytest.fixture(autouse=True)
def node(make: Make, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """One on which nothing is wrong."""
    monkeypatch.setattr(outlook, "LIBDIR", str(tmp_path))
    for name in outlook.INSTALLED:
        (tmp_path / name).touch()
    monkeypatch.setattr("os.geteuid", lambda: 7000)
    monkeypatch.setattr(criu, "version", lambda _: (9, 0))
    monkeypatch.setattr(criu, "bindings", lambda: "pycriu")
    monkeypatch.setattr(where, "own", lambda *_: "")
    monkeypatch.setattr(controller, "job", lambda *_, **__: seen())
    monkeypatch.setattr(grace, "if_preempted", lambda _: grace.Fate())
    run = Path(make("preempt").container.root)
    (run / "helper.0.sock").touch()


@pytest.fixture
def told(make: Make, capfd: Capture) -> Told:
    """The lines that a task of a step is told."""

    def tell(when: str = "preempt", change: Callable[[Policy], None] = lambda _: None, **environment: str) -> list[str]:
        policy = make(when, STEP | environment)
        os.makedirs(policy.store.path, exist_ok=True)
        has_bundle(policy, "/usr")
        change(policy)
        outlook.tell(policy)
        return capfd.readouterr().err.replace("oci-criu-shim: ", "").splitlines()

    return tell


def test_all_is_well(told: Told) -> None:
    for when in ("preempt", "timeout", "interval:1h", "signal:USR1"):
        assert told(when) == []


@pytest.mark.parametrize(
    ("missing", "said"),
    [
        ("worker.py", "lacks worker.py (hint: `make install` on this node, or its packages again)"),
        ("watcher", "lacks watcher (hint: "),
        ("criu_preload.so", "lacks criu_preload.so (hint: "),
        ("run/helper.0.sock", client.NO_HELPER[0]),
    ],
)
def test_what_the_node_lacks(told: Told, tmp_path: Path, missing: str, said: str) -> None:
    (tmp_path / missing).unlink()
    (line,) = told()
    assert line.startswith("error: n1 can't checkpoint job 7 step 0 task 0: ") and said in line


def test_criu(told: Told, monkeypatch: pytest.MonkeyPatch) -> None:
    def none(_: object) -> None:
        raise Misfit("criu is not installed on this node", "install CRIU 4.2 or newer")

    monkeypatch.setattr(criu, "version", none)
    said = "criu is not installed on this node (hint: install CRIU 4.2 or newer)"
    assert told() == [f"error: n1 can't checkpoint job 7 step 0 task 0: {said}"]
    monkeypatch.setattr(criu, "version", lambda _: (3, 17))
    monkeypatch.setattr("os.uname", lambda: os.uname_result(("Linux", "n1", "6.18.0", "", "x86_64")))
    assert "CRIU 3.17 is too old for Linux 6.18.0" in told()[0]


def test_a_job_of_roots(told: Told, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.geteuid", lambda: 0)
    assert client.NO_ROOT[0] in told()[0]


def test_what_cannot_be_told_is_left_out(told: Told, monkeypatch: pytest.MonkeyPatch) -> None:
    def silent(*_: object, **__: object) -> None:
        raise ShimError("slurmctld does not answer")

    monkeypatch.setattr(controller, "job", silent)
    assert told() == []


def sized(free: int, used: int, most: int = 0, quota: int = 0) -> Callable[[Policy], None]:
    def change(policy: Policy) -> None:
        policy.estimate.used = lambda: used  # type: ignore[method-assign]
        policy.task.memory, policy.store.quota = most, quota
        found = list(os.statvfs(policy.store.path))
        found[1], found[4] = 1, free  # f_frsize, f_bavail
        os.statvfs = lambda _: os.statvfs_result(found)  # type: ignore[assignment]

    return change


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (sized(100 << 20, 90 << 20), ""),
        (
            sized(60 << 20, 300 << 20),
            "error: n1 can't checkpoint job 7, which has 300.0 MiB of memory: {} has only 60.0 MiB free (",
        ),
        (sized(60 << 20, 9 << 20, 1 << 30), "job 7 may have up to 1.0 GiB of memory, but {} has only 60.0 MiB free"),
        (
            sized(1 << 40, 2 << 30, 0, 1 << 30),
            "error: n1 can't checkpoint job 7, which has 2.0 GiB of memory: the site's quota for {} is 1.0 GiB",
        ),
        (sized(1 << 40, 9 << 20, 2 << 30, 1 << 40), ""),
    ],
)
def test_room(
    told: Told, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: Callable[[Policy], None], said: str
) -> None:
    monkeypatch.setattr(os, "statvfs", os.statvfs)  # put back at the end
    assert "".join(told("preempt", change)).startswith(said.format(tmp_path / "store"))
    assert bool(told("preempt", change)) is bool(said)


@pytest.mark.parametrize(
    ("when", "obstacle", "requeue", "said"),
    [
        (
            "preempt",
            "--no-requeue",
            False,
            ["job 7 will not be requeued if it is preempted (--no-requeue): it ends with"],
        ),
        (
            "preempt",
            "PreemptMode=CANCEL",
            True,
            ["job 7 will not be requeued if it is preempted (PreemptMode=CANCEL): "],
        ),
        ("preempt", "PreemptMode=OFF", True, []),
        ("preempt", "PreemptMode=GANG,SUSPEND", True, []),
        ("timeout", "--no-requeue", False, ["job 7 may not be requeued (--no-requeue): it ends at its time limit"]),
        ("interval:1h", "--no-requeue", False, []),
    ],
)
def test_a_job_that_is_not_requeued(
    told: Told, monkeypatch: pytest.MonkeyPatch, when: str, obstacle: str, requeue: bool, said: list[str]
) -> None:
    monkeypatch.setattr(controller, "job", lambda *_, **__: seen(requeue=requeue))
    monkeypatch.setattr(grace, "if_preempted", lambda _: grace.Fate(obstacle))
    found = told(when)
    assert len(found) == len(said) and all(line.startswith(words) for line, words in zip(found, said, strict=True))
    assert told(when, SLURM_LOCALID="0", SLURM_PROCID="3") == []
    monkeypatch.setattr(controller, "job", lambda *_, **__: seen(requeue=requeue, batch=False))
    assert told(when) == []


def test_a_directory_of_the_nodes_own(told: Told, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is noted for other nodes in each run, and said in the first."""
    noted: list[str] = []
    monkeypatch.setattr(where, "note", lambda task, directory: noted.append(directory))
    monkeypatch.setattr(where, "own", lambda path, _: "overlay" if path == f"{tmp_path}/store" else "")
    (line,) = told()
    assert line.startswith(f"{tmp_path}/store is on overlay, n1's own: job 7 can go on on no other node (hint: name a ")
    assert told(SLURM_RESTART_COUNT="1") == []
    assert noted == [f"{tmp_path}/store"] * 2
    monkeypatch.setattr(where, "own", lambda path, _: "ext4" if path == f"{tmp_path}/store" else "")
    assert "is on ext4, n1's own, unless n1 shares it: job 7" in told()[0]


def test_a_bundle_of_the_nodes_own(told: Told, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A site may well have its images on each node's own disk."""
    path = tmp_path / "bundle"
    path.mkdir()
    monkeypatch.setattr(where, "own", lambda path, _: "tmpfs" if path == f"{tmp_path}/bundle" else "")
    assert told("preempt", lambda policy: has_bundle(policy, str(path))) == []
    monkeypatch.setattr("os.geteuid", lambda: path.stat().st_uid)
    line = told("preempt", lambda policy: has_bundle(policy, str(path)))[-1]
    assert line == f"{path} is on tmpfs, n1's own: without it on another node, Slurm can't start job 7 there"


def test_it_is_told_at_the_first_look(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    tellings: list[Policy] = []
    monkeypatch.setattr(outlook, "tell", tellings.append)
    policies = [make("interval:1h"), make("interval:1h", {"SLURM_LOCALID": "1", "SLURM_PROCID": "9"})]
    for policy in policies:
        for _ in range(2):
            policy.begin("look")
            Taker(policy).look()
    assert tellings == policies[:1]
