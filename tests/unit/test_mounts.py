"""mountinfo in, the mounts that CRIU must be told of out."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from oci_criu_shim.errors import ShimError
from oci_criu_shim.host import mounts
from oci_criu_shim.host.external import External

NODE = r"""
22 1 0:20 / / rw,relatime - overlay overlay rw
23 22 0:5 / /dev rw,nosuid - devtmpfs udev rw,size=1k
24 22 0:30 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct
25 22 8:1 / /shared\040files rw - ext4 /dev/sda1 rw
""".strip()
CONTAINER = r"""
100 99 8:1 /bundle/rootfs / rw,relatime - ext4 /dev/sda1 rw
101 100 0:60 / /proc rw - proc proc rw
102 100 0:5 /null /dev/null rw,nosuid - devtmpfs udev rw
103 100 0:5 /null /proc/kcore ro,nosuid - devtmpfs udev rw
104 100 0:30 /job_7 /sys/fs/cgroup/cpu,cpuacct ro - cgroup cgroup rw,cpu,cpuacct
105 100 8:1 /data\040set /data\011tab rw master:3 - ext4 /dev/sda1 rw
106 100 0:61 / /tmp rw - tmpfs tmpfs rw
""".strip()


def found() -> dict[str, External]:
    return {entry["key"]: entry for entry in mounts.external(mounts.parse(CONTAINER), mounts.parse(NODE))}


def test_only_what_is_the_nodes() -> None:
    assert set(found()) == {"/dev/null", "/proc/kcore", "/sys/fs/cgroup/cpu,cpuacct", "/data\ttab"}


def test_kinds() -> None:
    kinds = {key: entry["kind"] for key, entry in found().items()}
    assert kinds["/dev/null"] == kinds["/proc/kcore"] == "device"
    assert kinds["/sys/fs/cgroup/cpu,cpuacct"] == "cgroup"
    assert kinds["/data\ttab"] == "bind"


def test_details() -> None:
    entries = found()
    assert entries["/dev/null"]["root"] == "/null"
    assert entries["/dev/null"]["options"] == ["rw", "nosuid"]
    assert entries["/proc/kcore"]["options"] == ["ro", "nosuid"]
    assert entries["/sys/fs/cgroup/cpu,cpuacct"]["controllers"] == "cpu,cpuacct"
    assert entries["/data\ttab"]["root"] == "/data set"


def test_flags() -> None:
    flags = mounts.flags(["ro", "nosuid", "relatime", "idmapped"])
    assert flags == 1 | 2 | 1 << 21
    assert mounts.names(flags) == ["ro", "nosuid", "relatime"]


def test_locked_flags_are_those_of_the_mount_that_holds_a_path(tmp_path: Path) -> None:
    upper = f"2 1 8:1 / {tmp_path} rw,nosuid,noatime - ext4 /dev/sda1 rw"
    node = mounts.parse(f"1 0 8:1 / / ro,relatime - ext4 /dev/sda1 rw\n{upper}")
    assert mounts.names(mounts.locked(str(tmp_path / "x"), node)) == ["nosuid", "noatime"]
    assert mounts.names(mounts.locked(f"{tmp_path}-beside", node)) == ["ro"]


def test_sharing() -> None:
    assert [mount.shared for mount in mounts.parse(CONTAINER)] == [None] * 7
    line = "105 100 8:1 / /data rw shared:12 master:3 - ext4 /dev/sda1 rw"
    assert mounts.parse(line)[0].shared == "12"


def test_mounts_below_a_bind() -> None:
    node = mounts.parse(NODE)
    assert not list(mounts.faults_below("/data", "/shared files", node))
    assert not list(mounts.faults_below("/data", "/devices", node))
    (fault,) = mounts.faults_below("/system", "/sys", node)
    assert re.search(r"at /system has others below it.*: /sys/fs/cgroup/cpu,cpuacct", str(fault))


def test_what_the_node_has_by_itself() -> None:
    node = mounts.parse("30 22 0:40 / /sys rw - sysfs sysfs rw\n31 22 0:41 /x /y rw - mqueue mqueue rw")
    assert mounts.node_source("sysfs", "/", node) == "/sys"
    assert mounts.node_source("sysfs", "/class", node) == "/sys/class"
    assert mounts.node_source("mqueue", "/", node) is None


@pytest.mark.parametrize("character", ["\r", "\x0b", "\x1c", "\x85", "\xa0", "\u2028"])
def test_names_that_look_like_lines(tmp_path: Path, character: str) -> None:
    """A user names a mount in a way that would be another one."""
    point = f"/mnt/x{character}36 35 8:1 / /forged rw - ext4 /dev/sda1 rw".replace(" ", "\\040")
    (tmp_path / "mountinfo").write_bytes(f"1 0 0:1 / / rw - tmpfs  rw\n2 1 0:2 / {point} rw - tmpfs t rw\n".encode())
    found = mounts.read(f"..{tmp_path}")
    assert [mount.point for mount in found] == ["/", mounts.unescape(point)]
    assert [mount.super_options for mount in found] == [["rw"], ["rw"]]


def test_names_that_are_not_utf_8(tmp_path: Path) -> None:
    (tmp_path / "mountinfo").write_bytes(b"1 0 8:1 /x /mnt/\xff rw - ext4 /dev/sda1 rw\n")
    with pytest.raises(ShimError, match=r"the mount at b'/mnt/\\xff', whose name is not UTF-8"):
        mounts.external(mounts.read(f"..{tmp_path}"), mounts.parse(NODE))


def test_too_many(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mounts, "LONGEST", 40)
    (tmp_path / "mountinfo").write_bytes(b"1 0 8:1 /x /mnt rw - ext4 /dev/sda1 rw\n" * 2)
    with pytest.raises(ShimError, match="too many"):
        mounts.read(f"..{tmp_path}")


def test_own_mounts_are_read() -> None:
    assert any(mount.point == "/" for mount in mounts.read())


CONFIGURED: list[dict[str, Any]] = [
    {"destination": "/proc", "type": "proc", "source": "proc"},
    {"destination": "/data", "source": "/shared/data", "options": ["rbind", "ro"]},
    {"destination": "/data/inner", "source": "/scratch", "type": "bind"},
    {"destination": "/relative/", "source": "files", "options": ["bind"]},
    {"destination": "/tmp", "type": "tmpfs"},
]


@pytest.mark.parametrize(
    ("key", "source"),
    [
        ("/data", "/shared/data"),
        ("/data/below/it", "/shared/data/below/it"),
        ("/data/inner", "/scratch"),
        ("/data/inner/x", "/scratch/x"),
        ("/database", None),
        ("/relative", "/b/files"),
        ("/tmp", None),
        ("/", None),
    ],
)
def test_bind_source(key: str, source: str | None) -> None:
    assert mounts.bind_source(key, CONFIGURED, "/b", "/b/rootfs") == source


def test_the_last_of_two_at_one_place_holds() -> None:
    two: list[dict[str, Any]] = [{"destination": "/d", "source": s, "options": ["bind"]} for s in ("/first", "/second")]
    assert mounts.bind_source("/d", two, "/b", "/b/rootfs") == "/second"


def test_links_are_followed_inside_the_rootfs(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "var").mkdir()
    (tmp_path / "var/run").symlink_to("/run")
    (tmp_path / "out").symlink_to("../../../etc")
    assert mounts.resolve(str(tmp_path), "/var/run/x") == "/run/x"
    assert mounts.resolve(str(tmp_path), "/out/passwd") == "/etc/passwd"
    bind = [{"destination": "/var/run/slurm", "source": "/spool", "options": ["rbind"]}]
    assert mounts.bind_source("/run/slurm", bind, "/b", str(tmp_path)) == "/spool"


def test_a_circle_of_links(tmp_path: Path) -> None:
    (tmp_path / "a").symlink_to("a")
    with pytest.raises(OSError, match="Too many levels"):
        mounts.resolve(str(tmp_path), "/a")


MOUNTED = ["/", "/home", "/home/alice", "/home/alice", "/ho"]


@pytest.mark.parametrize(
    ("path", "index"), [("/", 0), ("/x", 0), ("/home", 1), ("/homes", 0), ("/home/alice/x/y", 3), ("/ho/x", 4)]
)
def test_deepest(path: str, index: int) -> None:
    mounted = mounts.parse("\n".join(f"1 0 0:1 / {point} rw - ext4 none rw" for point in MOUNTED))
    assert mounts.deepest(path, mounted) is mounted[index]


@pytest.mark.parametrize("kind", ["nfs", "nfs4", "wekafs", "smb3", "fuse.glusterfs", "fuse.ceph-fuse"])
def test_shared(kind: str) -> None:
    assert mounts.is_shared(kind)


@pytest.mark.parametrize("kind", ["ext4", "overlay", "tmpfs", "fuse", "fuse.squashfuse"])
def test_not_known_to_be_shared(kind: str) -> None:
    assert not mounts.is_shared(kind)


@pytest.mark.parametrize("is_directory", [True, False])
def test_a_mount_point_that_is_missing(tmp_path: Path, is_directory: bool) -> None:
    for _ in range(2):
        mounts.make_point(str(tmp_path), "/on/the/way", is_directory)
        assert (tmp_path / "on/the/way").is_dir() == is_directory
        assert (tmp_path / "on/the/way").exists()


def test_no_mount_point_behind_a_link(tmp_path: Path) -> None:
    (tmp_path / "base").mkdir()
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "base/link").symlink_to("../elsewhere")
    (tmp_path / "base/dangling").symlink_to("../elsewhere/new")
    for name in ("/link/point", "/dangling", "/../elsewhere/point"):
        with pytest.raises(OSError, match=r"directory|exists|Invalid"):
            mounts.make_point(str(tmp_path / "base"), name, False)
    assert not list((tmp_path / "elsewhere").iterdir())


def test_a_root_that_was_removed() -> None:
    (mount,) = mounts.parse("105 100 8:1 /data/file//deleted /file rw - ext4 /dev/sda1 rw\n")
    assert mount.root == "/data/file"


def test_what_lies_in_another_mount_is_not_told() -> None:
    lines = "\n".join(
        (
            r"107 100 8:1 /data\040set/real /work rw - ext4 /dev/sda1 rw",
            "108 100 8:1 /bundle/rootfs/srv /srv rw - ext4 /dev/sda1 rw",
            "109 100 8:1 /bundle/rootfs-of-another /opt rw - ext4 /dev/sda1 rw",
        )
    )
    container, node = mounts.parse(f"{CONTAINER}\n{lines}"), mounts.parse(NODE)
    told = {entry["key"] for entry in mounts.external(container, node, ("/work", "/srv", "/opt"))}
    assert told == {*found(), "/opt"}


@pytest.mark.parametrize(
    ("lines", "found"),
    [
        (["2 1 0:2 / /a", "3 1 0:3 / /b"], set()),
        (["2 1 0:2 / /a", "3 2 0:3 / /a/b"], set()),
        (["2 1 0:2 / /a", "3 2 0:3 / /a"], {"2"}),
        (["2 1 0:2 / /a/b", "3 1 0:3 / /a"], {"2"}),
        (["2 1 0:2 / /ab", "3 1 0:3 / /a"], set()),
    ],
)
def test_hidden(lines: list[str], found: set[str]) -> None:
    text = "".join(f"{line} rw - tmpfs tmpfs rw\n" for line in ["1 0 0:1 / /", *lines])
    assert mounts.hidden(mounts.parse(text)) == found
