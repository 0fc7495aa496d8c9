"""What is seen of running processes, and told before anything is frozen."""

from __future__ import annotations

import os
import resource
import subprocess
from typing import Any

import pytest

from oci_criu_shim.container.bundle import Bundle
from oci_criu_shim.dump.faults import descriptors, processes
from oci_criu_shim.dump.survey import Process, Survey


def survey(pid: int, **given: Any) -> Survey:
    return Survey(pid, Bundle("/b", {"root": {"path": "rootfs"}}), **given)


@pytest.mark.parametrize(("error", "refused"), [(PermissionError, True), (ProcessLookupError, False)])
def test_limits_of_others(monkeypatch: pytest.MonkeyPatch, error: type[OSError], refused: bool) -> None:
    """A root without CAP_SYS_RESOURCE; a process that has ended meanwhile."""

    def prlimit(pid: int, _: int) -> None:
        raise error

    monkeypatch.setattr(os, "geteuid", lambda: 0)
    here = survey(os.getpid())
    assert not list(processes.unlimited(here))
    monkeypatch.setattr(resource, "prlimit", prlimit)
    said = [str(fault) for fault in processes.unlimited(here)]
    assert said == [f"process {os.getpid()} runs as another user, whose limits this root may not ask for"] * refused


def test_what_it_was_given() -> None:
    reader, writer = os.pipe()
    pipe = f"pipe:[{os.fstat(reader).st_ino}]"
    with subprocess.Popen(["sleep", "60"], pass_fds=[writer]) as child:
        try:
            (fault,) = descriptors.preserved(survey(child.pid, preserved=[pipe, "pipe:[0]"]))
            assert "was given by --preserve-fds, which leads out" in str(fault)
            assert not list(descriptors.preserved(survey(child.pid, preserved=["pipe:[0]"])))
        finally:
            child.kill()
            os.close(reader)
            os.close(writer)


def test_what_ends_while_it_is_looked_at_has_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    listdir = os.listdir
    with subprocess.Popen(["sleep", "60"]) as child:

        def ends(path: str) -> list[str]:
            child.kill()
            child.wait()
            return listdir(path)

        monkeypatch.setattr(os, "listdir", ends)
        found = Process(child.pid)
        assert found.descriptors == []
        assert found.status == {}
