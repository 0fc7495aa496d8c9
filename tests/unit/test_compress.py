"""The child that compresses the checkpoint of a container that runs on, and its end."""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from oci_criu_shim.checkpoints import integrity
from oci_criu_shim.checkpoints.committed import Checkpoint, read
from oci_criu_shim.checkpoints.compression import Compression
from oci_criu_shim.checkpoints.store import Store
from oci_criu_shim.container.record import Container
from oci_criu_shim.host import process
from oci_criu_shim.log import Log
from oci_criu_shim.task import compress
from oci_criu_shim.task.compress import Compressor
from tests.unit.test_schema import full_manifest

PAGES = bytes(50000)


@pytest.fixture(autouse=True)
def small_is_large(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(integrity, "LARGE", 1000)


@pytest.fixture
def compression() -> Compression:
    made = compress.compression("zstd:3", 7, Log())
    assert made
    return made


@pytest.fixture
def store(tmp_path: Path, compression: Compression) -> Store:
    made = Store(str(tmp_path), "7/0.0", compression=lambda: compression)
    made.prepare()
    return made


@pytest.fixture
def container(tmp_path: Path) -> Container:
    made = Container(str(tmp_path / "run"), "c")
    made.reserve()
    return made


def commit(store: Store) -> Checkpoint:
    with store.stage() as stage:
        Path(stage.images, "pages-1.img").write_bytes(PAGES)
        return stage.commit(full_manifest() | {"files": stage.sizes(), "reason": "interval"})


def wait_for(condition: Callable[[], bool]) -> None:
    limit = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < limit
        time.sleep(0.01)


def is_compressed(checkpoint: Checkpoint) -> bool:
    return "compressed" in read(checkpoint.path).manifest


def test_off() -> None:
    assert compress.compression("off", 7, Log()) is None


def test_it_is_compressed(store: Store, container: Container) -> None:
    made = commit(store)
    work = Compressor(container, store, Log(), "zstd")
    work.start()
    assert work.child
    process.wait(work.child[0])
    assert is_compressed(made)
    assert os.listdir(store.path) == ["1"]
    assert os.listdir(container.directory) == []
    work.stop()  # of what has ended
    work.stop()
    work.start()  # there is nothing to do any more
    work.stop()


@pytest.mark.parametrize("reaped", [False, True])
def test_it_is_ended_at_any_moment(
    store: Store, container: Container, monkeypatch: pytest.MonkeyPatch, reaped: bool
) -> None:
    def slow(_: Compression, checkpoint: Checkpoint, stage: str) -> bool:
        os.makedirs(f"{stage}/checkpoint")
        Path(stage, "checkpoint/pages-1.img.zst").touch()
        Path(checkpoint.images, "pages-1.img.zst").touch()
        time.sleep(60)
        return True

    monkeypatch.setattr(Compression, "apply", slow)
    made = commit(store)
    work = Compressor(container, store, Log(), "zstd")
    work.start()
    wait_for(lambda: Path(made.images, "pages-1.img.zst").exists())
    assert len(os.listdir(container.directory)) == 1  # where the job's epilog looks
    if reaped:  # by whom it was not expected, as a supervisor's waitpid(-1) does
        assert work.child
        os.kill(work.child[0], 9)
        os.waitpid(work.child[0], 0)
    work.stop()
    assert os.listdir(store.path) == ["1"]
    assert os.listdir(container.directory) == []
    assert os.listdir(made.images) == ["pages-1.img"]
    assert not is_compressed(made)


def test_nothing_to_do_without_a_codec(tmp_path: Path, container: Container) -> None:
    work = Compressor(container, Store(str(tmp_path), "7/0.0"), Log(), "auto")
    work.start()
    assert work.child is None
    work.stop()


def test_without_another_process_it_stays_as_it_is(
    store: Store, container: Container, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def none() -> int:
        raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))

    made = commit(store)
    work = Compressor(container, store, Log(), "zstd")
    monkeypatch.setattr(os, "fork", none)
    work.start()
    work.stop()
    assert not is_compressed(made)
    assert "stays as large as it is" in capfd.readouterr().err


def test_what_is_left_of_it_disturbs_nobody(
    store: Store, container: Container, capfd: pytest.CaptureFixture[str]
) -> None:
    commit(store)
    work = Compressor(container, store, Log(), "zstd")
    work.start()
    assert work.child
    process.wait(work.child[0])
    os.rename(store.path, f"{store.path}.away")
    work.stop()
    assert "stays for now" in capfd.readouterr().err
