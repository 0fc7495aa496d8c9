"""Compressed files: what they were before, for us and for others; damaged ones; the setting that names a codec."""

from __future__ import annotations

from pathlib import Path

import pytest

from oci_criu_shim import config
from oci_criu_shim.checkpoints import codec
from oci_criu_shim.checkpoints.codec import Codec, Pool
from oci_criu_shim.errors import ShimError
from tests.unit.compressed import FRAME, PAGES

CODECS = pytest.mark.parametrize("chosen", [Codec("zstd", 3), Codec("lz4", 0)], ids=["zstd", "lz4"])


@pytest.fixture(autouse=True)
def small_frames(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(codec, "FRAME", FRAME)


@CODECS
@pytest.mark.parametrize("size", [1, FRAME - 1, FRAME, FRAME + 1, 20 * FRAME])
def test_round_trip(chosen: Codec, size: int, tmp_path: Path) -> None:
    source, packed, again = (str(tmp_path / name) for name in ("raw", "packed", "again"))
    Path(source).write_bytes(data := (PAGES * 3)[:size])
    done: list[int] = []
    with Pool() as pool:
        if not codec.pack(chosen, source, packed, pool, done.append):
            assert size < FRAME  # so small that the index is too much
            return
        read = b"".join(codec.unpack(chosen, packed, again, size, FRAME, pool))
    assert (Path(again).read_bytes(), sum(done)) == (data, size)
    assert read == Path(packed).read_bytes()


@CODECS
def test_other_programs_read_it(chosen: Codec, tmp_path: Path) -> None:
    source, packed = str(tmp_path / "raw"), str(tmp_path / "packed")
    Path(source).write_bytes(PAGES)
    with Pool() as pool:
        assert codec.pack(chosen, source, packed, pool, lambda _: None)
    whole = Path(packed).read_bytes()
    library = chosen.load()
    if chosen.name == "lz4":
        assert library.open(packed).read() == PAGES
    else:
        reader = library.ZstdDecompressor().stream_reader(whole, read_across_frames=True)
        assert reader.read() == PAGES


@CODECS
def test_damaged_frames(chosen: Codec, tmp_path: Path) -> None:
    source, packed = str(tmp_path / "raw"), str(tmp_path / "packed")
    Path(source).write_bytes(PAGES)
    with Pool() as pool:
        codec.pack(chosen, source, packed, pool, lambda _: None)
        whole = Path(packed).read_bytes()
        for place in (0, 5, len(whole) // 3, len(whole) - 70, len(whole) - 1):
            Path(packed).write_bytes(whole[:place] + bytes([whole[place] ^ 0x40]) + whole[place + 1 :])
            try:
                list(codec.unpack(chosen, packed, f"{source}.{place}", len(PAGES), FRAME, pool))
            except ValueError:
                continue
            assert Path(f"{source}.{place}").stat().st_size == len(PAGES)  # the checksum tells
        for length in (0, 3, len(whole) - 1):
            Path(packed).write_bytes(whole[:length])
            with pytest.raises(ValueError, match=r"it is too short|its index is damaged"):
                list(codec.unpack(chosen, packed, f"{source}.short{length}", len(PAGES), FRAME, pool))


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("off", None),
        ("auto", ("zstd", 1)),
        ("zstd", ("zstd", 1)),
        ("zstd:19", ("zstd", 19)),
        ("lz4:12", ("lz4", 12)),
    ],
)
def test_setting(text: str, wanted: tuple[str, int] | None) -> None:
    found = codec.parse(text)
    assert (found and (found.name, found.level)) == wanted


WRONG = ("", "on", "gzip", "gzip:1", "zstd:", "zstd:0", "zstd:20", "lz4:-1", "lz4:13", "lz4:fast", "off:1", "auto:1")


@pytest.mark.parametrize("text", WRONG)
def test_wrong_setting(text: str, tmp_path: Path) -> None:
    path = tmp_path / "config.toml"
    path.write_text(f'compress = "{text}"')
    with pytest.raises(
        ShimError, match="compress is auto, off, zstd, lz4, or zstd:1 to zstd:19, lz4:0 to lz4:12, not "
    ):
        config.load(str(path))
