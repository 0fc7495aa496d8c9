"""Container ids, and what the files of a container say."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from oci_criu_shim.container.record import Container, all_of
from oci_criu_shim.errors import ShimError
from oci_criu_shim.host import process


@pytest.mark.parametrize("name", ["n1.alice.7.4294967291.0", "a", "A_b+c.d@e-f", "x" * 200, "_."])
def test_ids(tmp_path: Path, name: str) -> None:
    assert Container(str(tmp_path), name).directory == str(tmp_path / name)


@pytest.mark.parametrize("name", ["", ".", "..", ".crun", "-a", "a/b", "../a", "a b", "a\n", "ä", "x" * 201, "a\0"])
def test_refused_ids(tmp_path: Path, name: str) -> None:
    with pytest.raises(ShimError, match="invalid container id"):
        Container(str(tmp_path), name)


def test_an_id_is_taken_once(tmp_path: Path) -> None:
    container = Container(str(tmp_path / "root"), "one")
    container.reserve()
    with pytest.raises(ShimError, match="already exists"):
        container.reserve()
    container.release()
    container.reserve()


def test_root_that_is_no_directory(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ShimError, match=r"cannot make .*: Not a directory"):
        Container(str(tmp_path / "file/root"), "one").reserve()


def test_roles(tmp_path: Path) -> None:
    container = Container(str(tmp_path), "one")
    container.reserve()
    assert container.alive("init") is None
    container.update({"supervisor": process.identity(os.getpid())})
    container.update({"init": [os.getpid(), 1]})
    assert container.alive("supervisor") == os.getpid()
    assert container.alive("init") is None, "another process with the same number"


def test_a_signal_for_one_that_has_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    container = Container(str(tmp_path), "one")
    container.reserve()
    assert not container.signal("init", 0)
    container.update({"init": process.identity(os.getpid())})
    assert container.signal("init", 0)

    def too_late(*_: object) -> None:
        raise ProcessLookupError

    monkeypatch.setattr(os, "kill", too_late)
    assert not container.signal("init", 0)


def test_all_of(tmp_path: Path) -> None:
    assert all_of(str(tmp_path / "none")) == []
    for name in ("b", "a"):
        Container(str(tmp_path), name).reserve()
    (tmp_path / "helper.0.sock").touch()
    assert [container.name for container in all_of(str(tmp_path))] == ["a", "b"]


@pytest.mark.parametrize("text", ["", "{", "[]", "7", "\xff", "[" * 100000, "{" + '"a":{' * 100000])
def test_what_was_not_written_by_us(tmp_path: Path, text: str) -> None:
    container = Container(str(tmp_path), "one")
    container.reserve()
    (tmp_path / "one/state.json").write_bytes(text.encode("latin-1"))
    with pytest.raises(ShimError, match=r"one/state\.json is not what was written there"):
        container.load()


def test_a_state_that_is_no_file(tmp_path: Path) -> None:
    """Nobody waits for whoever may write to it, and no memory is filled."""
    container = Container(str(tmp_path), "one")
    container.reserve()
    path = tmp_path / "one/state.json"
    os.mkfifo(path)
    with pytest.raises(OSError, match="not a plain file"):
        container.load()
    path.unlink()
    with path.open("wb") as stream:
        stream.truncate(1 << 40)
    with pytest.raises(OSError, match="too large"):
        container.load()
    path.unlink()
    path.symlink_to("/dev/zero")
    with pytest.raises(OSError, match="Too many levels"):
        container.load()
