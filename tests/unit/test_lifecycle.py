"""How a container is created."""

from __future__ import annotations

from pathlib import Path

import pytest

from oci_criu_shim.container.plan import Plan
from oci_criu_shim.container.record import Container
from oci_criu_shim.errors import ShimError
from oci_criu_shim.log import Log
from oci_criu_shim.supervisor import lifecycle


@pytest.mark.parametrize("given", [{"backend": "nonesuch"}, {"backend": "/bin/true", "cgroup-manager": "nonesuch"}])
def test_what_no_backend_can_do_takes_no_id(tmp_path: Path, bundle_path: Path, given: dict[str, str]) -> None:
    container = Container(str(tmp_path / "run"), "one")
    plan = Plan(container, str(bundle_path), given, [], None, Log())
    for make in (lifecycle.create, lifecycle.run_detached):
        with pytest.raises(ShimError, match="nonesuch"):
            make(plan)
        assert not container.exists()
