"""Lines for the user; in a child, whose standard error is not the tests'."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from oci_criu_shim import log
from oci_criu_shim.host import process


def test_nobody_waits_for_who_does_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What can't be told him is in the file all the same."""
    path = tmp_path / "log"
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    while True:
        try:
            os.write(writer, bytes(4096))
        except BlockingIOError:
            break
    os.set_blocking(writer, True)

    def tell() -> int:
        os.dup2(writer, 2)
        monkeypatch.setattr("sys.stderr", os.fdopen(2, "w"))
        monkeypatch.setattr(log, "PATIENCE_MS", 10)
        log.Log(str(path)).event("something")
        return 0

    assert process.wait(process.fork(tell)) == 0
    assert path.read_text().endswith("something\n")
    for end in (reader, writer):
        os.close(end)
