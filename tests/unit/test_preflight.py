"""What is told before anything is frozen."""

from __future__ import annotations

import os
import resource
import subprocess

import pytest

from oci_criu_shim.dump import preflight
from oci_criu_shim.errors import ShimError


@pytest.mark.parametrize(("error", "refused"), [(PermissionError, True), (ProcessLookupError, False)])
def test_limits_of_others(monkeypatch: pytest.MonkeyPatch, error: type[OSError], refused: bool) -> None:
    """A root without CAP_SYS_RESOURCE; a process that has ended meanwhile."""

    def prlimit(pid: int, _: int) -> None:
        raise error

    preflight._require_limits([os.getpid()])
    monkeypatch.setattr(resource, "prlimit", prlimit)
    if not refused:
        preflight._require_limits([os.getpid()])
        return
    with pytest.raises(ShimError, match="runs as another user, whose limits this root may not ask for"):
        preflight._require_limits([os.getpid()])


def test_a_users_group() -> None:
    preflight.require_no_group(False)
    with pytest.raises(ShimError, match="has a control group of its own"):
        preflight.require_no_group(True)


def test_what_it_was_given() -> None:
    reader, writer = os.pipe()
    pipe = f"pipe:[{os.fstat(reader).st_ino}]"
    try:
        with subprocess.Popen(["sleep", "60"], pass_fds=[writer]) as child:
            try:
                with pytest.raises(ShimError, match="was given by --preserve-fds, which leads out"):
                    preflight.require_no_preserved(child.pid, [pipe, "pipe:[0]"])
                preflight.require_no_preserved(child.pid, ["pipe:[0]"])
            finally:
                child.kill()
    finally:
        os.close(reader)
        os.close(writer)


def test_what_ends_while_it_is_looked_at_has_been_given_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    listdir = os.listdir
    with subprocess.Popen(["sleep", "60"]) as child:

        def ends(path: str) -> list[str]:
            child.kill()
            child.wait()
            return listdir(path)

        monkeypatch.setattr(os, "listdir", ends)
        preflight.require_no_preserved(child.pid, ["pipe:[0]"])
