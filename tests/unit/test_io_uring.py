"""Seccomp filters by which a container finds no io_uring."""

from __future__ import annotations

import copy
import os
from typing import Any

import pytest

from oci_criu_shim.container import io_uring
from oci_criu_shim.container.io_uring import HIDDEN
from oci_criu_shim.container.plan import Plan
from oci_criu_shim.container.record import Container
from oci_criu_shim.files import read_json
from oci_criu_shim.log import Log
from tests.unit.test_registry import container

__all__ = ["container"]

ALLOW, DENY, KILL = "SCMP_ACT_ALLOW", "SCMP_ACT_ERRNO", "SCMP_ACT_KILL_PROCESS"
READS = {"names": ["read", "io_uring_setup", "write"], "action": ALLOW}
OTHERS = {"names": ["read", "write"], "action": ALLOW}


def filtered(config: dict[str, Any], seccomp: dict[str, Any] | None) -> Any:
    """The filter that comes of this one; config.json is not changed in place."""
    if seccomp is not None:
        config["linux"]["seccomp"] = seccomp
    before = copy.deepcopy(config)
    found = io_uring.hidden(config)
    assert config == before
    assert {**found, "linux": {**found["linux"], "seccomp": 0}} == {
        **config,
        "linux": {**config["linux"], "seccomp": 0},
    }
    return found["linux"].get("seccomp")


def test_without_a_filter(config: dict[str, Any]) -> None:
    """All else is as before, and so are programs for other architectures that the machine runs."""
    found = filtered(config, None)
    assert (found["defaultAction"], found["syscalls"]) == (ALLOW, [HIDDEN])
    assert f"SCMP_ARCH_{os.uname().machine.upper()}" in found["architectures"]


def test_an_unknown_machine(config: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """The filter would end programs of the second architecture that it may have."""
    monkeypatch.setattr(io_uring, "ARCHITECTURES", {})
    assert filtered(config, None) is None


@pytest.mark.parametrize(
    ("default", "rules", "expected"),
    [
        (ALLOW, None, [HIDDEN]),
        (ALLOW, [{"names": ["mount"], "action": DENY}], [{"names": ["mount"], "action": DENY}, HIDDEN]),
        (DENY, [READS], [OTHERS, HIDDEN]),
        (KILL, [{"names": ["io_uring_setup"], "action": "SCMP_ACT_LOG"}], [HIDDEN]),
        (
            KILL,
            [{**READS, "args": [{"index": 0, "value": 8, "op": "SCMP_CMP_LT"}]}],
            [{**OTHERS, "args": [...]}, HIDDEN],
        ),
        (ALLOW, [READS, {"names": ["io_uring_setup"], "action": KILL, "args": [...]}], [OTHERS, HIDDEN]),
    ],
)
def test_a_filter_that_permits_it(config: dict[str, Any], default: str, rules: Any, expected: Any) -> None:
    seccomp = {"defaultAction": default, "architectures": ["SCMP_ARCH_X86"], "syscalls": rules}
    if rules and rules[0].get("args"):
        expected[0]["args"] = rules[0]["args"]
    found = filtered(config, seccomp if rules else {"defaultAction": default})
    assert found["syscalls"] == expected
    assert not rules or found["architectures"] == ["SCMP_ARCH_X86"]


@pytest.mark.parametrize(
    ("default", "rules"),
    [(DENY, [OTHERS]), (KILL, []), (ALLOW, [{"names": ["io_uring_setup"], "action": "SCMP_ACT_ERRNO"}])],
)
def test_a_filter_that_forbids_it(config: dict[str, Any], default: str, rules: Any) -> None:
    """It may mean more by its own error than we would."""
    seccomp = {"defaultAction": default, "syscalls": rules}
    assert filtered(config, copy.deepcopy(seccomp)) == seccomp


def test_what_the_backend_gets(container: Container, bundle_path: Any) -> None:
    """The bundle is left alone, and what is compared with it at a restore is what it has."""
    plan = Plan(container, str(bundle_path), {"backend": "crun"}, [], None, Log(), None)
    plan.options.append("--config=other.json")
    plan.give(io_uring.hidden(plan.bundle.config))
    path = container.path("config.json")
    assert (f"--config={path}" in plan.options, "--config=other.json" in plan.options) == (True, False)
    assert read_json(path) == plan.given != plan.bundle.config == read_json(f"{bundle_path}/config.json")


def test_runc_gets_the_bundles(container: Container, bundle_path: Any) -> None:
    plan = Plan(container, str(bundle_path), {"backend": "runc"}, [], None, Log())
    before = list(plan.options)
    plan.give(io_uring.hidden(plan.bundle.config))
    assert (plan.options, plan.given, os.listdir(container.directory)) == (before, plan.bundle.config, [])
