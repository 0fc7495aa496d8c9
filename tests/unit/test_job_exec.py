"""`job exec`: which container is meant, where it is, and how the command gets there."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from oci_criu_shim.cli import commands, jobs, parse
from oci_criu_shim.cli.invocation import Invocation
from oci_criu_shim.container import jobs as containers
from oci_criu_shim.container import registry
from oci_criu_shim.container.backends import Backend
from oci_criu_shim.container.bundle import Bundle
from oci_criu_shim.container.record import Container
from oci_criu_shim.errors import ShimError
from oci_criu_shim.host import process
from oci_criu_shim.slurm import controller, srun

Capture = pytest.CaptureFixture[str]
PART: Any = {"job": 12, "array": 0, "task": None, "leader": 12, "group": None, "nodes": 1}


class Slurm:
    """Notes the step that was started, and answers for the nodes."""

    def __init__(self) -> None:
        self.parts = [PART]
        self.rows: list[dict[str, Any]] = []
        self.asked: list[str] = []
        self.step: tuple[str, list[str], bool] = ("", [], False)

    def running(self, name: str) -> list[Any]:
        return self.parts

    def run_on_nodes(self, _: object, words: list[str], hear: Callable[[str], None]) -> int:
        self.asked = words[1:]
        hear("a prolog's")
        for row in self.rows:
            hear(json.dumps(row))
        return 0

    def become_step(self, _: object, node: str, words: list[str], tty: bool) -> None:
        self.step = (node, words[1:], tty)


@pytest.fixture
def slurm(monkeypatch: pytest.MonkeyPatch) -> Slurm:
    made = Slurm()
    monkeypatch.setattr(controller, "running", made.running)
    for name in ("run_on_nodes", "become_step"):
        monkeypatch.setattr(srun, name, getattr(made, name))
    return made


def row(node: str, step: str = "0", task: int = 0) -> dict[str, Any]:
    return {"node": node, "step": step, "task": task}


def ran(slurm: Slurm, *words: str) -> tuple[str, list[str], bool]:
    parse.main(["job", "exec", *words])
    return slurm.step


HERE = ["job", "exec", "--here"]


def test_on_one_node(slurm: Slurm) -> None:
    assert ran(slurm, "12", "ls", "-l") == ("", [*HERE, "12", "--", "ls", "-l"], False)
    assert ran(slurm, "12", "--", "ls") == ("", [*HERE, "12", "--", "ls"], False)
    chosen = ["--step=batch", "--task=0", "--tty"]
    assert ran(slurm, *chosen, "--node=n3", "12", "ls") == ("n3", [*HERE, *chosen, "12", "--", "ls"], True)
    assert not slurm.asked


@pytest.mark.parametrize("terminal", [True, False])
def test_a_shell(slurm: Slurm, monkeypatch: pytest.MonkeyPatch, terminal: bool) -> None:
    monkeypatch.setattr(os, "isatty", lambda _: terminal)
    words = ["--tty"] if terminal else []
    assert ran(slurm, "12") == ("", [*HERE, *words, "12", "--", "/bin/sh"], terminal)
    assert ran(slurm, "12", "ls") == ("", [*HERE, "12", "--", "ls"], False)


def test_on_several_nodes(slurm: Slurm, capfd: Capture) -> None:
    slurm.parts = [{**PART, "nodes": 2}]
    slurm.rows = [row("n2")]
    assert ran(slurm, "--task=0", "12", "ls")[0] == "n2"
    assert slurm.asked == [*HERE, "--task=0", "--lines", "12"]
    assert capfd.readouterr().err == "a prolog's\n"
    slurm.rows = [row("n2", task=1), row("n1")]
    assert parse.main(["job", "exec", "12"]) == 1
    said = "job 12 has 2 containers: step 0 task 0 on n1, step 0 task 1 on n2"
    assert f"{said} (hint: `oci-criu-shim job exec --step=0 --task=0 12`)" in capfd.readouterr().err
    slurm.rows = []
    assert parse.main(["job", "exec", "12"]) == 1
    assert "no such container of job 12 runs (hint: `srun --jobid=12 --overlap --pty /bin/sh`" in capfd.readouterr().err


@pytest.mark.parametrize(
    ("parts", "names"),
    [
        ([{"array": 12, "task": 0}, {"array": 12, "task": 3}], "12_0, 12_3"),
        ([{"group": 0}, {"group": 1}], "12+0, 12+1"),
    ],
)
def test_several_jobs(slurm: Slurm, capfd: Capture, parts: list[dict[str, int]], names: str) -> None:
    slurm.parts = [{**PART, **part} for part in parts]
    assert parse.main(["job", "exec", "12"]) == 1
    assert f"12 is several jobs (hint: name one of them: {names})" in capfd.readouterr().err


@pytest.fixture
def node(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Invocation]:
    """A node on which the job has three containers; what is passed on to the backend."""
    monkeypatch.setattr(jobs, "RUN_DIRECTORY", str(tmp_path))
    root = str(tmp_path / "12")
    known = [(Container(root, f"c{number}"), *about) for number, about in enumerate([("batch", 0), ("0", 0), ("0", 1)])]
    monkeypatch.setattr(containers, "running", lambda where: known if where == root else [])
    passed: list[Invocation] = []

    def pass_on(call: Invocation) -> int:
        passed.append(call)
        return 0

    monkeypatch.setattr(commands, "pass_on", pass_on)
    return passed


def test_on_the_node(node: list[Invocation], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: Capture) -> None:
    monkeypatch.setenv("TERM", "screen")
    assert parse.main([*HERE, "--task=1", "12", "--", "ls", "-l"]) == 0
    call = node[0]
    assert (call.verb, call.root, call.operands) == ("exec", f"{tmp_path}/12", ["c2", "ls", "-l"])
    assert not call.all_words()
    assert parse.main([*HERE, "--step=batch", "--tty", "12"]) == 0
    assert (node[1].operands, node[1].all_words()) == (["c0", "/bin/sh"], ["--tty", "--env=TERM=screen"])
    assert parse.main([*HERE, "12"]) == parse.main([*HERE, "--step=7", "12"]) == parse.main([*HERE, "13"]) == 1
    said = capfd.readouterr().err.splitlines()
    assert "job 12 has 3 containers: step batch task 0 on " in said[0]
    assert ["no such container" in line for line in said] == [False, True, True]
    assert parse.main([*HERE, "--step=0", "--lines", "12"]) == 0
    found = [json.loads(line) for line in capfd.readouterr().out.splitlines()]
    assert [(one["step"], one["task"]) for one in found] == [("0", 0), ("0", 1)]


def test_what_runs_in_a_job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whether checkpoints were asked for, or only the backend knows of it."""

    def config(**environment: object) -> Any:
        return {"process": {"env": [f"SLURM_{name}={value}" for name, value in environment.items()]}}

    def container(name: str, pid: int, **environment: object) -> None:
        made = Container(str(tmp_path), name)
        made.reserve()
        supervisor = process.identity(pid) if pid else [1 << 30, 1]
        made.save({"bundle": "/b", "config": config(**environment), "supervisor": supervisor})

    container("batch", os.getpid(), JOB_ID=12)
    container("ended", 0, JOB_ID=12)
    container("no-jobs", os.getpid())
    for name in ("b", "a", "stopped", "gone"):
        (tmp_path / ".crun" / name).mkdir(parents=True)

    def state(_: Backend, one: Container) -> dict[str, str]:
        if one.name == "gone":
            raise ShimError("it does not exist")
        return {"status": "stopped" if one.name == "stopped" else "running", "bundle": one.name}

    def load(path: str) -> Any:
        about = config(JOB_ID=12, STEP_ID=0, PROCID=int(path == "a"))
        return Bundle(path, about)

    monkeypatch.setattr(Backend, "state", state)
    monkeypatch.setattr(containers, "load", load)
    found = [(one.name, step, task) for one, step, task in containers.running(str(tmp_path))]
    assert found == [("b", "0", 0), ("a", "0", 1), ("batch", "batch", 0)]
    assert registry.names(str(tmp_path)) == ["a", "b", "batch", "ended", "gone", "no-jobs", "stopped"]
    assert containers.running(str(tmp_path / "none")) == []


def test_a_step_with_our_streams(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "srun").touch(0o755)
    monkeypatch.setattr("oci_criu_shim.host.process.PATH", str(tmp_path))
    monkeypatch.setenv("TERM", "screen")
    monkeypatch.setenv("SRUN_CONTAINER", "/b")
    seen: list[Any] = []
    monkeypatch.setattr(os, "execve", lambda *words: seen.append(words))
    part: Any = {**PART, "group": 1}
    srun.become_step(part, "n2", ["ls"], terminal=True)
    ((path, words, environment),) = seen
    assert (path, words[1:3], words[-1]) == (f"{tmp_path}/srun", ["--jobid=12", "--het-group=1"], "ls")
    assert {"--overlap", "--nodes=1", "--ntasks=1", "--nodelist=n2", "--pty"} <= set(words)
    assert environment["TERM"] == "screen" and "SRUN_CONTAINER" not in environment
    srun.become_step(PART, "", ["ls"], terminal=False)
    assert not {"--pty", "--nodelist="} & set(seen[1][1])
