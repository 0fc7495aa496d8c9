"""The page server: what CRIU sends is what a restore finds, and nothing hangs if either side fails."""

from __future__ import annotations

import errno
import mmap
import os
import socket
import struct
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from oci_criu_shim.checkpoints import codec
from oci_criu_shim.checkpoints.codec import Codec
from oci_criu_shim.dump import page_server
from oci_criu_shim.dump.known import Known
from oci_criu_shim.dump.page_server import Compressing, PageServer
from oci_criu_shim.errors import ShimError

PAGE = mmap.PAGESIZE
FRAME = 4 * PAGE
ADD, OPEN, HAS_PARENT, CLOSE = 6, 4, 5, 0x1024
PRESENT, LAZY = 4, 2
FORMS: dict[tuple[int, ...], str] = {(4, 1): "=IIQQ", (4, 2): "=I4xQQQ"}


class Criu:
    """Sends memory as CRIU's page-xfer.c does."""

    def __init__(
        self,
        directory: Path,
        version: tuple[int, ...] = (4, 2),
        codec_: Codec | None = None,
        known: Known | None = None,
    ) -> None:
        self.form = struct.Struct(FORMS[version])
        self.socket, theirs = socket.socketpair()
        target = Compressing(codec_ or Codec("zstd", 1), str(directory))
        self.suffix = target.codec.suffix
        self.server = PageServer(str(directory), target, theirs, version, known)

    def ask(self, command: int, count: int = 0, address: int = 0, whose: int = 0, flags: int = 0) -> None:
        self.socket.sendall(self.form.pack(command | flags << 16, count, address, whose))

    def open(self, kind: int, number: int) -> None:
        self.ask(OPEN, whose=number << 8 | kind)
        assert self.socket.recv(1) == b"\0"

    def add(self, address: int, data: bytes, flags: int = PRESENT) -> None:
        self.ask(ADD, len(data) // PAGE, address, flags=flags)
        self.socket.sendall(data)

    def close(self) -> bytes:
        self.ask(CLOSE)
        return self.socket.recv(4)


@pytest.fixture(autouse=True)
def small_frames(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(page_server, "FRAME", FRAME)


def pages(directory: Path, name: str, size: int) -> bytes:
    raw = directory / "raw"
    with codec.Pool() as pool:
        packed = codec.unpack(Codec(CODECS[Path(name).suffix], 0), str(directory / name), str(raw), size, FRAME, pool)
        assert b"".join(packed) == (directory / name).read_bytes()
    data = raw.read_bytes()
    raw.unlink()
    return data


def entries(pagemap: Path) -> list[dict[int, int]]:
    """The numbers of each entry, by their fields in CRIU's images/pagemap.proto."""
    data = memoryview(pagemap.read_bytes())
    assert data[:8] == bytes.fromhex("1943565425400856")
    data, found = data[8:], []
    while data:
        end = 4 + int.from_bytes(data[:4], "little")
        numbers, data = list(varints(data[4:end])), data[end:]
        found.append({tag >> 3: number for tag, number in zip(numbers[::2], numbers[1::2], strict=True)})
    return found


def varints(data: memoryview) -> Iterator[int]:
    number = shift = 0
    for byte in data:
        number |= (byte & 0x7F) << shift
        shift += 7
        if byte < 0x80:
            yield number
            number = shift = 0


CODECS = {".zst": "zstd", ".lz4": "lz4"}


@pytest.mark.parametrize("version", FORMS)
@pytest.mark.parametrize("name", ["zstd", "lz4"])
def test_memory_of_two_processes(tmp_path: Path, version: tuple[int, int], name: str) -> None:
    criu = Criu(tmp_path, version, Codec(name, 1))
    suffix = criu.suffix
    first, second, shared = os.urandom(7 * PAGE), bytes(9 * PAGE), os.urandom(FRAME)
    criu.open(1, 1)
    criu.add(16 * PAGE, first)
    criu.add(1 << 46, second, PRESENT | LAZY)
    criu.ask(HAS_PARENT, whose=5 << 8 | 2)
    assert criu.socket.recv(4) == bytes(4)
    criu.open(2, 7)
    criu.add(0, shared)
    criu.open(1, 12)
    assert criu.close() == bytes(4)
    sizes = {f"pages-1.img{suffix}": 16 * PAGE, f"pages-2.img{suffix}": FRAME, f"pages-3.img{suffix}": 0}
    assert {n + suffix: size for n, size in criu.server.finish().items()} == sizes
    assert [pages(tmp_path, n, size) for n, size in sizes.items()] == [first + second, shared, b""]
    assert {path.name: entries(path) for path in tmp_path.glob("pagemap-*")} == {
        "pagemap-1.img": [{1: 1}, {1: 16 * PAGE, 2: 7, 4: PRESENT}, {1: 1 << 46, 2: 9, 4: PRESENT | LAZY}],
        "pagemap-shmem-7.img": [{1: 2}, {1: 0, 2: 4, 4: PRESENT}],
        "pagemap-12.img": [{1: 3}],
    }


def test_criu_ends_early(tmp_path: Path) -> None:
    criu = Criu(tmp_path)
    criu.open(1, 1)
    criu.ask(ADD, 3, PAGE, flags=PRESENT)
    criu.socket.close()
    with pytest.raises(ShimError, match="ended before"):
        criu.server.finish()
    assert criu.server.failure is None  # CRIU says itself why


def test_given_up(tmp_path: Path) -> None:
    criu = Criu(tmp_path)
    criu.open(1, 1)
    criu.server.stop()
    assert criu.socket.recv(4) == b""


@pytest.mark.parametrize("command", [99, ADD])
def test_unknown_requests(tmp_path: Path, command: int) -> None:
    """Pages of no process are as unknown."""
    criu = Criu(tmp_path)
    criu.ask(command, 1, PAGE, flags=PRESENT)
    assert criu.socket.recv(4) == b""
    with pytest.raises(ShimError):
        criu.server.finish()


@pytest.mark.parametrize("name", ["pagemap-1.img", "pages-1.img.zst"])
def test_a_file_is_there_already(tmp_path: Path, name: str) -> None:
    (tmp_path / name).touch()
    criu = Criu(tmp_path)
    criu.ask(OPEN, whose=1 << 8 | 1)
    assert criu.socket.recv(4) == b""
    with pytest.raises(FileExistsError):
        criu.server.finish()


@pytest.fixture
def full(monkeypatch: pytest.MonkeyPatch) -> None:
    """The disk is full from the third frame on."""
    add = codec.Packed.add

    def limited(self: codec.Packed, frame: bytes) -> None:
        if len(self.lengths) == 2:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), self.path)
        add(self, frame)

    monkeypatch.setattr(codec.Packed, "add", limited)


@pytest.mark.usefixtures("full")
def test_disk_is_full(tmp_path: Path) -> None:
    """CRIU loses its server at once, however much it has to send yet."""
    criu = Criu(tmp_path)
    criu.open(1, 1)
    with pytest.raises(ConnectionError):
        criu.add(PAGE, bytes(4096 * FRAME))
    with pytest.raises(OSError, match="No space left"):
        criu.server.finish()
    opened = {os.path.realpath(f"/proc/self/fd/{name}") for name in os.listdir("/proc/self/fd")}
    assert not [path for path in opened if path.startswith(f"{tmp_path}/")]


def test_no_thread_can_be_started(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """CRIU loses its server, and nobody waits for ever, however much it sends."""

    def submit(*_: object) -> None:
        raise RuntimeError("can't start new thread")

    criu = Criu(tmp_path)
    monkeypatch.setattr(criu.server.pool.executor, "submit", submit)
    criu.open(1, 1)
    with suppress(BrokenPipeError, ConnectionResetError):
        for number in range(1000):
            criu.add(number * FRAME, bytes(FRAME))
    with pytest.raises(ShimError, match="could not be taken from CRIU: can't start new thread"):
        criu.server.finish()
