"""How deep the two long ways are: from the command line to a restore's sandbox, from SIGTERM to the worker's request.

Only the package's own functions count, from the first one to the last one, both included.
"""

from __future__ import annotations

import inspect
import json
import os
import signal
import socket
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import oci_criu_shim
from oci_criu_shim.checkpoints.store import STARTED
from oci_criu_shim.cli import parse
from oci_criu_shim.container import node_fit
from oci_criu_shim.container.stdio import Pipes
from oci_criu_shim.dump import client, kept
from oci_criu_shim.host import linux, process
from oci_criu_shim.log import Log
from oci_criu_shim.restore import restore, sandbox, sockets
from oci_criu_shim.slurm import controller
from oci_criu_shim.supervisor import launch
from oci_criu_shim.supervisor.attempts import Attempts
from oci_criu_shim.supervisor.loop import Supervisor
from oci_criu_shim.task import daily_prune, deadline
from tests.unit.test_ckpt import made as checkpoint
from tests.unit.test_policy import Make, make
from tests.unit.test_slurm import seen

__all__ = ["make"]
PACKAGE = os.path.dirname(oci_criu_shim.__file__)


class Ended(BaseException):
    """The way ends here."""


class Depth:
    """Takes the place of the last function; notes the package's functions that led to it, and ends them."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.names: list[str] = []

    def __call__(self, *_: object, **__: object) -> Any:
        frames = [frame for frame in inspect.stack() if frame.filename.startswith(PACKAGE)]
        self.names = [*(frame.function for frame in reversed(frames)), self.name]
        raise Ended


def test_a_restart(tmp_path: Path, bundle_path: Path, config: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    store = tmp_path / "store"
    store.mkdir(mode=0o700)
    checkpoint(store, "7/0.0")
    (store / "7/0.0" / STARTED).touch()
    slurms = {"SLURM_JOB_ID": "7", "SLURM_STEP_ID": "0", "SLURM_RESTART_COUNT": "1", "SLURM_CHECKPOINT": "preempt"}
    slurms["SLURM_CHECKPOINT_DIR"] = str(store)
    config["process"]["env"] = [f"{name}={value}" for name, value in slurms.items()]
    (bundle_path / "config.json").write_text(json.dumps(config))
    start = Depth("start")
    monkeypatch.setattr(sandbox, "start", start)
    plan = SimpleNamespace(bases={}, make_points=list, holds_tcp=False, closed=sockets.Closing(None))
    monkeypatch.setattr(restore, "RestorePlan", lambda *_: plan)
    monkeypatch.setattr(node_fit, "check", lambda *_: None)
    monkeypatch.setattr(linux, "become_subreaper", lambda: None)
    monkeypatch.setattr(launch, "Signals", lambda: None)
    monkeypatch.setattr(daily_prune, "begin", lambda *_: None)
    with pytest.raises(Ended):
        parse.main([f"--root={tmp_path}/run", "run", f"--bundle={bundle_path}", "one"])
    assert (start.names[0], start.names[-1]) == ("main", "start")
    assert len(start.names) <= 12, start.names


def test_a_preemption(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    request = Depth("dump")
    policy = make("preempt")
    container = policy.container
    container.save({"init": process.identity(os.getpid()), "bundle": "/", "config": {"root": {"path": "r"}}})
    os.makedirs(policy.store.directory, exist_ok=True)
    monkeypatch.setattr(client, "dump", request)
    monkeypatch.setattr(client, "connect", lambda _: socket.socket())
    monkeypatch.setattr(kept, "check", lambda _: [])
    monkeypatch.setattr(controller, "job", lambda *_, **__: seen(preempt_time=1))
    monkeypatch.setattr(process, "fork", lambda work: work())
    monkeypatch.setattr(deadline, "_started", lambda *_: None)
    signals: Any = SimpleNamespace(reader=0, read=lambda: [signal.SIGTERM])
    supervisor = Supervisor(container, os.getpid(), "", Pipes(), signals, Log(), Attempts(policy, Log()))
    monkeypatch.setattr(supervisor, "_wait", lambda: None)
    with pytest.raises(Ended):
        supervisor.run()
    assert (request.names[0], request.names[-1]) == ("run", "dump")
    assert len(request.names) <= 10, request.names
