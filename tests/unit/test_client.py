"""Who does the dump."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from oci_criu_shim import client
from oci_criu_shim.errors import ShimError


def test_a_job_of_roots(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    with pytest.raises(ShimError, match="lends nothing to root's jobs"):
        client.connect(str(tmp_path))
