"""Slurm's commands as programs: what they warn of, and what becomes of those that fail or can't be run."""

from __future__ import annotations

from pathlib import Path

import pytest

from oci_criu_shim.errors import ShimError
from oci_criu_shim.slurm import commands, controller

WARNING = "scontrol: error: Ignoring ControlMachine since SlurmctldHost is set."


@pytest.fixture
def scontrol(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The file that is run instead of it; slurm.conf is there."""
    (tmp_path / "slurm.conf").touch()
    monkeypatch.setenv("SLURM_CONF", str(tmp_path / "slurm.conf"))
    monkeypatch.setattr("oci_criu_shim.host.process.PATH", str(tmp_path))
    path = tmp_path / "scontrol"
    path.touch(0o755)
    return path


def test_a_warning_is_no_answer(scontrol: Path) -> None:
    scontrol.write_text(f"#!/bin/sh\necho '{WARNING}' >&2\necho 'ClusterName = one'\n")
    assert commands.run("scontrol", "show", "config") == "ClusterName = one\n"
    assert commands.Commands().configuration() == {"ClusterName": "one"}


def test_the_grace_time_of_a_qos(scontrol: Path) -> None:
    sacctmgr = scontrol.with_name("sacctmgr")
    sacctmgr.touch(0o755)
    sacctmgr.write_text("#!/bin/sh\nprintf '%s\\n' 'normal|00:00:00' 'low|00:01:30' 'my long|1-02:00:05' 'odd|'\n")
    assert commands.Commands().grace_times() == {"normal": 0, "low": 90, "my long": 26 * 3600 + 5}


@pytest.mark.parametrize(
    ("kind", "qos", "seconds"),
    [("qos", "bulk", 90), ("qos", "other", 0), ("partition_prio", "bulk", 20), ("none", "", 20)],
)
def test_what_a_job_has_at_a_preemption(monkeypatch: pytest.MonkeyPatch, kind: str, qos: str, seconds: int) -> None:
    monkeypatch.setattr(controller, "configuration", lambda: {"PreemptType": f"preempt/{kind}"})
    monkeypatch.setattr(controller, "grace_times", lambda: {"bulk": 90})
    monkeypatch.setattr(controller, "partitions", lambda: [{"PartitionName": "low", "GraceTime": "20"}])
    assert controller.grace_time("low", qos) == seconds


@pytest.mark.parametrize(
    ("does", "said"),
    [
        ("echo gone >&2; echo {}; exit 1", "scontrol requeue 12: gone"),
        ("echo '12_1: Job is held'; exit 1", "scontrol requeue 12: 12_1: Job is held"),
        ("exit 7", "scontrol requeue 12: exit status 7"),
    ],
)
def test_one_that_fails(scontrol: Path, does: str, said: str) -> None:
    scontrol.write_text(f"#!/bin/sh\n{does}\n")
    with pytest.raises(ShimError) as raised:
        commands.run("scontrol", "requeue", "12")
    assert str(raised.value) == said


def test_one_that_can_not_be_run(scontrol: Path) -> None:
    scontrol.write_text("#!/no/interpreter\n")
    with pytest.raises(ShimError, match="scontrol can't be run: No such file or directory"):
        commands.run("scontrol", "requeue", "12")


@pytest.mark.parametrize("said", ['{"jobs": []}', '{"jobs": [{}]}', "{}", "of another version"])
def test_what_to_do_where_there_is_no_answer(scontrol: Path, said: str) -> None:
    scontrol.write_text(f"#!/bin/sh\necho '{said}'\n")
    for question in (lambda: commands.Commands().job(12), lambda: commands.Commands().parts("12_3")):
        with pytest.raises(ShimError) as raised:
            question()
        assert raised.value.hint
