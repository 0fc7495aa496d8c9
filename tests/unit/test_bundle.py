"""What a bundle says, and what is said of a bad one."""

from __future__ import annotations

import json
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest

from oci_criu_shim.container import bundle
from oci_criu_shim.errors import ShimError


def test_reads_what_is_needed(bundle_path: Path) -> None:
    loaded = bundle.load(str(bundle_path))
    assert loaded.rootfs == str(bundle_path / "rootfs")
    assert loaded.namespaces == {"pid": "", "network": "/run/netns/x"}
    assert loaded.environment() == {"PATH": "/bin", "EMPTY": "", "EQUALS": "a=b"}
    assert not loaded.terminal


def test_relative_path(bundle_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(bundle_path.parent)
    assert bundle.load("bundle").path == str(bundle_path)


def test_missing_bundle(tmp_path: Path) -> None:
    with pytest.raises(ShimError, match=r"cannot read .*none/config\.json: No such file") as caught:
        bundle.load(str(tmp_path / "none"))
    assert "crun spec" in caught.value.hint


def test_not_json(bundle_path: Path) -> None:
    (bundle_path / "config.json").write_text("{")
    with pytest.raises(ShimError, match="is not valid JSON: Expecting property name"):
        bundle.load(str(bundle_path))


@pytest.mark.parametrize("document", [[], "text", None, 3])
def test_not_an_object(bundle_path: Path, document: Any) -> None:
    (bundle_path / "config.json").write_text(json.dumps(document))
    with pytest.raises(ShimError, match="is not of type 'object'"):
        bundle.load(str(bundle_path))


def test_names_every_fault(bundle_path: Path, config: dict[str, Any]) -> None:
    del config["root"]
    config["process"]["args"] = []
    (bundle_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(ShimError, match=r"process\.args") as caught:
        bundle.load(str(bundle_path))
    assert "'root' is a required property" in str(caught.value)


@pytest.mark.parametrize("namespaces", [[], [{"type": "pid", "path": "/proc/1/ns/pid"}]])
def test_no_pid_namespace_is_not_checkpointable(config: dict[str, Any], namespaces: list[dict[str, str]]) -> None:
    config["linux"]["namespaces"] = namespaces
    with pytest.raises(ShimError, match="no pid namespace of its own"):
        bundle.check_checkpointable(bundle.Bundle("/b", config))


def test_pid_namespace_is_checkpointable(config: dict[str, Any]) -> None:
    bundle.check_checkpointable(bundle.Bundle("/b", config))


REFUSED: dict[str, tuple[dict[str, Any], dict[str, Any], str]] = {
    "ipc": ({"namespaces": [{"type": "pid"}, {"type": "ipc", "path": "/x"}]}, {}, "joins a namespace of type ipc"),
    "time": ({"namespaces": [{"type": "pid"}, {"type": "time", "path": "/x"}]}, {}, "joins a namespace of type time"),
    "seccomp": (
        {"seccomp": {"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": ["x"], "action": "SCMP_ACT_NOTIFY"}]}},
        {},
        "decided by a process outside",
    ),
    "intelRdt": ({"intelRdt": {"closID": "x"}}, {}, "a share of the processor's cache"),
    "sysctl": ({"sysctl": {"kernel.shm_rmid_forced": "1"}}, {}, "sets kernel.shm_rmid_forced"),
    "0 is another": ({"uidMappings": [{"containerID": 0, "hostID": 70000, "size": 9}]}, {}, "to another one than 0"),
    "1 is the user": ({"uidMappings": [{"containerID": 1, "hostID": 7000, "size": 1}]}, {}, "to another one than 0"),
    "not 0 runs it": ({"uidMappings": [{"containerID": 0, "hostID": 7000, "size": 1}]}, {"uid": 5}, "who is not you"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_not_checkpointable(config: dict[str, Any], monkeypatch: pytest.MonkeyPatch, case: str) -> None:
    linux, user, reason = REFUSED[case]
    config["linux"] |= linux
    config["process"]["user"] = user
    monkeypatch.setattr("os.geteuid", lambda: 7000)
    with pytest.raises(ShimError, match=reason):
        bundle.check_checkpointable(bundle.Bundle("/b", config))


@pytest.mark.parametrize(
    "mount",
    [
        {"uidMappings": [{"containerID": 0, "hostID": 1, "size": 1}]},
        {"gidMappings": [{"containerID": 0, "hostID": 1, "size": 1}]},
        {"options": ["bind", "idmap"]},
        {"options": ["bind", "ridmap=uids=0-1-1"]},
    ],
)
def test_mapped_mounts_are_not_checkpointable(config: dict[str, Any], mount: dict[str, Any]) -> None:
    config["mounts"].append({"destination": "/data", "source": "/x", **mount})
    with pytest.raises(ShimError, match="maps the ids of the mount /data"):
        bundle.check_checkpointable(bundle.Bundle("/b", config))


@pytest.mark.parametrize("kind", ["ipc", "mount", "pid", "time", "user"])
def test_what_is_joined_is_not_restorable(config: dict[str, Any], kind: str) -> None:
    bundle.check_restorable(bundle.Bundle("/b", config))
    config["linux"]["namespaces"] = [{"type": "network", "path": "/x"}, {"type": kind, "path": "/x"}]
    with pytest.raises(ShimError, match=f"joins a namespace of type {kind}, and the checkpoint has one"):
        bundle.check_restorable(bundle.Bundle("/b", config))


def test_own_id_within_a_range_is_checkpointable(config: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    ranges = [{"containerID": 0, "hostID": 7000, "size": 1}, {"containerID": 1, "hostID": 100000, "size": 65536}]
    config["linux"]["uidMappings"] = ranges
    monkeypatch.setattr("os.geteuid", lambda: 7000)
    bundle.check_checkpointable(bundle.Bundle("/b", config))


@pytest.mark.parametrize("first", [0, 1])
def test_roots_ids_need_a_0(config: dict[str, Any], monkeypatch: pytest.MonkeyPatch, first: int) -> None:
    config["linux"]["uidMappings"] = [{"containerID": first, "hostID": 100000, "size": 65536}]
    monkeypatch.setattr("os.geteuid", lambda: 0)
    with pytest.raises(ShimError, match="maps no id to 0") if first else nullcontext():
        bundle.check_checkpointable(bundle.Bundle("/b", config))
