"""What is made before CRIU starts, as far as it needs no container."""

from __future__ import annotations

import os
import resource
from pathlib import Path

import pytest

from oci_criu_shim.errors import Misfit
from oci_criu_shim.host import process
from oci_criu_shim.restore import sandbox


def test_limits_are_raised_and_never_lowered(monkeypatch: pytest.MonkeyPatch) -> None:
    """To the init's hard limits, the soft ones being CRIU's business; what is not allowed is left to CRIU."""
    ours = {0: (5, 10), 1: (5, -1), 2: (5, 10), 3: (5, 10), 4: (5, 10)}
    asked = {}

    def setrlimit(number: int, limits: tuple[int, int]) -> None:
        asked[number] = limits
        if number == 4:
            raise ValueError("not allowed to raise maximum limit")

    monkeypatch.setattr(resource, "getrlimit", ours.__getitem__)
    monkeypatch.setattr(resource, "setrlimit", setrlimit)
    sandbox._raise_limits([10, 20, 9, -1, 20])
    assert asked == {3: (5, -1), 4: (5, 20)}


def test_ids_outside() -> None:
    mapping = [[0, 300000, 10], [10, 7, 1]]
    assert [sandbox._outside(mapping, number) for number in (0, 9, 10)] == [300000, 300009, 7]


RANGES = [[0, 1000, 1], [1, 100000, 65536]]
REFUSED = "newuidmap: uid range [1-65537) -> [100000-165536) not allowed"


@pytest.mark.parametrize(
    ("program", "said"), [(None, "there is no newuidmap"), (f"echo '{REFUSED}' >&2; exit 1", "newuidmap: uid range")]
)
def test_ranges_that_this_node_does_not_give(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, program: str | None, said: str
) -> None:
    """Another one may."""
    if program:
        (tmp_path / "newuidmap").write_text(f"#!/bin/sh\n{program}\n")
        (tmp_path / "newuidmap").chmod(0o755)
    monkeypatch.setattr(process, "PATH", str(tmp_path))
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(Misfit, match=said):
        sandbox._map_ids(1, RANGES, RANGES)


def test_a_link_among_images_leads_nowhere(tmp_path: Path) -> None:
    """What root gives away is in their directory, whoever made them."""
    (tmp_path / "images").mkdir(mode=0o700)
    for name in ("images/pages-1.img", "precious"):
        (tmp_path / name).touch(mode=0o600)
    (tmp_path / "images/link.img").symlink_to("../precious")
    for name in ("images", "images/pages-1.img", "images/link.img"):
        sandbox._let_read(str(tmp_path / name), os.getegid())
    modes = [(tmp_path / name).stat().st_mode & 0o777 for name in ("images", "images/pages-1.img", "precious")]
    assert modes == [0o750, 0o640, 0o600]


def test_first_closed_directory(tmp_path: object) -> None:
    """The one that a user whom nothing on the node belongs to does not get into."""
    path = f"{tmp_path}/open/closed/below/place"
    os.makedirs(path)
    for name, mode in ((f"{tmp_path}", 0o755), (f"{tmp_path}/open", 0o711), (f"{tmp_path}/open/closed", 0o700)):
        os.chmod(name, mode)
    above = sandbox._first_closed(f"{tmp_path}/x")
    assert sandbox._first_closed(path) == (above or f"{tmp_path}/open/closed")


def test_a_builder_that_hangs_is_killed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sandbox, "BUILD_SECONDS", 0.1)
    reader, writer = os.pipe()
    builder = process.spawn(["/bin/sleep", "60"], {}, {})
    with pytest.raises(Misfit, match="mounts are not made after 0 s: no reason is known"):
        sandbox._answer(reader, 1, builder)
    assert process.wait(builder) == -9
    os.write(writer, b"r")
    assert sandbox._answer(reader, 1, builder) == b"r"
    os.close(reader)
    os.close(writer)
