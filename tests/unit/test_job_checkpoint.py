"""`job checkpoint`: what the nodes of a job say, put together."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from oci_criu_shim.cli import jobs
from oci_criu_shim.cli.invocation import Invocation
from oci_criu_shim.cli.job import checkpoint
from oci_criu_shim.container import ownership
from oci_criu_shim.container.record import ANSWER, REQUEST, Container
from oci_criu_shim.errors import ShimError
from oci_criu_shim.host import process
from oci_criu_shim.host.signals import CHECKPOINT

NOTHING = {"container": None, "taken": False, "checkpoint": None}
NONE = {"job": 12, "node": "n1", **NOTHING, "said": "job 12 has no container on n1"}
CHECKPOINT_3 = {"path": "/c/12/batch.0/3", "seq": 3, "bytes": 5}
TAKEN = {"job": 12, "node": "n2", "container": "c", "taken": True, "checkpoint": CHECKPOINT_3, "said": "checkpointed"}


def ask(monkeypatch: pytest.MonkeyPatch, lines: list[str], status: int = 0, *flags: str) -> int:
    def run(_: object, words: list[str], hear: Callable[[str], None]) -> int:
        assert words[-1] == "12"
        for line in lines:
            hear(line)
        return status

    monkeypatch.setattr("oci_criu_shim.slurm.controller.running", lambda name: [{"job": int(name)}])
    monkeypatch.setattr("oci_criu_shim.slurm.srun.run_on_nodes", run)
    return checkpoint.checkpoint(Invocation("job", {}, {name: [] for name in flags}, ["12"]))


def test_a_node_may_have_none(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    said = [json.dumps([NONE]), json.dumps([TAKEN])]
    assert ask(monkeypatch, [said[0], "a prolog's", said[1]]) == 0
    assert capsys.readouterr() == (f"n1: {NONE['said']}\nn2: {TAKEN['said']}\n", "a prolog's\n")
    assert ask(monkeypatch, said, 0, "json") == 0
    assert json.loads(capsys.readouterr().out) == [NONE, TAKEN]


def test_all_have_none(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ShimError, match="job 12 has no container to be checkpointed"):
        ask(monkeypatch, [json.dumps([NONE])])


@pytest.mark.parametrize("said", [{**TAKEN, "taken": False}, TAKEN, NONE])
def test_srun_s_status(monkeypatch: pytest.MonkeyPatch, said: dict[str, Any]) -> None:
    assert ask(monkeypatch, [json.dumps([said])], 1) == 1


def test_root_signals_nobody_whom_a_user_names(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(jobs, "RUN_DIRECTORY", str(tmp_path))
    monkeypatch.setattr(ownership, "is_root", lambda: True)
    monkeypatch.setattr(ownership, "user_of", lambda path: ownership.User(1000, 1000))
    monkeypatch.setattr(process, "user_name", str)
    monkeypatch.setattr(checkpoint, "asked", pytest.fail)
    with pytest.raises(ShimError, match=f"{tmp_path}/12 belongs to user 1000"):
        checkpoint.checkpoint(Invocation("job", {}, {"here": []}, ["12"]))


@pytest.fixture
def container(tmp_path: Path) -> Container:
    made = Container(str(tmp_path), "c")
    made.reserve()
    made.save({"supervisor": process.identity(os.getpid())})
    return made


@pytest.mark.parametrize(
    ("said", "lives", "wanted"),
    [
        (f"0 checkpointed it\n{json.dumps(CHECKPOINT_3)}", True, (True, "checkpointed it", CHECKPOINT_3)),
        ("1 could not", True, (False, "could not", None)),
        (None, True, (None, "container c was not checkpointed: the process doing it died", None)),
        (None, False, (None, "container c has ended", None)),
    ],
)
def test_an_answer(container: Container, said: str | None, lives: bool, wanted: tuple[object, ...]) -> None:
    """The supervisor has taken the request away, or ended before."""
    if said:
        Path(container.path(ANSWER)).write_text(said)
    if not lives:
        container.save({})
        Path(container.path(REQUEST)).touch()
    assert checkpoint.outcome(container, REQUEST) == wanted
    assert not os.path.exists(container.path(ANSWER))


def test_how_far_it_is(container: Container, tmp_path: Path) -> None:
    """What is written is where its maker has left a link to."""
    assert checkpoint._written(container) == 0
    (tmp_path / "images").mkdir()
    (tmp_path / "images/pages-1.img").write_bytes(bytes(4096))
    os.symlink(tmp_path / "images", container.path("stage.77"))
    assert checkpoint._written(container) == 4096


def test_what_was_asked_before_is_brought_to_mind_again(container: Container, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever asked may have been killed before he said so."""
    sent: list[int] = []
    monkeypatch.setattr(os, "kill", lambda _, number: sent.append(number))
    Path(container.path(REQUEST)).touch()
    with pytest.raises(ShimError, match="is being checkpointed already"):
        checkpoint._request(container)
    assert sent == [CHECKPOINT]


def test_one_that_ends_before_it_is_asked_for(tmp_path: Path) -> None:
    gone = Container(str(tmp_path), "gone")
    checkpoint._request(gone)
    assert checkpoint.outcome(gone, REQUEST) == (None, "container gone has ended", None)
