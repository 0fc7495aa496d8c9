"""A preempted step lives until the batch script has exited."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from oci_criu_shim.host import process
from oci_criu_shim.slurm import controller
from oci_criu_shim.slurm.tasks import Task
from oci_criu_shim.task import script_end
from tests.harness.cluster import wait_for
from tests.unit.test_slurm import seen


@pytest.mark.parametrize("states", [["RUNNING"], ["PENDING", "COMPLETING"]])
def test_the_script_on_this_node_is_outlived(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, states: list[str]
) -> None:
    monkeypatch.setattr(controller, "job", lambda _: seen(states=states))
    program = tmp_path / "job00007" / "slurm_script"
    program.parent.mkdir()
    program.write_text(f"sleep 0.3; echo >{tmp_path}/ended")
    pid = process.spawn(["/bin/sh", str(program)], {}, {})
    wait_for(Path(f"/proc/{pid}/cmdline").read_text, 10, "its command line, which comes a little later than itself")
    signals: Any = SimpleNamespace(reader=-1)
    script_end.outlive(Task({"SLURM_JOB_ID": "7", "SLURM_STEP_ID": "0", "SLURMD_NODENAME": "n1"}), signals)
    assert (tmp_path / "ended").exists()
    process.wait(pid)
