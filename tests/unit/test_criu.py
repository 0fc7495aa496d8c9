"""CRIU through its RPC: how pycriu is imported (the modules that are needed, and not the package's __init__), and what
is left of a CRIU that was killed."""

from __future__ import annotations

import os
import socket
import sys
from pathlib import Path

import pytest

from oci_criu_shim.errors import Killed, ShimError
from oci_criu_shim.host import criu, criu_images, process
from tests.harness.cluster import wait_for


@pytest.fixture(autouse=True)
def nothing_imported(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("pycriu", "pycriu.rpc_pb2"):
        monkeypatch.setitem(sys.modules, name, None)  # so that it is put back as it was
        monkeypatch.delitem(sys.modules, name)


def test_a_module_without_its_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "pycriu"
    package.mkdir()
    (package / "__init__.py").write_text("raise ValueError('slow')")
    (package / "rpc_pb2.py").write_text("DUMP = 1")
    monkeypatch.syspath_prepend(tmp_path)
    assert criu.module("rpc_pb2").DUMP == 1


def test_what_to_install_where_it_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", [])
    monkeypatch.setattr(criu, "SYSTEM_PACKAGES", ["/nonexistent"])
    with pytest.raises(ShimError, match="cannot import pycriu") as raised:
        criu.module("rpc_pb2")
    assert raised.value.hint == "install python3-pycriu"


class Entry:
    """As protobuf reads an entry: its text has the address, the number of pages in both fields, the flags."""

    def __init__(self, data: bytes) -> None:
        self.vaddr, self.nr_pages, self.compat_nr_pages, self.flags = map(int, data.split())

    @staticmethod
    def FromString(data: bytes) -> Entry:
        return Entry(data)


def test_runs_of_pages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(criu_images, "prepare_pagemap", lambda: Entry)
    entries = [b"0 0 0 0", b"4096 3 0 4", b"65536 2 2 1", b"131072 0 9 5"]
    image = bytes(criu_images.IMAGE_HEAD) + b"".join(len(entry).to_bytes(4, "little") + entry for entry in entries)
    (tmp_path / "pagemap-1.img").write_bytes(image)
    found = list(criu_images.pagemap(str(tmp_path / "pagemap-1.img")))
    assert found == [(4096, 3, False), (65536, 2, True), (131072, 9, True)]


def test_killed_before_it_read_what_it_was_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(criu, "module", lambda _: None)
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    swrk = criu.Swrk(ours, os.getpid())
    ours.send(b"go on")
    theirs.close()
    with ours, pytest.raises(Killed):
        swrk._receive()


def test_killed_while_a_child_of_its_has_the_connection(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As children do that it traces; they go with it."""
    program, said = tmp_path / "criu", tmp_path / "said"
    program.write_text(f"#!/bin/sh\nsleep 60 &\necho $! >{said}.part; mv {said}.part {said}; kill -9 $$\n")
    program.chmod(0o755)
    monkeypatch.setattr(criu, "module", lambda _: None)
    monkeypatch.setattr(criu, "program", lambda: str(program))
    with open(os.devnull, "w") as log:
        swrk = criu.start({"PATH": os.environ["PATH"]}, log.fileno())
    with pytest.raises(Killed):
        swrk._receive()
    swrk.close()
    child = int(said.read_text())
    wait_for(lambda: process.start_time(child) is None, 10, "the child's end")
