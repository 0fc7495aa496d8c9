"""Pack and unpack files: frames of FRAME bytes of the original each, by threads side by side.

Decompressors skip the last frame, which has the lengths of the others. So `zstd -d` and `lz4 -d` read such a file, too.
"""

from __future__ import annotations

import os
import struct

from oci_criu_shim import files, values
from oci_criu_shim.errors import Misfit

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from types import ModuleType
    from typing import TypeVar

    Item = TypeVar("Item")
    Result = TypeVar("Result")

FRAME = 1 << 22  # a thread has two of them in memory
WORTH = 0.95  # a file stays as it is unless it becomes smaller than this much of itself
SKIPPED = 0x184D2A5C  # zstd_compression_format.md and lz4_Frame_format.md: skippable frames
HEAD = struct.Struct("<II")  # of a skippable frame: that number, and the bytes that follow
SUFFIXES = {"zstd": ".zst", "lz4": ".lz4"}
MODULES = {"zstd": "zstandard", "lz4": "lz4.frame"}
PACKAGES = {"zstd": "python3-zstandard", "lz4": "python3-lz4"}


class Codec:
    """One of SUFFIXES' keys, and a level of it."""

    def __init__(self, name: str, level: int) -> None:
        self.name = name
        self.level = level

    @property
    def suffix(self) -> str:
        """The end of the names of files that it has compressed."""
        return SUFFIXES[self.name]

    def load(self) -> ModuleType:
        """Return its library; raise Misfit if this node has none."""
        import importlib

        try:
            return importlib.import_module(MODULES[self.name])
        except ImportError as error:
            raise Misfit(f"no {self.name} on this node: {error}", f"install {PACKAGES[self.name]}") from None

    def is_there(self) -> bool:
        """Return whether this node has its library; nothing is imported."""
        from importlib.machinery import PathFinder

        return PathFinder.find_spec(MODULES[self.name].partition(".")[0]) is not None

    def packer(self) -> Callable[[bytes | memoryview], bytes]:
        """Return a function that makes a frame of bytes, and that threads may share."""
        library = self.load()
        if self.name == "lz4":
            return lambda data: bytes(library.compress(data, compression_level=self.level))
        return lambda data: bytes(library.ZstdCompressor(level=self.level).compress(data))

    def unpacker(self) -> Callable[[bytes, int], bytes]:
        """Return a function that makes bytes of a frame and their number. It raises ValueError if the frame has another
        number of bytes."""
        library = self.load()

        def lz4(frame: bytes, size: int) -> bytes:
            try:
                data = bytes(library.LZ4FrameDecompressor().decompress(frame, max_length=size))
            except (RuntimeError, EOFError) as error:
                raise ValueError(str(error)) from None
            return _of_size(data, size)

        def zstd(frame: bytes, size: int) -> bytes:
            try:
                if library.frame_content_size(frame) != size:
                    raise ValueError("a frame of another size")
                return _of_size(bytes(library.ZstdDecompressor().decompress(frame)), size)
            except library.ZstdError as error:
                raise ValueError(str(error)) from None

        return lz4 if self.name == "lz4" else zstd


def parse(text: str) -> Codec | None:
    """Return the codec of the setting `compress`, None if it is off; ValueError as of parse_compression()."""
    found = values.parse_compression(text)
    return Codec(*found) if found else None


def original(name: str) -> str:
    """Return the name of the file that was compressed to `name`."""
    return name.rpartition(".")[0]


def _of_size(data: bytes, size: int) -> bytes:
    if len(data) != size:
        raise ValueError("a frame of another size")
    return data


def threads(most: int) -> int:
    """Return how many threads are of use: one for each processor that we may use, or `most` of them."""
    return min(len(os.sched_getaffinity(0)), most)


class Pool:
    """Threads, as many as are of use, or `most` of them."""

    def __init__(self, most: int = 1 << 10) -> None:
        from concurrent.futures import ThreadPoolExecutor

        self.count = threads(most)
        self.executor = ThreadPoolExecutor(self.count)

    def __enter__(self) -> Pool:
        return self

    def __exit__(self, *_: object) -> None:
        self.executor.shutdown(cancel_futures=True)

    def results(self, work: Callable[[Item], Result], items: Iterable[Item]) -> Iterator[Result]:
        """Yield work(item) for each item, in order. Only a few more are begun than were asked for."""
        waiting = []
        for item in items:
            waiting.append(self.executor.submit(work, item))
            if len(waiting) > 2 * self.count:
                yield waiting.pop(0).result()
        for future in waiting:
            yield future.result()


class Packed:
    """The new file `path`, to which frames are written, one after the other."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.lengths: list[int] = []
        self.stream = open(path, "xb")

    def add(self, frame: bytes) -> None:
        """Write the next frame."""
        self.stream.write(frame)
        self.lengths.append(len(frame))

    def end(self) -> None:
        """Write the last frame. Nothing is flushed to the disk."""
        self.stream.write(_index(self.lengths))
        self.close()

    def close(self) -> None:
        """Close the file, complete or not."""
        self.stream.close()

    def drop(self) -> None:
        """Remove the file."""
        self.close()
        os.unlink(self.path)


def pack(codec: Codec, source: str, target: str, pool: Pool, told: Callable[[int], None]) -> bool:
    """Compress the file `source` to the new file `target` and flush that; return False if it is not worth it.

    `told` is called with the number of bytes that are done since its last call, and may raise.
    """
    size, compress, packed = os.stat(source).st_size, codec.packer(), Packed(target)
    with open(source, "rb", buffering=0) as raw, packed.stream:

        def frame(offset: int) -> tuple[bytes, int]:
            data = _read(raw.fileno(), min(FRAME, size - offset), offset)
            return compress(data), len(data)

        for data, done in pool.results(frame, range(0, size, FRAME)):
            packed.add(data)
            if packed.stream.tell() > WORTH * size:
                packed.drop()
                return False
            told(done)
        packed.end()
    files.sync(target)
    return True


def unpack(codec: Codec, source: str, target: str, size: int, frame: int, pool: Pool) -> Iterator[bytes]:
    """Make the file `target`, of `size` bytes, from what pack() has made with frames of `frame` bytes, as far as
    its caller goes through what is yielded: all bytes of the file `source`, in order.

    Raise OSError if it can't be read or written, ValueError if pack() does not make such files.
    """
    decompress = codec.unpacker()
    with open(source, "rb", buffering=0) as packed, open(target, "xb", buffering=0) as raw:

        def write(place: tuple[int, int, int]) -> bytes:
            offset, length, start = place
            found = _read(packed.fileno(), length, offset)
            data = memoryview(decompress(found, min(frame, size - start)))
            while data:
                written = os.pwrite(raw.fileno(), data, start)
                data, start = data[written:], start + written
            return found

        lengths = _lengths(packed.fileno(), -(-size // frame))
        yield from pool.results(write, _places(lengths, frame))
        yield _index(lengths)


def _index(lengths: list[int]) -> bytes:
    """Return the last frame."""
    numbers = struct.pack(f"<{len(lengths)}I", *lengths)
    return HEAD.pack(SKIPPED, len(numbers)) + numbers


def _lengths(packed: int, count: int) -> list[int]:
    """Return the bytes of each of `count` frames, by the last one; raise ValueError if that is not as _index() makes
    it, or the file has other bytes besides."""
    end = os.fstat(packed).st_size
    index = _read(packed, HEAD.size + 4 * count, max(end - HEAD.size - 4 * count, 0))
    lengths = list(struct.unpack_from(f"<{count}I", index, HEAD.size))
    if index != _index(lengths) or sum(lengths) + len(index) != end:
        raise ValueError("its index is damaged")
    return lengths


def _places(lengths: list[int], frame: int) -> Iterator[tuple[int, int, int]]:
    """Yield (offset, length, offset in the original) for each frame."""
    offset = 0
    for number, length in enumerate(lengths):
        yield offset, length, number * frame
        offset += length


def _read(descriptor: int, size: int, offset: int) -> bytes:
    data = os.pread(descriptor, size, offset)
    if len(data) != size:
        raise ValueError("it is too short")
    return data
