"""`job checkpoint`: what the nodes of a job say, put together."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from oci_criu_shim import cli
from oci_criu_shim.errors import ShimError
from oci_criu_shim.jobs import checkpoint

NONE = {"job": 12, "node": "n1", "container": None, "taken": False, "said": "job 12 has no container on n1"}
TAKEN = {"job": 12, "node": "n2", "container": "c", "taken": True, "said": "checkpointed job 12"}


def ask(monkeypatch: pytest.MonkeyPatch, lines: list[str], status: int = 0, **options: str) -> int:
    def run(name: str, _: list[str], hear: Callable[[str], None]) -> int:
        assert name == "12"
        for line in lines:
            hear(line)
        return status

    monkeypatch.setattr("oci_criu_shim.slurm.run_on_nodes", run)
    return checkpoint.checkpoint(cli.Invocation("job", {}, options, ["12"]))


def test_a_node_may_have_none(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    said = [json.dumps(NONE), json.dumps(TAKEN)]
    assert ask(monkeypatch, [said[0], "a prolog's", said[1]]) == 0
    assert capsys.readouterr() == (f"n1: {NONE['said']}\nn2: {TAKEN['said']}\n", "a prolog's\n")
    assert ask(monkeypatch, said, json="") == 0
    assert capsys.readouterr().out.splitlines() == said


def test_all_have_none(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ShimError, match="job 12 has no container to be checkpointed"):
        ask(monkeypatch, [json.dumps(NONE)])


@pytest.mark.parametrize("said", [{**TAKEN, "taken": False}, TAKEN, NONE])
def test_srun_s_status(monkeypatch: pytest.MonkeyPatch, said: dict[str, Any]) -> None:
    assert ask(monkeypatch, [json.dumps(said)], 1) == 1
