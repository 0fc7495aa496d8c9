"""Work on the user's own files although their modes forbid it."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from oci_criu_shim.errors import Misfit, ShimError
from oci_criu_shim.host.userns import Child


def test_nothing_is_closed(tmp_path: Path) -> None:
    (tmp_path / "closed").write_text("inside")
    (tmp_path / "closed").chmod(0)
    tmp_path.chmod(0o500)
    try:
        assert Child((tmp_path / "closed").read_text).result() == "inside"
        Child((tmp_path / "made").touch).result()
        assert (tmp_path / "made").stat().st_uid == os.geteuid()
    finally:
        tmp_path.chmod(0o700)


@pytest.mark.parametrize("error", [ShimError("it can't", "do this"), Misfit("not here"), OSError("so it is")])
def test_what_it_raises(error: Exception) -> None:
    def work() -> None:
        raise error

    with pytest.raises(Misfit if isinstance(error, Misfit) else ShimError, match=str(error)) as raised:
        Child(work).result()
    assert raised.value.hint == getattr(error, "hint", "")


def test_ended() -> None:
    child = Child(lambda: time.sleep(60))
    pid = child.pid
    child.end()
    child.end()
    with pytest.raises(ChildProcessError):
        os.waitpid(pid or -1, 0)


def test_one_that_was_killed() -> None:
    with pytest.raises(ShimError, match="ended with -9"):
        Child(lambda: os.kill(os.getpid(), 9)).result()
