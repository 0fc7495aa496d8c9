"""What is read of `scontrol show job NAME --json` in each version of Slurm's data_parser.

answers/scontrol.tar.xz has a real answer of each, named by that version and by Slurm's: of an array with two tasks that
run (1), a job that waits (2), and a heterogeneous job of two components (4).
"""

from __future__ import annotations

import json
import tarfile
from pathlib import Path

import pytest

from oci_criu_shim.slurm import commands, submission

ARCHIVE = Path(__file__).parent / "answers/scontrol.tar.xz"
with tarfile.open(ARCHIVE) as archive:
    NAMES = archive.getnames()


def answer(name: str) -> bytes:
    with tarfile.open(ARCHIVE) as answers:
        member = answers.extractfile(name)
        assert member is not None
        return member.read()


@pytest.fixture(params=NAMES)
def known(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> commands.Commands:
    text = answer(request.param).decode()
    monkeypatch.setattr(commands, "run", lambda *_: text)
    return commands.Commands()


def test_versions() -> None:
    """Those of Slurm 24.11 to 26.05."""
    assert [name.split("-")[0] for name in NAMES] == [f"v0.0.{number}" for number in (40, 41, 42, 42, 43, 44, 45)]
    for name in NAMES:
        meta = json.loads(answer(name))["meta"]
        assert f"{meta['plugin']['data_parser'].split('/')[1]}-{meta['slurm']['release']}.json" == name


def test_a_job_that_runs(known: commands.Commands) -> None:
    found = known.job(3)
    assert found["end_time"] > 1.7e9
    assert found == {
        "end_time": found["end_time"],
        "job_id": 3,
        "name": "1_3",
        "states": ["RUNNING"],
        "restarts": 0,
        "preempt_time": 0,
        "suspend_time": 0,
        "limited": True,
        "partition": "low",
        "batch": True,
        "batch_host": "n1",
        "requeue": True,
        "expedited": False,
        "node_count": 1,
        "required_nodes": "",
        "excluded_nodes": "",
        "features": "",
        "comment": "oci-criu-shim: kept",
    }


def test_a_job_that_waits(known: commands.Commands) -> None:
    found = known.job(2)
    assert (found["name"], found["states"], found["limited"], found["excluded_nodes"]) == (
        "2",
        ["PENDING"],
        False,
        "n2",
    )


def test_output(known: commands.Commands) -> None:
    """Its path is whole. Newer versions tell of errors only if they go elsewhere."""
    outputs = [submission.look(name)["output"] for name in ("3", "2")]
    assert outputs == ["/home/alice/slurm-1_3.out", "/home/alice/slurm-2.out"]
    assert submission.look("2")["error"] in ("", "/home/alice/slurm-2.out")


def test_parts(known: commands.Commands) -> None:
    def ids(name: str) -> list[int]:
        return [part["job"] for part in known.parts(name)]

    assert (ids("1"), ids("1_3"), ids("2"), ids("4"), ids("4+1")) == ([1, 3], [3], [2], [4, 5], [5])
    (component,) = known.parts("4+1")
    assert (component["leader"], component["group"], component["uid"], component["nodes"]) == (4, 1, 1000, 1)
