"""Who looks after a restored container."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest

from oci_criu_shim.checkpoints.committed import Checkpoint
from oci_criu_shim.container.backends import Backend
from oci_criu_shim.container.plan import Plan
from oci_criu_shim.container.record import Container
from oci_criu_shim.log import Log
from oci_criu_shim.restore.restore import Restore


@pytest.mark.parametrize(("dialect", "program"), [("crun", "/opt/other"), ("runc", "crun")])
def test_a_crun_by_whatever_name(tmp_path: Path, dialect: str, program: str) -> None:
    """Or else the one that is found: only crun takes over what it has not created."""
    chosen = Backend("/opt/other", str(tmp_path), {}, Log(), dialect)
    plan = SimpleNamespace(container=Container(str(tmp_path), "one"), bundle=None, backend=chosen)
    checkpoint = SimpleNamespace(manifest={})
    restored = Restore(cast(Plan, plan), cast(Checkpoint, checkpoint), Log())
    assert restored.backend.program == program
