"""A checkpoint that goes from one node's memory to another's: it arrives whole, or both ends say why not."""

from __future__ import annotations

import json
import os
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from oci_criu_shim.checkpoints import committed
from oci_criu_shim.checkpoints.store import Store
from oci_criu_shim.errors import ShimError
from oci_criu_shim.transfer import holding, received, stream
from oci_criu_shim.transfer.receiver import Receiver
from oci_criu_shim.transfer.sender import Peer, Sender
from tests.unit.test_schema import full_manifest

TASK = "12/batch.0"
PAGES = os.urandom(1 << 20) + bytes(3 << 20) + b"text " * (1 << 18)


pytestmark = pytest.mark.usefixtures("memory")


class Receiving:
    """A receiver at work in a thread."""

    def __init__(self, accept: Callable[[Any], None] = lambda _: None) -> None:
        self.receiver = Receiver(accept)
        self.path = ""
        self.failure: ShimError | None = None
        self.thread = threading.Thread(target=self._run, daemon=True)
        self.thread.start()

    def place(self) -> Any:
        receiver = self.receiver
        return {"node": "n2", "addresses": ["127.0.0.1"], "port": receiver.port, "token": receiver.token}

    def outcome(self) -> str:
        self.thread.join(30)
        assert not self.thread.is_alive()
        if self.failure:
            raise self.failure
        return self.path

    def _run(self) -> None:
        try:
            self.path, _ = self.receiver.receive()
        except ShimError as error:
            self.failure = error


def hello(**changes: object) -> Any:
    said = {
        "token": "",
        "task": TASK,
        "directory": "/c",
        "seq": 3,
        "bytes": 1000,
        "node": "n1",
        "criu": "4.1",
        "needs": {},
    }
    return {**said, **changes}


@pytest.fixture
def receiving() -> Iterator[Receiving]:
    found = Receiving()
    yield found
    found.receiver.listener.close()


def send(to: Sender, draft: Any) -> committed.Checkpoint:
    """Do what a dump does: pages in frames, some small files, the commit."""
    with Peer(to).stage() as stage:
        stage.describe({"ociVersion": "1.0.2"}, {"id": "x"}, ["a", "b", "c"])
        Path(stage.images, "core-1.img").write_bytes(b"core")
        file = to.open("pages-1.img")
        for begin in range(0, len(PAGES), stream.LARGEST_FRAME // 4):
            file.add(to.pack(memoryview(PAGES)[begin : begin + stream.LARGEST_FRAME // 4]))
        file.end()
        return stage.commit(draft | {"files": stage.sizes(), "bytes": 5})


@pytest.fixture
def draft() -> Any:
    return {key: value for key, value in full_manifest().items() if key not in ("sha256", "checksum")}


def test_it_arrives_whole(receiving: Receiving, draft: Any, memory: Path, tmp_path: Path) -> None:
    sent = send(Sender(receiving.place(), hello()), draft)
    path = receiving.outcome()
    assert sent.path == path
    assert Path(path).name == "3"
    assert Path(path).parent.name.startswith("oci-criu-shim.12.batch.0.")
    found = committed.read(path)
    assert Path(found.images, "pages-1.img").read_bytes() == PAGES
    assert Path(found.images, "core-1.img").read_bytes() == b"core"
    assert json.loads(Path(path, committed.SPEC).read_text()) == {"ociVersion": "1.0.2"}
    assert [name for name in os.listdir(memory) if name.startswith(".stage.")] == []

    taken = received.take_over(TASK)
    assert taken is not None
    assert not received.is_waiting(path)
    (tmp_path / "ckpt").mkdir()
    store = Store(str(tmp_path / "ckpt"), TASK)
    store.prepare()
    kept = holding.keep(taken, store)
    assert kept.path == str(tmp_path / "ckpt" / TASK / "3")
    assert Path(kept.images, "pages-1.img").read_bytes() == PAGES
    assert received.take_over(TASK) is None


def test_less_than_all_bytes_cross_the_network(receiving: Receiving, draft: Any) -> None:
    send(Sender(receiving.place(), hello()), draft)
    receiving.outcome()
    assert receiving.receiver.bytes < len(PAGES) / 2


@pytest.mark.parametrize("name", ["../x", "checkpoint/../x", "/etc/x", "other"])
def test_a_name_without_a_place(receiving: Receiving, name: str, memory: Path) -> None:
    to = Sender(receiving.place(), hello())
    to.connection.send(stream.message(stream.NAME, name.encode()))
    with pytest.raises(ShimError, match="has no place"):
        to._answer()
    with pytest.raises(ShimError, match="has no place"):
        receiving.outcome()
    assert os.listdir(memory) == []


def test_a_stranger_gets_nothing(receiving: Receiving, memory: Path) -> None:
    place = receiving.place() | {"token": "wrong"}
    with pytest.raises(ShimError, match="hung up"):
        Sender(place, hello())
    assert os.listdir(memory) == []
    assert receiving.thread.is_alive()


def test_what_does_not_fit_is_refused_first(draft: Any) -> None:
    def accept(said: Any) -> None:
        raise ShimError(f"no processor for {said['node']}", "another node")

    receiving = Receiving(accept)
    with pytest.raises(ShimError, match="n2: no processor for n1") as raised:
        Sender(receiving.place(), hello())
    assert raised.value.hint == "another node"
    with pytest.raises(ShimError, match="no processor for n1"):
        receiving.outcome()


def test_no_room(receiving: Receiving, memory: Path) -> None:
    with pytest.raises(ShimError, match="has room for"):
        Sender(receiving.place(), hello(bytes=1 << 60))
    assert os.listdir(memory) == []


def test_the_sender_ends(receiving: Receiving, memory: Path) -> None:
    to = Sender(receiving.place(), hello())
    to.open("pages-1.img").add(to.pack(memoryview(PAGES)[:4096]))
    to.close()
    with pytest.raises(ShimError, match="hung up"):
        receiving.outcome()
    assert os.listdir(memory) == []


def test_the_sender_gives_up(receiving: Receiving, memory: Path) -> None:
    to = Sender(receiving.place(), hello())
    to.give_up("job 12 can't be dumped: reasons")
    with pytest.raises(ShimError, match="job 12 can't be dumped: reasons"):
        receiving.outcome()
    assert os.listdir(memory) == []


def test_damaged_on_its_way(receiving: Receiving, memory: Path) -> None:
    to = Sender(receiving.place(), hello())
    to.open("pages-1.img")
    data = bytearray(stream.message(stream.RAW, b"x" * 4096))
    data[-1] ^= 1
    to.connection.send(bytes(data))
    with pytest.raises(ShimError, match="damaged on its way"):
        receiving.outcome()
    assert os.listdir(memory) == []


def test_a_manifest_of_other_files(receiving: Receiving, draft: Any, memory: Path) -> None:
    to = Sender(receiving.place(), hello())
    to.open("pages-1.img").add(to.pack(memoryview(PAGES)[:4096]))
    to.sizes["checkpoint/pages-1.img"] += 1
    with pytest.raises(ShimError, match="bytes, not"), Peer(to).stage() as stage:
        stage.commit(draft | {"files": stage.sizes(), "bytes": 5})
    assert os.listdir(memory) == []


def test_nobody_listens() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    with pytest.raises(ShimError, match=r"n2 can't be reached: 127\.0\.0\.1, port"):
        Sender({"node": "n2", "addresses": ["127.0.0.1"], "port": port, "token": "x", "precopy": False}, hello())


def test_others_directories_do_not_count(memory: Path) -> None:
    (memory / "oci-criu-shim.12.batch.0.link").symlink_to("/etc")
    (memory / "oci-criu-shim.12.batch.0.half" / "3").mkdir(parents=True)
    (memory / "oci-criu-shim.12.batch.01.x").mkdir()
    assert received.take_over(TASK) is None
    assert (memory / "oci-criu-shim.12.batch.01.x").exists()


@pytest.mark.parametrize("task", ["12", "../12/batch.0", "12/batch.0/..", "12/x.0"])
def test_no_task(task: str) -> None:
    with pytest.raises(ShimError, match="is no task"):
        received.make("/c", task, 1)
