"""What is told before anything is frozen."""

from __future__ import annotations

import os
import resource

import pytest

from oci_criu_shim import preflight
from oci_criu_shim.errors import ShimError


@pytest.mark.parametrize(("error", "refused"), [(PermissionError, True), (ProcessLookupError, False)])
def test_limits_of_others(monkeypatch: pytest.MonkeyPatch, error: type[OSError], refused: bool) -> None:
    """A root without CAP_SYS_RESOURCE; a process that has ended meanwhile."""

    def prlimit(pid: int, _: int) -> None:
        raise error

    preflight._require_limits(os.getpid())
    monkeypatch.setattr(resource, "prlimit", prlimit)
    if not refused:
        preflight._require_limits(os.getpid())
        return
    with pytest.raises(ShimError, match="runs as another user, whose limits this root may not ask for"):
        preflight._require_limits(os.getpid())
