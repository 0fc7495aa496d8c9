"""Which checkpoints are increments, and whether the memory that they leave out is what it was."""

from __future__ import annotations

import mmap
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from oci_criu_shim import config
from oci_criu_shim.checkpoints.committed import Checkpoint
from oci_criu_shim.checkpoints.stage import Stage
from oci_criu_shim.checkpoints.store import Store
from oci_criu_shim.container.record import CHAIN, Container
from oci_criu_shim.dump import chain, moved_pages
from oci_criu_shim.dump.chain import Link
from oci_criu_shim.errors import ShimError
from oci_criu_shim.host import criu_images, linux, process
from oci_criu_shim.task import take
from oci_criu_shim.task.take import Taker
from tests.unit.test_schema import full_manifest

SUMS = {"1": {"31": 5}}
SEAL = "5ea1"
WHOLE: dict[str, Any] = {"track_mem": True, "incremental": False}
INCREMENT: dict[str, Any] = {"track_mem": True, "incremental": True, "seal": SEAL}
Dump = Callable[[Link], tuple[dict[str, Any], Checkpoint]]


@pytest.fixture(autouse=True)
def criu_and_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(criu_images, "prepare_pagemap", lambda: None)
    monkeypatch.setattr(moved_pages, "take", lambda *_: SUMS)
    monkeypatch.setattr(chain, "MERGING", "/nonexistent")


@pytest.fixture
def container(tmp_path: Path) -> Container:
    made = Container(str(tmp_path / "run"), "c")
    made.reserve()
    return made


@pytest.fixture
def store(tmp_path: Path) -> Store:
    made = Store(str(tmp_path), "7/0.0")
    made.prepare()
    return made


def write(stage: Stage) -> Checkpoint:
    Path(stage.images, "pages-1.img").write_bytes(b"memory")
    Path(stage.images, "inventory.img").touch()
    return stage.commit(full_manifest() | {"files": stage.sizes()})


@pytest.fixture
def dump(store: Store) -> Dump:
    def dumped(link: Link) -> tuple[dict[str, Any], Checkpoint]:
        with store.stage() as stage:
            options = link.begin(stage)
            link.check(1, stage.images, SEAL)
            committed = write(stage)
        link.done(committed)
        return options, committed

    return dumped


def test_the_second_is_an_increment_of_the_first(container: Container, dump: Dump) -> None:
    options, first = dump(Link(container, True))
    assert (options, first.parent) == (WHOLE, None)
    options, second = dump(Link(container, True))
    assert (options, second.parent) == (INCREMENT, 1)
    assert Path(second.images, "parent/pages-1.img").samefile(Path(first.images, "pages-1.img"))


def test_the_last_of_all_may_be_one(container: Container, dump: Dump) -> None:
    assert dump(Link(container, False))[0] == {}
    dump(Link(container, True))
    assert dump(Link(container, False))[0] == INCREMENT
    assert dump(Link(container, False))[0] == {}


def test_a_whole_one_after_a_failure(container: Container, store: Store, dump: Dump) -> None:
    dump(Link(container, True))
    with store.stage() as stage:
        assert Link(container, True).begin(stage) == INCREMENT
    assert dump(Link(container, True))[0] == WHOLE


def test_a_whole_one_where_the_last_could_not_be_noted(
    container: Container, dump: Dump, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    taken, link = dump(Link(container, False))[1], Link(container, True)
    link.samples = SUMS
    with monkeypatch.context() as patch:
        patch.setattr("oci_criu_shim.files.write_json", full)
        link.done(taken)
    assert dump(Link(container, True))[0] == WHOLE


@pytest.mark.parametrize("what", ["damaged", "merging", "samples", "unreadable"])
def test_a_whole_one_where_it_is_not_safe(
    container: Container, dump: Dump, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, what: str
) -> None:
    def unreadable(*_: object) -> None:
        raise OSError(5, "Input/output error")

    if what == "unreadable":
        monkeypatch.setattr(moved_pages, "take", unreadable)
    first = dump(Link(container, True))[1]
    if what == "damaged":
        Path(first.images, "pages-1.img").unlink()
    elif what == "merging":
        (tmp_path / "ksm").write_text("1\n")
        monkeypatch.setattr(chain, "MERGING", str(tmp_path / "ksm"))
    elif what == "samples":
        Path(container.path(CHAIN)).write_text("{")
    assert dump(Link(container, True))[0] == WHOLE


def test_an_increment_whose_memory_cannot_be_compared(
    container: Container, store: Store, dump: Dump, monkeypatch: pytest.MonkeyPatch
) -> None:
    dump(Link(container, True))
    monkeypatch.setattr(moved_pages, "take", lambda *_: os.stat("/nonexistent"))
    link = Link(container, True)
    with store.stage() as stage:
        link.begin(stage)
        with pytest.raises(ShimError, match="its memory can't be compared"):
            link.check(1, stage.images, SEAL)


def test_none_where_the_site_has_none(container: Container, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = tmp_path / "config.toml"
    settings.write_text("increments = false\n")
    monkeypatch.setattr(config.load, "__defaults__", (str(settings),))
    monkeypatch.setattr(linux, "tracks_writes", lambda: True)
    assert chain.tracked(container) == (False, True)


def test_the_kernel_is_asked_once(container: Container, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[bool] = []

    def tracks() -> bool:
        asked.append(True)
        return True

    monkeypatch.setattr("oci_criu_shim.host.linux.tracks_writes", tracks)
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    assert [chain.tracked(container), chain.tracked(container)] == [(True, True), (True, False)]
    assert asked == [True]


class Job:
    """As much of a policy as taking it needs."""

    closes = False

    def __init__(self, container: Container, store: Store) -> None:
        self.container, self.store, self.said = container, store, list[str]()
        self.task = self.log = self

    event = property(lambda self: self.said.append)

    def describe(self) -> str:
        return "job 7"


def test_a_failed_increment_is_followed_by_a_whole_one(
    container: Container, store: Store, dump: Dump, monkeypatch: pytest.MonkeyPatch
) -> None:
    dump(Link(container, True))
    container.save({"init": process.identity(os.getpid())})

    def moves(_: Store, __: str, ___: None, link: Link) -> str:
        with store.stage() as stage:
            if link.begin(stage)["incremental"]:
                raise ShimError("moved")
        return "taken"

    faked = SimpleNamespace(take=moves, changes=[], left_out=0)
    monkeypatch.setattr(take, "Dump", lambda *_: faked)
    monkeypatch.setattr(Taker, "connect", lambda _: None)
    monkeypatch.setattr(chain, "tracked", lambda _: (True, False))
    job: Any = Job(container, store)
    assert str(Taker(job)._take(1, "interval", None)) == "taken"
    assert job.said == ["the checkpoint of job 7 is a whole one: moved"]
    faked.take = lambda *_: os.stat("/nonexistent")
    with pytest.raises(FileNotFoundError):
        Taker(job)._take(1, "interval", None)


@pytest.fixture
def memory() -> Iterator[mmap.mmap]:
    with mmap.mmap(-1, 100 * moved_pages.PAGE) as made:
        made[:] = os.urandom(len(made))
        yield made


def test_memory_that_was_moved(monkeypatch: pytest.MonkeyPatch, memory: mmap.mmap, tmp_path: Path) -> None:
    import ctypes

    monkeypatch.undo()
    address = ctypes.addressof(ctypes.c_char.from_buffer(memory))
    runs: list[tuple[int, int, bool]] = [(address, 100, False)]
    own = process.status(os.getpid())["NSpid"][-1]
    (tmp_path / f"pagemap-{own}.img").touch()
    monkeypatch.setattr(criu_images, "pagemap", lambda _: runs)
    before = moved_pages.take(os.getpid(), str(tmp_path), None)
    assert len(before[own]) in (3, 4)
    runs[:] = [(address, 40, True), (address + 40 * moved_pages.PAGE, 60, True)]
    assert moved_pages.take(os.getpid(), str(tmp_path), before) == before
    with pytest.raises(ShimError, match="was moved"):
        moved_pages.take(os.getpid(), str(tmp_path), {})
    memory[:] = os.urandom(len(memory))
    with pytest.raises(ShimError, match="was moved"):
        moved_pages.take(os.getpid(), str(tmp_path), before)
    runs[:] = [(address, 100, False)]
    assert moved_pages.take(os.getpid(), str(tmp_path), before) != before
