"""One dump, as CRIU tells of it."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from oci_criu_shim.errors import ShimError
from oci_criu_shim.host import cgroups, criu, linux, mounts
from oci_criu_shim.privileged import dump
from oci_criu_shim.privileged.guard import Guard

if TYPE_CHECKING:
    from oci_criu_shim.host.wire import DumpReport

SECOND = 10**9
WATCH = dump.FreezeWatch


class Criu:
    """Freezes in a second, writes for two, and lets go of the container two after it was told to."""

    version = (4, 2)
    log = -1
    guard = None

    def __init__(self, images: Path, pre_dump: bool) -> None:
        self.swrk = self
        self.images = images
        self.pre_dump = pre_dump
        self.now = 1000 * SECOND

    def request(self, _: str, __: object, notified: Callable[[str, int], bool], ___: object) -> Any:
        self.now += SECOND
        if not self.pre_dump:
            (self.images / criu.FILES).touch()
            self.watch.thread.join()
            self.now += 2 * SECOND
            assert notified("post-dump", 0)
        self.now += 2 * SECOND
        return SimpleNamespace(success=True)

    def made(self, target: Any, _: int) -> dump.FreezeWatch:
        descriptor = os.open(self.images, os.O_RDONLY)
        self.watch = WATCH(target, descriptor)
        return self.watch


@pytest.mark.parametrize(("pre_dump", "frozen"), [(False, 7), (True, 0)])
def test_the_commit_is_part_of_the_pause(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pre_dump: bool, frozen: int
) -> None:
    criu = Criu(tmp_path, pre_dump)
    reports: list[DumpReport] = []

    def commit(report: DumpReport) -> bool:
        reports.append(report)
        criu.now += 3 * SECOND
        return True

    monkeypatch.setattr(time, "monotonic_ns", lambda: criu.now)
    assert take(criu, -1, commit, monkeypatch) == frozen * SECOND
    assert [report["frozen_ns"] for report in reports] == ([] if pre_dump else [2 * SECOND])


def take(
    criu: Criu,
    images: int,
    commit: Callable[[DumpReport], bool],
    monkeypatch: pytest.MonkeyPatch,
    require_alive: Callable[[], object] = lambda: None,
) -> int:
    """Have that CRIU dump a container that watches nothing."""
    service: Any = criu
    target: Any = SimpleNamespace(pid=os.getpid(), shares=lambda _: True, require_alive=require_alive)
    monkeypatch.setattr(mounts, "external", lambda *_: [])
    monkeypatch.setattr(mounts, "read", lambda *_: [])
    monkeypatch.setattr(dump, "FreezeWatch", criu.made)
    monkeypatch.setattr(dump, "options", lambda *_: {})
    asker: Any = SimpleNamespace(commit=commit)
    return dump.dump(service, target, [images], {}, asker)


def test_a_container_that_ended_meanwhile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its number is not given to CRIU: it may be another process's."""

    def require_alive() -> None:
        raise ShimError("the container has ended")

    criu = Criu(tmp_path, pre_dump=True)
    monkeypatch.setattr(Criu, "request", lambda *_: pytest.fail("CRIU was asked"))
    with pytest.raises(ShimError, match="has ended"):
        take(criu, -1, lambda _: True, monkeypatch, require_alive)


def test_criu_never_looks_for_paths_in_the_parent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It would if it were given no image; nobody seals one there."""
    told: list[bytes] = []
    service: Any = Criu(tmp_path, pre_dump=True)
    service.guard = SimpleNamespace(tell=told.append, admit=lambda *_: None)
    images = os.open(tmp_path, os.O_RDONLY)
    try:
        take(service, images, lambda _: True, monkeypatch)
    finally:
        os.close(images)
    assert told == [bytes.fromhex("4059105559400057")]  # two magic numbers, and no entry


def test_the_worker_is_dumpable_for_no_longer_than_it_must_be(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """CRIU's first event says that it has opened the directories."""
    done: list[str] = []
    service: Any = Criu(tmp_path, pre_dump=False)
    service.guard = SimpleNamespace(tell=lambda _: None, admit=lambda *_: done.append("admitted"))
    monkeypatch.setattr(linux, "make_undumpable", lambda: done.append("undumpable"))

    def commit(_: object) -> bool:
        done.append("commit")
        return True

    images = os.open(tmp_path, os.O_RDONLY)
    try:
        take(service, images, commit, monkeypatch)
    finally:
        os.close(images)
    assert done == ["admitted", "undumpable", "commit"]


@pytest.mark.parametrize(
    ("user", "shared", "kept"), [(1000, False, True), (1000, True, False), (0, False, False), (0, True, False)]
)
def test_whose_connections_are_kept(monkeypatch: pytest.MonkeyPatch, user: int, shared: bool, kept: bool) -> None:
    """Without asking, those in a network of the user's own."""
    monkeypatch.setattr(os, "geteuid", lambda: user)
    monkeypatch.setattr(cgroups, "frozen", lambda _: None)
    target: Any = SimpleNamespace(pid=7, shares=lambda _: shared, namespace=lambda _: 1)
    asked = dump.options(target, [3], {"leave_running": False}, [])
    assert (asked["tcp_established"], asked["tcp_skip_in_flight"]) == (kept, True)


def test_criu_must_say_that_it_is_guarded() -> None:
    guarded = Guard()
    with pytest.raises(ShimError, match=r"CRIU runs without .*/criu_preload\.so"):
        guarded.require_loaded()
    guarded.mark[0] = 1
    guarded.require_loaded()
    os.close(guarded.descriptor)


def test_a_log_that_is_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / dump.LOG)
    log, work = os.memfd_create("log"), os.open(tmp_path, os.O_RDONLY)
    try:
        with pytest.raises(OSError, match="No such device or address"):
            dump._keep_log(log, work)
    finally:
        os.close(log)
        os.close(work)


# Mounts $1 on a log in the directory $2, and has the log written there.
MOUNT = 'touch "$2/dump.log"; mount --bind "$1" "$2/dump.log"; exec "$3" -c "$4" "$2"'
KEEP = """
import os, sys
from oci_criu_shim.privileged import dump
log = os.memfd_create("log")
os.write(log, b"said")
try:
    dump._keep_log(log, os.open(sys.argv[1], os.O_RDONLY))
except OSError as error:
    print(error.strerror)
"""


@pytest.mark.parametrize("mounted", [False, True])
def test_a_log_is_written_to_no_mount(tmp_path: Path, mounted: bool) -> None:
    """Users can have mounts in a directory that they pass, of anything that they see."""
    precious, work = tmp_path / "precious", tmp_path / "work"
    precious.write_text("precious")
    work.mkdir()
    argv = [sys.executable, "-c", KEEP, str(work)]
    if mounted:
        argv = ["unshare", "--map-root-user", "--mount", "sh", "-ec", MOUNT, "sh", str(precious), str(work)]
        argv += [sys.executable, KEEP]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(argv, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    assert done.stdout == ("Invalid cross-device link\n" if mounted else "")
    assert precious.read_text() == "precious"
    assert (work / "dump.log").read_text() == ("" if mounted else "said")


@pytest.mark.parametrize(
    ("names", "has_parent", "good"),
    [
        ((), False, True),
        (("parent",), True, True),
        (("parent",), False, False),
        (("link", "parent"), True, False),
    ],
)
def test_nothing_leads_criu_elsewhere(tmp_path: Path, names: tuple[str, ...], has_parent: bool, good: bool) -> None:
    for name in ("descriptors.json", *names):
        (tmp_path / name).mkdir()
    if "link" in names:
        (tmp_path / "pages-1.img").symlink_to("/nonexistent")
    images = os.open(tmp_path, os.O_RDONLY)
    try:
        with nullcontext() if good else pytest.raises(ShimError, match="elsewhere"):
            dump._require_no_lead(images, has_parent)
    finally:
        os.close(images)


def test_who_has_passed_the_directory_can_hide_nothing_in_it(tmp_path: Path) -> None:
    """They have the same open file, and can set the place in it that is read next."""
    (tmp_path / "pages-1.img").symlink_to("/nonexistent")
    images = os.open(tmp_path, os.O_RDONLY)
    with os.scandir(images) as entries:
        next(entries)
        with pytest.raises(ShimError, match="elsewhere"):
            dump._require_no_lead(images, False)
    os.close(images)


def test_a_list_of_watched_paths_that_is_gone_already(tmp_path: Path) -> None:
    work = os.open(tmp_path, os.O_RDONLY)
    try:
        with dump._cache(work, b"image"):
            assert (tmp_path / "irmap-cache").read_bytes() == b"image"
            (tmp_path / "irmap-cache").unlink()
    finally:
        os.close(work)
