"""What a restore needs of its node: what is noted, and what is refused."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from oci_criu_shim.container import node_fit
from oci_criu_shim.container.bundle import Bundle
from oci_criu_shim.errors import Misfit, ShimError
from oci_criu_shim.host import cgroups, criu

X86 = "processor\t: 0\nflags\t\t: fpu sse sse2 avx2 hypervisor md_clear xsaves\nprocessor\t: 1\nflags\t\t: other\n"
ARM = "processor\t: 0\nFeatures\t: fp asimd sve\n"


@pytest.fixture
def bundle(config: dict[str, Any]) -> Bundle:
    return Bundle("/bundle", config)


@pytest.fixture
def node(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What this node is: to be changed by the test."""
    found = {"cpu": {"sse2", "avx2"}, "groups": {"": "/"}, "criu": (4, 2, 1)}
    monkeypatch.setattr(node_fit, "cpu", lambda: found["cpu"])
    monkeypatch.setattr(cgroups, "of", lambda _: found["groups"])
    monkeypatch.setattr(criu, "version", lambda _: found["criu"])
    monkeypatch.setattr(criu, "require_bindings", lambda made: None)
    return found


def manifest(bundle: Bundle) -> dict[str, Any]:
    return {"node": "n1", "criu": "4.2.1", "needs": node_fit.needs(bundle, [os.getpid()])}


@pytest.mark.parametrize(
    ("text", "wanted"), [(X86, {"fpu", "sse", "sse2", "avx2"}), (ARM, {"fp", "asimd", "sve"}), ("cpu: POWER9\n", set())]
)
def test_cpu(tmp_path: Path, text: str, wanted: set[str]) -> None:
    path = tmp_path / "cpuinfo"
    path.write_text(text)
    assert node_fit.cpu(str(path)) == wanted


def test_this_nodes_cpu() -> None:
    assert node_fit.cpu() or os.uname().machine not in ("x86_64", "aarch64")


@pytest.mark.parametrize("words", ["7:cpu,memory", "7:cpu,memory:"])
def test_cgroup_version(node: dict[str, Any], words: str) -> None:
    assert node_fit.cgroup_version() == 2
    node["groups"] = {"": "/", words: "/"}
    assert node_fit.cgroup_version() == 1


def test_fits(node: dict[str, Any], bundle: Bundle) -> None:
    noted = manifest(bundle)
    node["cpu"] = {*node["cpu"], "avx512f"}
    node["criu"] = (4, 2)
    node_fit.check(noted)
    node["cpu"] = set()
    node_fit.check({"node": "n1", "criu": "9.9"})  # of before they were noted
    node_fit.check({})  # of another runtime


CHANGES: list[tuple[Callable[[dict[str, Any]], object], str]] = [
    (
        lambda node: node["cpu"].remove("avx2"),
        "this node's processor lacks avx2, and the checkpoint was made on n1, which has them",
    ),
    (
        lambda node: node["groups"].update({"cpu": "/"}),
        "the checkpoint was made on n1, with cgroup v2, and this node has v1",
    ),
    (
        lambda node: node.update(criu=(4, 1, 9)),
        "the checkpoint was made by CRIU 4.2.1, and this node has 4.1.9",
    ),
]


@pytest.mark.parametrize(("change", "said"), CHANGES)
def test_misfit(node: dict[str, Any], bundle: Bundle, change: Callable[[dict[str, Any]], object], said: str) -> None:
    noted = manifest(bundle)
    change(node)
    with pytest.raises(Misfit) as raised:
        node_fit.check(noted)
    assert str(raised.value) == said
    assert raised.value.hint


def test_another_machine(node: dict[str, Any], bundle: Bundle) -> None:
    noted = manifest(bundle)
    noted["needs"]["machine"] = "vax"
    with pytest.raises(Misfit, match=r"n1, a vax, and this node is a ") as raised:
        node_fit.check(noted)
    assert raised.value.hint


def test_other_pages(node: dict[str, Any], bundle: Bundle) -> None:
    """As arm64's kernels may have them."""
    noted = manifest(bundle)
    noted["needs"]["page"] = 1 << 20
    with pytest.raises(Misfit, match=r"n1, with pages of 1048576 bytes, and this node's have \d+$") as raised:
        node_fit.check(noted)
    assert raised.value.hint
    del noted["needs"]["page"]  # of before that was noted
    node_fit.check(noted)


@pytest.mark.parametrize(
    ("made", "here", "said"),
    [
        ("6.18.2", "6.12.57+deb13-amd64", ["it was made on Linux 6.18.2, and this node has 6.12.57+deb13-amd64, "]),
        ("6.12.57+deb13-amd64", "6.12.1", []),
        ("6.12.1", "6.18.2", []),
    ],
)
def test_an_older_kernel(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch, made: str, here: str, said: list[str]
) -> None:
    monkeypatch.setattr(os, "uname", lambda: SimpleNamespace(release=here))
    found = list(node_fit.differences({"kernel": made}, bundle))
    assert [line.removesuffix("which is older") for line in found] == said
    assert list(node_fit.differences({}, bundle)) == []  # another runtime's


@pytest.mark.parametrize(
    ("environment", "annotations", "told"),
    [
        (["SLURM_CONTAINER=/bundle"], {}, True),
        (["SLURM_CONTAINER=/bundle"], {"oci-criu-shim.container": "c1"}, False),
        (["SLURM_CONTAINER=/bundle"], {"oci-criu-shim.rootfs": "/other"}, False),
        ([], {}, False),
    ],
)
def test_another_bundle(
    bundle: Bundle, config: dict[str, Any], environment: list[str], annotations: dict[str, str], told: bool
) -> None:
    """An engine's are never what they were."""
    noted = {"needs": {"image": node_fit.image(bundle)}}
    config = {**config, "process": {"env": environment}, "annotations": annotations}
    assert list(node_fit.differences(noted, Bundle("/bundle", config))) == []
    other = Bundle("/bundle", {**config, "hostname": "other"})
    assert [line.partition(" (")[0] for line in node_fit.differences(noted, other)] == [
        *(["the bundle is not what it was at the checkpoint"] if told else [])
    ]


def test_image_is_the_same_for_all_tasks(bundle: Bundle, config: dict[str, Any]) -> None:
    before = node_fit.image(bundle)
    task = {**config, "process": {"args": ["other"]}, "mounts": [], "root": {"path": "/bundle/rootfs"}}
    assert node_fit.image(Bundle("/elsewhere", task)) == before
    assert node_fit.image(Bundle("/elsewhere", config)) != before
    assert node_fit.image(Bundle("/bundle", {**config, "hostname": "other"})) != before


def test_image_that_is_named(config: dict[str, Any]) -> None:
    config["annotations"] = {"org.opencontainers.image.digest": "sha256:1"}
    assert node_fit.image(Bundle("/any", config)) == "sha256:1"


def test_changed(bundle: Bundle, config: dict[str, Any]) -> None:
    noted = {"needs": {"image": node_fit.image(bundle)}}
    other = Bundle("/bundle", {**config, "hostname": "other"})
    assert node_fit.changed(noted, bundle) == node_fit.changed({}, other) == ""
    assert node_fit.changed(noted, other).startswith("the bundle is not what it was at the checkpoint (config.json:")


@pytest.mark.parametrize("kind", ["ipc", "mount", "pid", "time", "user"])
def test_what_is_joined_is_not_restorable(config: dict[str, Any], kind: str) -> None:
    node_fit.check_bundle(Bundle("/b", config))
    config["linux"]["namespaces"] = [{"type": "network", "path": "/x"}, {"type": kind, "path": "/x"}]
    with pytest.raises(ShimError, match=f"joins a namespace of type {kind}, and the checkpoint has one"):
        node_fit.check_bundle(Bundle("/b", config))
