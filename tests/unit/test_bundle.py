"""What a bundle says, and what is said of a bad one."""

from __future__ import annotations

import json
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


def test_slurms_copy_is_called_by_the_users_name(bundle_path: Path, config: dict[str, Any]) -> None:
    """Nobody can correct the copy."""
    config["process"]["env"].append("SLURM_CONTAINER=/home/alice/bundle")
    assert bundle.Bundle(str(bundle_path), config).file == "/home/alice/bundle/config.json"
    config["process"]["args"] = []
    (bundle_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(ShimError, match=r"^/home/alice/bundle/config\.json is not a valid"):
        bundle.load(str(bundle_path))
    with pytest.raises(ShimError, match=rf"^{bundle_path}/config\.json is not a valid"):
        bundle.load("/", f"{bundle_path}/config.json")
    config["process"]["env"] = 3
    (bundle_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(ShimError, match=rf"^{bundle_path}/config\.json is not a valid"):
        bundle.load(str(bundle_path))


def test_null_is_as_good_as_nothing(bundle_path: Path, config: dict[str, Any]) -> None:
    """crun and runc take it for that. In a list it is a fault: crun ends the program's arguments there."""
    given = {**config, "hooks": None, "linux": {**config["linux"], "seccomp": None, "devices": None}}
    (bundle_path / "config.json").write_text(json.dumps(given))
    assert bundle.load(str(bundle_path)).config == config
    given["process"] = {**config["process"], "args": ["sleep", None]}
    (bundle_path / "config.json").write_text(json.dumps(given))
    with pytest.raises(ShimError, match=r"process\.args\[1\]"):
        bundle.load(str(bundle_path))


def test_no_process(bundle_path: Path, config: dict[str, Any]) -> None:
    """config.md, Process: it is required when `start` is called, and no sooner."""
    del config["process"]
    (bundle_path / "config.json").write_text(json.dumps(config))
    loaded = bundle.load(str(bundle_path))
    assert (loaded.environment(), loaded.terminal) == ({}, False)


def test_mounts_with_an_option(bundle_path: Path, config: dict[str, Any]) -> None:
    (bundle_path / "rootfs/run").mkdir(parents=True, exist_ok=True)
    (bundle_path / "rootfs/var").mkdir()
    (bundle_path / "rootfs/var/run").symlink_to("/run")
    config["mounts"] = [
        {"destination": "/var/run/x", "source": "/x", "options": ["bind", "nosymfollow"]},
        {"destination": "/tmp", "type": "tmpfs"},
    ]
    loaded = bundle.Bundle(str(bundle_path), config)
    assert loaded.points_with("nosymfollow") == {"/run/x"}
    assert loaded.mount_points == {"/run/x", "/tmp"}
