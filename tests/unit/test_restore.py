"""Who looks after a restored container, and what is left of one that is refused."""

from __future__ import annotations

import json
import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from oci_criu_shim.checkpoints import committed
from oci_criu_shim.checkpoints.committed import Checkpoint
from oci_criu_shim.container import bundle, node_fit
from oci_criu_shim.container.backends import Backend
from oci_criu_shim.container.plan import Plan
from oci_criu_shim.container.record import Container
from oci_criu_shim.container.stdio import Pipes
from oci_criu_shim.errors import Killed, Misfit, NotRestored, Stopped
from oci_criu_shim.host import linux
from oci_criu_shim.log import Log
from oci_criu_shim.restore import restore, sandbox, sockets
from oci_criu_shim.restore.restore import Restore
from tests.unit.test_ckpt import made


@pytest.mark.parametrize(("dialect", "program"), [("crun", "/opt/other"), ("runc", "crun")])
def test_a_crun_by_whatever_name(tmp_path: Path, dialect: str, program: str) -> None:
    """Or else the one that is found: only crun takes over what it has not created."""
    chosen = Backend("/opt/other", str(tmp_path), {}, Log(), dialect)
    plan = SimpleNamespace(container=Container(str(tmp_path), "one"), bundle=None, backend=chosen)
    checkpoint = SimpleNamespace(manifest={})
    restored = Restore(cast(Plan, plan), cast(Checkpoint, checkpoint), Log())
    assert restored.backend.program == program


def test_nothing_is_made_for_a_refused_one(
    tmp_path: Path, bundle_path: Path, config: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*_: object) -> None:
        raise Misfit("a mount has no source here")

    monkeypatch.setattr(node_fit, "check", lambda *_: None)
    monkeypatch.setattr(linux, "become_subreaper", lambda: None)
    monkeypatch.setattr(restore, "RestorePlan", refused)
    config["mounts"] = [{"destination": "/data", "type": "tmpfs", "source": "tmpfs"}]
    (bundle_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "store").mkdir(mode=0o700)
    container = Container(str(tmp_path / "run"), "one")
    container.reserve()
    backend = Backend("crun", container.root, {}, Log())
    plan = SimpleNamespace(container=container, bundle=bundle.load(str(bundle_path)), backend=backend)
    found = committed.read(made(tmp_path / "store", "7/0.0"))
    with pytest.raises(Misfit):
        Restore(cast(Plan, plan), found, Log()).start(Pipes())
    assert not os.path.exists(os.path.join(plan.bundle.rootfs, "data"))
    assert os.listdir(container.directory) == []


@pytest.mark.parametrize("error", [Killed("CRIU ended", "see dmesg"), Stopped("CRIU made no progress for 61 s")])
def test_one_that_was_killed_may_be_restored_elsewhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Killed
) -> None:
    """All that CRIU was restoring is ended."""
    ended: list[object] = []

    def request(*_: object) -> None:
        raise error

    swrk = SimpleNamespace(request=request, close=lambda: ended.append("swrk"))
    verification = SimpleNamespace(start=lambda: None, stop=lambda: ended.append("verification"))
    (tmp_path / "log").write_text("Error (criu/cr-restore.c:1): it was here\n")
    plan = SimpleNamespace(
        **{"log": f"{tmp_path}/log", "manifest": {"files": {}}, "seccomp": None, "options": dict, "bundle": None},
        holds_tcp=False,
        container=SimpleNamespace(name="one"),
        closed=sockets.Closing(None),
    )
    monkeypatch.setattr(sandbox, "start", lambda *_: swrk)
    monkeypatch.setattr(node_fit, "changed", lambda *_: "the kernel is another one")
    given: Any = (plan, verification, SimpleNamespace(notified=None), None, set())
    with pytest.raises(NotRestored, match=f"CRIU could not restore one: {error}") as raised:
        restore._carry_out(*given)
    assert ended == ["verification", "swrk"]
    assert ("it was here" in str(raised.value)) is isinstance(error, Stopped)
