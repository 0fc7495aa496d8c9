"""What is made of CRIU's images, as pycriu presents them."""

from __future__ import annotations

import base64
import os
from pathlib import Path
from typing import Any

import pytest

from oci_criu_shim.cli.ckpt import images

PAGE = os.sysconf("SC_PAGE_SIZE")


def inet(**fields: object) -> dict[str, Any]:
    return {"proto": 6, "state": 1, "src_addr": [0x0100007F], "src_port": 80, "dst_addr": [0], "dst_port": 0, **fields}


def unix(name: bytes) -> dict[str, Any]:
    return {"name": base64.encodebytes(name).decode()}


LOADED: dict[str, list[dict[str, Any]]] = {
    "pstree.img": [
        {"pid": 1, "ppid": 0, "pgid": 1, "sid": 1, "threads": [1, 2, 3]},
        {"pid": 7, "ppid": 1, "pgid": 1, "sid": 1, "threads": [7]},
    ],
    "core-1.img": [{"tc": {"comm": "python3"}}],
    "pagemap-1.img": [{"pages_id": 1}, {"compat_nr_pages": 0, "nr_pages": 3}, {"compat_nr_pages": 2}],
    "ids-1.img": [{"files_id": 2}],
    "fdinfo-2.img": [{"id": 11, "type": "PIPE", "fd": 1}, {"id": 10, "type": "REG", "fd": 0}]
    + [{"id": number, "type": "INETSK", "fd": number} for number in range(12, 15)]
    + [{"id": 15, "type": "UNIXSK", "fd": 15}, {"id": 16, "type": "EVENTFD", "fd": 16}],
    "files.img": [
        {"type": "REG", "id": 10, "reg": {"name": "/data"}},
        {"type": "PIPE", "id": 11, "pipe": {"pipe_id": 5}},
        {"type": "INETSK", "id": 12, "isk": inet(state=10)},
        {"type": "INETSK", "id": 13, "isk": inet(dst_addr=[0x0200000A], dst_port=4000)},
        {"type": "INETSK", "id": 14, "isk": inet(proto=17, src_addr=[0, 0, 0, 1 << 24])},
        {"type": "UNIXSK", "id": 15, "usk": unix(b"\0abstract")},
        {"type": "EVENTFD", "id": 16, "efd": {}},
    ],
    "mountpoints-13.img": [
        {"mountpoint": "/proc", "source": "proc", "root": "/", "mnt_id": 1},
        {"mountpoint": "/", "source": "overlay", "root": "/", "mnt_id": 2},
    ],
}


@pytest.fixture
def directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    for name in (*LOADED, "mountpoints.txt"):
        (tmp_path / name).touch()
    monkeypatch.setattr("oci_criu_shim.host.criu_images.load", lambda path: {"entries": LOADED[os.path.basename(path)]})
    return str(tmp_path)


def test_processes(directory: str) -> None:
    found = images.describe(directory)
    assert found["memory"] == 5 * PAGE
    assert found["processes"] == [
        {"pid": 1, "ppid": 0, "command": "python3", "threads": 3, "memory": 5 * PAGE},
        {"pid": 7, "ppid": 1, "command": "", "threads": 1, "memory": 0},  # a zombie has no core
    ]


def test_files(directory: str) -> None:
    assert images.describe(directory)["files"] == [
        {"pid": 1, "fd": 0, "kind": "REG", "name": "/data"},
        {"pid": 1, "fd": 1, "kind": "PIPE", "name": "pipe:[5]"},
        {"pid": 1, "fd": 16, "kind": "EVENTFD", "name": ""},
    ]


def test_sockets(directory: str) -> None:
    assert [row["name"] for row in images.describe(directory)["sockets"]] == [
        "tcp 127.0.0.1:80 listening",
        "tcp 127.0.0.1:80 to 10.0.0.2:4000",
        "udp [::1]:80",
        "@abstract",
    ]


def test_mounts(directory: str) -> None:
    assert images.describe(directory)["mounts"] == [
        {"mountpoint": "/", "source": "overlay", "root": "/"},
        {"mountpoint": "/proc", "source": "proc", "root": "/"},
    ]
