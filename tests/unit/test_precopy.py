"""Memory that is sent while a program runs: rounds send what has changed, and the last one leaves out what is there."""

from __future__ import annotations

import io
import mmap
import os
import random
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from oci_criu_shim.checkpoints import committed
from oci_criu_shim.checkpoints.committed import Checkpoint
from oci_criu_shim.dump import known, memory, precopy
from oci_criu_shim.dump.known import Known, Table
from oci_criu_shim.dump.page_server import PAGEMAPS, PROCESS, PageServer
from oci_criu_shim.dump.precopy import Precopy
from oci_criu_shim.errors import ShimError
from oci_criu_shim.host import cgroups, criu_images, process
from oci_criu_shim.transfer.sender import Peer, Sender
from tests.unit.test_page_server import Criu, entries
from tests.unit.test_schema import full_manifest
from tests.unit.test_transfer import Receiving, hello

pytestmark = pytest.mark.usefixtures("memory_dir")
PAGE = mmap.PAGESIZE
MIB = 1 << 20
# Has 8 MiB of memory, writes to as many of its pages as each line says, and says where it is.
PROGRAM = """
import ctypes, mmap, os, sys
memory = mmap.mmap(-1, 8 << 20, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
memory.write(os.urandom(8 << 20))
print(ctypes.addressof(ctypes.c_char.from_buffer(memory)), flush=True)
for line in sys.stdin:
    for page in range(int(line)):
        memory[page * mmap.PAGESIZE] = (memory[page * mmap.PAGESIZE] + 1) % 256
    print(flush=True)
"""


@pytest.fixture
def memory_dir(memory: Path) -> Path:
    return memory


class Program:
    """One that runs."""

    def __init__(self) -> None:
        pipe = subprocess.PIPE
        self.process = subprocess.Popen([sys.executable, "-c", PROGRAM], stdin=pipe, stdout=pipe, text=True)
        self.pid = self.process.pid
        self.address = int(self._line())

    def _line(self) -> str:
        assert self.process.stdout
        return self.process.stdout.readline()

    def write(self, pages: int) -> None:
        assert self.process.stdin
        self.process.stdin.write(f"{pages}\n")
        self.process.stdin.flush()
        self._line()

    def content(self) -> bytes:
        return memory.read(self.pid, self.address, 8 * MIB)


@pytest.fixture
def program() -> Iterator[Program]:
    found = Program()
    yield found
    found.process.communicate()


@pytest.fixture
def receiving() -> Iterator[Receiving]:
    found = Receiving()
    yield found
    found.receiver.listener.close()


@pytest.fixture
def sender(receiving: Receiving) -> Sender:
    return Sender(receiving.place(), hello(bytes=16 * MIB))


def restored(checkpoint: Checkpoint, pid: int, address: int, size: int) -> bytes:
    """What a process has there after a restore: from its own images or, if they say so, from the parent's."""

    def pages(images: Path) -> dict[int, bytes]:
        name = images / f"pagemap-{pid}.img"
        parent: dict[int, bytes] = {}
        head, *runs = entries(name)
        data = memoryview((images / f"pages-{head[1]}.img").read_bytes())
        found: dict[int, bytes] = {}
        for run in runs:
            wanted = range(run[1], run[1] + run[2] * PAGE, PAGE)
            if run[4] & criu_images.PE_PARENT:
                parent = parent or pages(images / committed.PARENT)
                found |= {place: parent[place] for place in wanted}
            else:
                found |= {place: bytes(data[n * PAGE : (n + 1) * PAGE]) for n, place in enumerate(wanted)}
                data = data[len(wanted) * PAGE :]
        assert not data
        return found

    found = pages(Path(checkpoint.images))
    return b"".join(found[place] for place in range(address, address + size, PAGE))


def hand_out(init: int, to: socket.socket) -> None:
    handing = Precopy(init, None, lambda _: None, os.eventfd(0))  # type: ignore[arg-type]  # it sends nothing
    handing._look = lambda: None  # type: ignore[method-assign]
    handing._hand_out(to)


def dump(sender: Sender, init: int, before: Known | None) -> None:
    """Send what there is as CRIU does, and commit it."""
    draft: Any = {name: value for name, value in full_manifest().items() if name not in ("sha256", "checksum")}
    with Peer(sender).stage() as stage:
        stage.describe({"ociVersion": "1.0.2"}, {"id": "x"}, ["", "", ""])
        ours, theirs = socket.socketpair()
        server = PageServer(stage.images, sender, theirs, (4, 2), before)
        with suppress(BrokenPipeError):
            hand_out(init, ours)
        server.finish()
        server.stop()
        stage.commit(draft | {"files": stage.sizes(), "bytes": 5})


def run(
    program: Program, sender: Sender, monkeypatch: pytest.MonkeyPatch, written: list[int], arrives: bool = True
) -> Precopy:
    """Send the program's memory in rounds, after each of which it writes so many pages."""
    found = start(program, sender)
    left = found._left

    def writes() -> int:
        program.write(written.pop(0) if written else 0)
        return left()

    monkeypatch.setattr(found, "_left", writes)
    monkeypatch.setattr(precopy, "SOON", 0)
    monkeypatch.setattr(precopy, "SPARE", 0)
    assert (found.run() is not None) == arrives
    return found


def start(program: Program, sender: Sender, made: Callable[[str], None] = lambda _: None) -> Precopy:
    return Precopy(program.pid, sender, made, os.eventfd(0, os.EFD_NONBLOCK))


def number(pid: int) -> int:
    return dict(process.numbered(pid))[pid]


def test_rounds(program: Program, receiving: Receiving, sender: Sender, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each sends less, and what arrives is what the program has at last."""
    found = run(program, sender, monkeypatch, [100, 20])
    first, second, *_ = found.sent
    assert first > 8 * MIB
    assert 100 * PAGE <= second < first / 2
    program.write(3)
    dump(sender, program.pid, found.known)
    checkpoint = committed.read(receiving.outcome())
    assert restored(checkpoint, number(program.pid), program.address, 8 * MIB) == program.content()
    assert checkpoint.parent is None
    assert checkpoint.dumped > first + second
    own = sum(size for name, size in checkpoint.sizes.items() if name.startswith("checkpoint/pages-"))
    assert 3 * PAGE <= own < MIB


def test_it_writes_all_of_it(
    program: Program, receiving: Receiving, sender: Sender, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is left of the round, and there is no other."""
    found = run(program, sender, monkeypatch, [2048], arrives=False)
    assert len(found.sent) == 1
    assert (sender.sizes, sender.most) == ({}, 0)
    dump(sender, program.pid, None)
    checkpoint = committed.read(receiving.outcome())
    assert restored(checkpoint, number(program.pid), program.address, 8 * MIB) == program.content()
    assert not any("parent" in name for name in checkpoint.sizes)
    images = {os.path.basename(name) for name in checkpoint.sizes if name.startswith("checkpoint/")}
    assert set(os.listdir(checkpoint.images)) == images


def test_it_writes_all_of_it_during_the_first(
    program: Program, receiving: Receiving, sender: Sender, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = start(program, sender)
    monkeypatch.setattr(precopy, "PERIOD", -1)
    look = found._look

    def writes() -> None:
        program.write(2048)
        look()

    monkeypatch.setattr(found, "_look", writes)
    assert found.run() is None
    assert (found.sent, sender.sizes) == ([], {})
    dump(sender, program.pid, None)
    committed.read(receiving.outcome())


def test_it_writes_it_when_it_is_too_late(
    program: Program, receiving: Receiving, sender: Sender, monkeypatch: pytest.MonkeyPatch, memory_dir: Path
) -> None:
    found = run(program, sender, monkeypatch, [])
    program.write(2048)
    with pytest.raises(ShimError, match="written so much of its memory"):
        dump(sender, program.pid, found.known)
    sender.close()
    with pytest.raises(ShimError):
        receiving.outcome()
    assert os.listdir(memory_dir) == []


def test_something_else_is_urgent(program: Program, sender: Sender, monkeypatch: pytest.MonkeyPatch) -> None:
    found = start(program, sender)
    monkeypatch.setattr(precopy, "PERIOD", -1)
    os.eventfd_write(found.urgent, 1)
    with pytest.raises(ShimError, match="another checkpoint is wanted"):
        found.run()


@pytest.mark.parametrize("left", [None, 1 << 30, 1 << 20], ids=["no limit", "enough", "too little"])
def test_memory_for_the_digests(
    program: Program, sender: Sender, monkeypatch: pytest.MonkeyPatch, left: int | None
) -> None:
    monkeypatch.setattr(cgroups, "memory_left", lambda: left)
    assert (start(program, sender).run() is None) == (left == 1 << 20)


def test_a_receiver_that_knows_no_rounds(program: Program, sender: Sender) -> None:
    sender.room = 0
    assert start(program, sender).run() is None
    assert sender.sizes == {}


def test_the_receiver_dies(program: Program, receiving: Receiving, sender: Sender, memory_dir: Path) -> None:
    assert receiving.receiver.known.empty()
    precopy_ = start(program, sender)
    assert receiving.receiver.connection
    receiving.receiver.connection.socket.shutdown(socket.SHUT_RDWR)
    with pytest.raises(ShimError):
        precopy_.run()
    with pytest.raises(ShimError):
        receiving.outcome()
    assert os.listdir(memory_dir) == []


def test_the_directory_is_told_of_and_removed(program: Program, sender: Sender, memory_dir: Path) -> None:
    made: list[str] = []
    assert start(program, sender, made.append).run()
    assert made
    assert {os.path.dirname(path) for path in made} == {str(memory_dir)}
    assert not any(map(os.path.exists, made))


def test_what_a_program_will_have_written(program: Program) -> None:
    size = 8 * MIB
    assert precopy._written_soon([program.pid], size) < 0.05
    stop = threading.Event()

    def write() -> None:
        while not stop.is_set():
            program.write(2048)

    writing = threading.Thread(target=write)
    writing.start()
    try:
        assert precopy._written_soon([program.pid], size) > 0.2
    finally:
        stop.set()
        writing.join()


def test_a_program_that_has_ended() -> None:
    with subprocess.Popen(["true"]) as ended:
        ended.wait()
    assert precopy._written_soon([ended.pid], MIB) == 1.0
    assert list(memory.contents(ended.pid)) == []


def test_contents(program: Program) -> None:
    found = dict(memory.contents(program.pid))
    data = b""
    for address, content in sorted(found.items()):
        assert len(content) % PAGE == 0
        first, last = max(address, program.address), min(address + len(content), program.address + 8 * MIB)
        data += content[first - address : last - address] if first < last else b""
    assert data == program.content()


ZEROS = """
import mmap
memory = mmap.mmap(-1, 8 << 20, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
sum(memory[page] for page in range(0, 8 << 20, mmap.PAGESIZE))
shared = mmap.mmap(-1, 8 << 20)
shared.write(b"x" * (8 << 20))
print(flush=True)
input()
"""


def test_what_is_not_sent_ahead() -> None:
    """Zeros, although a page that is only read is there, and what processes share."""
    pipe = subprocess.PIPE
    with subprocess.Popen([sys.executable, "-c", ZEROS], stdin=pipe, stdout=pipe) as reading:
        assert reading.stdout and reading.stdout.readline()
        found = list(memory.contents(reading.pid))
        reading.communicate(b"\n")
    assert sum(len(data) for _, data in found) < 8 * MIB
    assert not any(
        data[begin : begin + PAGE] == bytes(PAGE) for _, data in found for begin in range(0, len(data), PAGE)
    )


MAPS = """\
1000-3000 rw-p 00000000 00:00 0
1000-5000 rw-p 00000000 00:00 0
5000-6000 rw-p 00000000 00:00 0                          [heap]
8000-9000 rw-p 00000000 00:0f 7                          /anon_hugepage (deleted)
9000-a000 rw-s 00000000 00:01 8                          /dev/zero (deleted)
a000-b000 r--p 00000000 00:00 0
b000-c000 rw-p 00000000 fe:00 9                          /usr/lib/a file
"""


def test_mappings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that has grown while it was read is listed twice."""
    (tmp_path / "maps").write_text(MAPS)
    monkeypatch.setattr("builtins.open", lambda _, **more: io.open(tmp_path / "maps", **more))  # noqa: UP020
    assert memory.own(1) == [(0x1000, 0x6000)]
    expected = [(0x1000, 0x3000), (0x3000, 0x5000), (0x5000, 0x6000), (0x8000, 0x9000), (0x9000, 0xA000)]
    assert list(memory.spans(1)) == [*expected, (0xB000, 0xC000)]


@pytest.mark.parametrize("seed", range(20))
def test_a_table(seed: int) -> None:
    """It answers as a dictionary does."""
    chance = random.Random(seed)
    table = Table()
    pages: dict[int, bytes] = {}
    places = sorted(chance.sample(range(100), 8))
    runs = [(first, chance.randint(1, after - first)) for first, after in pairwise(places)]
    chance.shuffle(runs)
    for first, count in runs:
        digests = [chance.randbytes(known.SIZE) for _ in range(count)]
        table.add(first * PAGE, b"".join(digests))
        pages |= {first + place: one for place, one in enumerate(digests)}
    table.sort()
    for _ in range(50):
        first, count = chance.randrange(110), chance.randint(1, 30)
        expected = b"".join(pages.get(place, bytes(known.SIZE)) for place in range(first, first + count))
        assert table.of(first * PAGE, count) == expected


def test_digests() -> None:
    pages = [bytes(PAGE), b"\1" + bytes(PAGE - 1), bytes(PAGE - 1) + b"\1"]
    found = {make(page) for page in pages for make in (known.digest(), known.digest())}
    assert {len(one) for one in found} == {known.SIZE}
    assert len(found) == 6


def test_a_node_without_xxhash(program: Program, sender: Sender, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "xxhash", None)
    assert start(program, sender).run() is None


EVERYWHERE = [(0, 1 << 47)]


@pytest.mark.parametrize(
    ("begin", "end", "compared"),
    [(0, 2, True), (1, 3, False), (4, 6, True), (4, 7, True), (7, 8, False), (9, 10, False), (5, 8, False)],
)
def test_memory_that_is_compared(begin: int, end: int, compared: bool) -> None:
    """It is wholly in what is a process's own when it comes."""
    found = Known(lambda _: [(0, 2 * PAGE), (4 * PAGE, 7 * PAGE)])
    data = memoryview(bytes(PAGE) * (end - begin))
    list(found.take(1, begin * PAGE, data))
    found.end_round()
    assert all(same for _, _, same in found.take(1, begin * PAGE, data)) == compared


def test_a_sample() -> None:
    table = Table()
    for begin in (0, 16, 40):
        table.add(begin * PAGE, b"".join(bytes([begin + page]) * known.SIZE for page in range(8)))
    found = list(known.sample({1: table}, 100))
    assert len(found) == 100
    assert {address // PAGE for _, address, _ in found} == {*range(8), *range(16, 24), *range(40, 48)}
    assert all(digest == bytes([address // PAGE]) * known.SIZE for _, address, digest in found)
    assert known.size({1: table}) == 24 * PAGE
    assert list(known.sample({}, 100)) == []


def test_shared_memory_is_always_sent(tmp_path: Path) -> None:
    """Only what is a process's own is compared, by process and by address."""
    before = Known(lambda _: EVERYWHERE)
    data = memoryview(os.urandom(2 * PAGE))
    assert list(before.take(1, 0, data)) == [(0, 2 * PAGE, False)]
    before.end_round()
    criu = Criu(tmp_path, known=before)
    criu.open(PROCESS, 1)
    criu.add(0, bytes(data))
    criu.add(8 * PAGE, bytes(data))
    criu.open(2, 1)
    criu.add(0, bytes(data))
    criu.open(PROCESS, 2)
    criu.add(0, bytes(data))
    criu.close()
    sizes = {"pages-1.img": 2 * PAGE, "pages-2.img": 2 * PAGE, "pages-3.img": 2 * PAGE}
    assert criu.server.finish() == sizes
    runs = entries(tmp_path / PAGEMAPS[PROCESS].format(1))[1:]
    assert runs == [{1: 0, 2: 2, 4: criu_images.PE_PARENT}, {1: 8 * PAGE, 2: 2, 4: 4}]


@pytest.mark.parametrize(
    ("changed", "runs"),
    [
        pytest.param([], [(0, 8, True)], id="none"),
        pytest.param([0], [(0, 1, False), (1, 8, True)], id="the first"),
        pytest.param([3, 4], [(0, 3, True), (3, 5, False), (5, 8, True)], id="two"),
        pytest.param([0, 7], [(0, 1, False), (1, 7, True), (7, 8, False)], id="both ends"),
        pytest.param(list(range(8)), [(0, 8, False)], id="all"),
    ],
)
def test_which_pages_have_changed(changed: list[int], runs: list[tuple[int, int, bool]]) -> None:
    found = Known(lambda _: EVERYWHERE)
    data = bytearray(os.urandom(8 * PAGE))
    list(found.take(1, 0, memoryview(data)))
    found.end_round()
    for page in changed:
        data[page * PAGE + 17] ^= 1
    said = [(first // PAGE, last // PAGE, same) for first, last, same in found.take(1, 0, memoryview(data))]
    assert said == runs
