"""Removing trees."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from oci_criu_shim import files


def test_removes_a_tree_and_follows_no_link(tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    (other / "kept").touch()
    tree = tmp_path / "tree"
    (tree / "deep" / "deeper").mkdir(parents=True)
    (tree / "deep" / "file").touch()
    (tree / "directory").symlink_to(other)
    (tree / "dangling").symlink_to("nowhere")
    files.remove_tree(str(tree))
    assert [path.name for path in tmp_path.iterdir()] == ["other"]
    assert (other / "kept").exists()


def test_nothing_to_remove(tmp_path: Path) -> None:
    files.remove_tree(str(tmp_path / "missing"))


def test_a_link_is_no_tree(tmp_path: Path) -> None:
    (tmp_path / "target").mkdir()
    (tmp_path / "link").symlink_to("target")
    with pytest.raises(OSError, match="link"):
        files.remove_tree(str(tmp_path / "link"))
    assert (tmp_path / "target").exists()


def test_what_a_plain_file_has(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"12345")
    path.chmod(0o644)
    assert files.read_regular(str(path), 5) == files.read_regular(str(path), 5, owner=os.geteuid()) == b"12345"
    with pytest.raises(OSError, match="too large"):
        files.read_regular(str(path), 4)
    with pytest.raises(OSError, match="only its owner can write"):
        files.read_regular(str(path), 5, owner=os.geteuid() + 1)
    path.chmod(0o664)
    with pytest.raises(OSError, match="only its owner can write"):
        files.read_regular(str(path), 5, owner=os.geteuid())


def test_what_is_no_plain_file_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "link").symlink_to("/dev/null")
    for name, said in (("fifo", "not a plain file"), ("link", "Too many levels"), (".", "directory")):
        with pytest.raises(OSError, match=said):
            files.read_regular(str(tmp_path / name), 5)
    with pytest.raises(OSError, match="not a plain file"):
        files.read_regular("/dev/zero", 5)


@pytest.mark.parametrize(
    "text",
    [
        *('{"a": [1, -2.5e3, true, null, "\\u00e9\\n"], "b": {}}', "  [1]\r\n\t", '"x"', "NaN", "1 ", "[1, 2"),
        *("", "  ", "{} x", "{'a': 1}", '{"a": "\t"}', "[1,]", "\ufeff{}", "nul", '{"a": 1, "a": 2}'),
    ],
)
def test_json_as_json_has_it(text: str) -> None:
    assert outcome(files.parse_json, text) == outcome(json.loads, text)


def outcome(parse: Callable[[str], Any], text: str) -> str:
    """What is made of `text`, or what is wrong with it."""
    try:
        return repr(parse(text))
    except ValueError as error:
        return str(error)
