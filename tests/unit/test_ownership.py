"""Whose a directory is that root is to work in: told by what is on the way to it, and by a job's record."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from types import SimpleNamespace

import pytest

from oci_criu_shim import files
from oci_criu_shim.container import ownership
from oci_criu_shim.errors import ShimError

Patch = pytest.MonkeyPatch

DIRECTORY, LINK, FILE = stat.S_IFDIR, stat.S_IFLNK, stat.S_IFREG
# {path: (uid, kind and mode, where it leads)}
TREE = {
    "/": (0, DIRECTORY | 0o755, ""),
    "/run": (0, DIRECTORY | 0o755, ""),
    "/run/oci-criu-shim": (0, DIRECTORY | 0o755, ""),
    "/run/oci-criu-shim/root": (0, DIRECTORY | 0o700, ""),
    "/run/oci-criu-shim/7": (0, DIRECTORY | 0o700, ""),
    "/run/oci-criu-shim/8": (1000, DIRECTORY | 0o700, ""),
    "/run/oci-criu-shim/12.left.99": (1000, DIRECTORY | 0o700, ""),
    "/var": (0, DIRECTORY | 0o755, ""),
    "/var/run": (0, LINK | 0o777, "/run"),
    "/var/up": (0, LINK | 0o777, "../run/./oci-criu-shim"),
    "/var/around": (0, LINK | 0o777, "around"),
    "/var/theirs": (1000, LINK | 0o777, "/run"),
    "/tmp": (0, DIRECTORY | 0o1777, ""),
    "/tmp/own": (0, DIRECTORY | 0o700, ""),
    "/tmp/own/link": (0, LINK | 0o777, "/run"),
    "/tmp/back": (0, DIRECTORY | 0o755, ""),
    "/tmp/link": (0, LINK | 0o777, "/run"),
    "/tmp/theirs": (1000, DIRECTORY | 0o700, ""),
    "/srv": (0, DIRECTORY | 0o2775, ""),
    "/srv/own": (0, DIRECTORY | 0o700, ""),
    "/open": (0, DIRECTORY | 0o777, ""),
    "/open/own": (0, DIRECTORY | 0o700, ""),
    "/home": (0, DIRECTORY | 0o755, ""),
    "/home/alice": (1000, DIRECTORY | 0o755, ""),
    "/home/alice/roots": (0, DIRECTORY | 0o700, ""),
}


@pytest.fixture
def tree(monkeypatch: Patch) -> set[str]:
    """TREE instead of the real one, with the records of jobs 7 (root's) and 12; what was looked at."""
    looked: set[str] = set()
    records = {"/run/oci-criu-shim/7.owner": b"0 0\n", "/run/oci-criu-shim/12.owner": b"1000 100\n"}

    def look(here: str, mount: str) -> tuple[SimpleNamespace, str, str]:
        looked.add(here)
        if here not in TREE:
            raise FileNotFoundError(2, "No such file or directory", here)
        uid, mode, target = TREE[here]
        return SimpleNamespace(st_uid=uid, st_mode=mode), target, mount

    def read(path: str, most: int, owner: int | None = None) -> bytes:
        assert owner == 0
        if path not in records:
            raise FileNotFoundError(2, "No such file or directory", path)
        return records[path]

    monkeypatch.setattr(ownership, "_look", look)
    monkeypatch.setattr(files, "read_regular", read)
    return looked


@pytest.mark.parametrize(
    "path",
    [
        *("/run/oci-criu-shim/root", "/run/oci-criu-shim/root/deep/er", "/run/new", "/var/run/oci-criu-shim/root"),
        *("/tmp/own", "/tmp/own/new", "/tmp/own/link/new", "/var/up/root", "/nowhere/at/all", "/run/oci-criu-shim/7"),
    ],
)
def test_roots_own(tree: set[str], path: str) -> None:
    assert ownership.user_of(path) is None


@pytest.mark.parametrize(
    "path",
    [
        *("/run/oci-criu-shim/12", "/run/oci-criu-shim/12/deep", "/var/run/oci-criu-shim/12", "/var/up/12"),
        "/tmp/own/link/oci-criu-shim/12",
    ],
)
def test_a_jobs(tree: set[str], path: str) -> None:
    """Of the job's directory itself nothing is asked."""
    user = ownership.user_of(path)
    assert user and (user.uid, user.gid) == (1000, 100)
    assert not {looked for looked in tree if "/12" in looked}


@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("/run/oci-criu-shim/8", "there is no /run/oci-criu-shim/8.owner, which says whose"),
        ("/run/oci-criu-shim/012", "there is no /run/oci-criu-shim/012.owner"),
        ("/run/oci-criu-shim/12.left.99", "/run/oci-criu-shim/12.left.99 belongs to user 1000"),
        ("/run/oci-criu-shim/root/../8", "there is no /run/oci-criu-shim/8.owner"),
        ("/home/alice", "/home/alice belongs to user 1000"),
        ("/home/alice/roots", "/home/alice belongs to user 1000"),
        ("/home/alice/new", "/home/alice belongs to user 1000"),
        ("/tmp/theirs", "/tmp/theirs belongs to user 1000"),
        ("/var/theirs/new", "/var/theirs belongs to user 1000"),
        ("/tmp", "/tmp is for everybody to write"),
        ("/tmp/new", "/tmp/new is not there, and anybody may make it"),
        ("/tmp/link", "/tmp/link is a link that root does not follow"),
        ("/var/around", "/var/around is a link that root does not follow"),
        ("/srv/own", "/srv can be written by others"),
        ("/open/own", "/open can be written by others"),
        ("/open", "/open can be written by others"),
    ],
)
def test_anybody_elses(tree: set[str], monkeypatch: Patch, path: str, said: str) -> None:
    monkeypatch.setattr("oci_criu_shim.host.process.user_name", str)
    with pytest.raises(ShimError, match=said) as caught:
        ownership.user_of(path)
    assert caught.value.hint


@pytest.mark.parametrize(
    "text",
    [
        *("", "\n", "1000\n", "1000 100", "1000 100 \n", "1000  100\n", " 1000 100\n", "1000 100\n\n", "1000 100 5\n"),
        *("01000 100\n", "+1000 100\n", "-1 100\n", "1_000 100\n", "alice alice\n", "4294967295 100\n", "1000 -1\n"),
        *("1000 4294967296\n", "0x3e8 100\n", "1000\n100\n", "\u0661 100\n", "1000 100\r\n"),
    ],
)
def test_records_that_say_nothing(tree: set[str], monkeypatch: Patch, text: str) -> None:
    monkeypatch.setattr(files, "read_regular", lambda path, most, owner: text.encode())
    with pytest.raises(ShimError, match=r"12\.owner does not say whose /run/oci-criu-shim/12 is"):
        ownership.user_of("/run/oci-criu-shim/12")


def test_what_is_looked_at(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("/nowhere")
    found, target, mount = ownership._look(str(tmp_path), "")
    assert (found.st_ino, target) == (os.stat(tmp_path).st_ino, "")
    assert ownership._look(str(tmp_path / "link"), mount)[1:] == ("/nowhere", mount)
    assert ownership._look("/proc", mount)[2] != mount
    with pytest.raises(FileNotFoundError):
        ownership._look(str(tmp_path / "missing"), mount)


MOUNTED = """\
22 1 0:20 / / rw - ext4 /dev/root rw
{} 22 0:57 / {} rw,nosuid,nodev - fuse.x user_id=0, rw,user_id={},group_id=1000,allow_other
"""


@pytest.mark.parametrize(("uid", "said"), [(1000, "belongs to user"), (0, "")])
def test_what_a_user_has_mounted_is_his(tmp_path: Path, monkeypatch: Patch, uid: int, said: str) -> None:
    """Whoever it says that it belongs to."""
    mounts, here = tmp_path / "mounts", str(tmp_path)
    number = ownership._look(here, "")[2]
    mounts.write_text(MOUNTED.format(number, here, uid))
    monkeypatch.setattr(ownership, "MOUNTS", str(mounts))
    if said:
        with pytest.raises(ShimError, match=said):
            ownership._look(here, "22")
    else:
        ownership._look(here, "22")
    ownership._look(here, number)  # its parent was looked at before
    mounts.write_text("")
    with pytest.raises(ShimError, match="changes meanwhile"):
        ownership._look(here, "22")


def test_a_user_goes_where_he_may(monkeypatch: Patch) -> None:
    """Also one who is root in a user namespace; the node's root does not."""
    for uid, inside, asked in ((1000, False, False), (0, True, False), (0, False, True)):
        monkeypatch.setattr(os, "geteuid", lambda uid=uid: uid)
        monkeypatch.setattr("oci_criu_shim.host.process.in_a_user_namespace", lambda inside=inside: inside)
        monkeypatch.setattr(ownership, "user_of", lambda path: ownership.User(1000, 1000))
        if asked:
            with pytest.raises(ShimError, match="/x belongs to user"):
                ownership.require_own("/x")
        else:
            ownership.require_own("/x")
