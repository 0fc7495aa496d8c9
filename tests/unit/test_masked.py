"""Directories in linux.maskedPaths: crun 1.28 covers each by one empty directory, which a restore has to find."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from oci_criu_shim.container import backends
from oci_criu_shim.container.bundle import Bundle
from oci_criu_shim.container.record import Container
from oci_criu_shim.dump.faults import mounts as faults
from oci_criu_shim.dump.survey import Survey
from oci_criu_shim.errors import ShimError
from oci_criu_shim.host import mounts
from oci_criu_shim.host.external import External
from oci_criu_shim.restore import foreign, sources

ROOT = "/run/oci-criu-shim/7/.crun/.empty-directory"


def entry(key: str) -> External:
    return {"key": key, "kind": "bind", "root": ROOT, "options": ["ro"]}


@pytest.fixture
def bundle(tmp_path: Path) -> Bundle:
    (tmp_path / "rootfs").mkdir()
    (tmp_path / "rootfs/firmware").symlink_to("sys/firmware")
    masked = ["/proc/acpi", "/firmware", "/proc/kcore"]
    return Bundle(str(tmp_path), {"root": {"path": "rootfs"}, "linux": {"maskedPaths": masked}, "mounts": []})


def test_links_are_followed(bundle: Bundle) -> None:
    assert bundle.masked == {"/proc/acpi", "/sys/firmware", "/proc/kcore"}


@pytest.mark.parametrize(
    ("point", "is_file", "names", "refused"),
    [
        ("/proc/acpi", False, [], False),
        ("/proc/acpi", False, ["x"], True),
        ("/proc/acpi", True, [], True),
        ("/proc/bus", False, [], True),
    ],
)
def test_only_what_is_empty(
    bundle: Bundle,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    point: str,
    is_file: bool,
    names: list[str],
    refused: bool,
) -> None:
    """A program or a hook may have mounted something else there."""
    place = tmp_path / point.lstrip("/")
    place.parent.mkdir()
    place.touch() if is_file else place.mkdir()
    for name in names:
        (place / name).touch()
    monkeypatch.setattr(Survey, "path", lambda _, inside: f"{tmp_path}{inside}")
    survey = Survey(7, bundle)
    survey.external = [entry(point)]
    said = [str(fault) for fault in faults.foreign(survey)]
    assert [f"{point} is a mount of the node's files" in line for line in said] == [True] * refused


@pytest.mark.parametrize(("config", "inner"), [(None, {}), ({}, {"/proc/acpi": ROOT})])
def test_a_program_has_not_made_it(bundle: Bundle, config: dict[str, Any] | None, inner: dict[str, str]) -> None:
    """Though its source is in files that the container has: another node does not have it there."""
    bundle.config["mounts"] = [{"destination": "/data", "type": "bind", "source": "/"}]
    bundle.config["linux"] = bundle.config["linux"] if config is None else config
    survey = Survey(7, bundle)
    survey.node = mounts.parse("9 0 8:1 / / rw - ext4 /dev/sda1 rw")
    places = {"/": "/b/rootfs", "/data": "/", "/proc/acpi": ROOT}
    survey.mounts = mounts.parse("\n".join(f"2 1 8:1 {root} {at} rw - ext4 x rw" for at, root in places.items()))
    assert survey.inner == inner


def test_it_is_made_where_crun_makes_it(bundle: Bundle, tmp_path: Path) -> None:
    """No container was created below this root directory yet."""
    container = Container(str(tmp_path / "run"), "one")
    for _ in range(2):
        (found,) = sources.find([entry("/proc/acpi")], bundle, container, "", None)
        assert found.path == f"{container.root}/.crun/.empty-directory" == backends.empty_directory(container.root)
        assert os.listdir(found.path) == []
        assert os.stat(found.path).st_mode & 0o777 == 0o555
    assert found.external == f"mnt[/proc/acpi]:{container.path('stage')}/0"


def test_other_mounts_need_a_source(bundle: Bundle, tmp_path: Path) -> None:
    with pytest.raises(ShimError, match=r"mount /proc/bus has no source in config\.json"):
        sources.find([entry("/proc/bus")], bundle, Container(str(tmp_path), "one"), "", None)


@pytest.mark.parametrize(("root", "kind"), [(ROOT, "bind"), ("/null", "device")])
def test_in_an_archive_of_cruns(bundle: Bundle, root: str, kind: str) -> None:
    """CRIU knows it by the directory's path."""
    found = foreign._entry({"mountpoint": "/proc/acpi", "ext_key": ROOT, "root": root, "flags": 1}, bundle)
    assert (found["kind"], found["name"]) == (kind, ROOT)
