"""Which seccomp filters a restore without privilege could not set, and what it gives to the library that can."""

from __future__ import annotations

import os
import struct
from pathlib import Path
from typing import Any

import pytest

from oci_criu_shim.errors import Damaged, ShimError
from oci_criu_shim.host import criu_images
from oci_criu_shim.restore import seccomp
from oci_criu_shim.restore.seccomp import Seccomp

ALLOW, LOG, KILL, ERRNO, NUMBER = 0x7FFF0000, 0x7FFC0000, 0, 0x00050001, (0x20, 0, 0, 0)
CAPSET, PTRACE, PRCTL = 126, 101, 157
Instruction = tuple[int, int, int, int]


def packed(*program: Instruction) -> bytes:
    return b"".join(struct.pack("=HBBI", *instruction) for instruction in program)


def answer(action: int) -> Instruction:
    return 0x06, 0, 0, action


def denying(call: int, action: int = ERRNO) -> bytes:
    return packed(NUMBER, (0x15, 0, 1, call), answer(action), answer(ALLOW))


# What a filter is, and whether it may refuse anything of what comes last.
FILTERS: dict[str, tuple[bytes, bool]] = {
    "all allowed": (packed(answer(ALLOW)), False),
    "all logged": (packed(answer(LOG)), False),
    "all killed": (packed(answer(KILL)), True),
    "something else": (denying(PTRACE), False),
    "refused": (denying(CAPSET), True),
    "killed": (denying(CAPSET, KILL), True),
    "of another architecture": (packed((0x20, 0, 0, 4), (0x15, 1, 0, 0xC000003E), answer(KILL), answer(ALLOW)), False),
    "io_uring": (packed(NUMBER, (0x35, 0, 2, 425), (0x25, 1, 0, 427), answer(ERRNO), answer(ALLOW)), False),
    "by its argument": (
        packed(NUMBER, (0x15, 0, 3, PRCTL), (0x20, 0, 0, 16), (0x15, 0, 1, 4), answer(ERRNO), answer(ALLOW)),
        True,
    ),
    "an argument of another": (
        packed(NUMBER, (0x15, 0, 3, PTRACE), (0x20, 0, 0, 16), (0x15, 0, 1, 4), answer(ERRNO), answer(ALLOW)),
        False,
    ),
    "computed": (
        packed(NUMBER, (0x02, 0, 0, 3), (0x54, 0, 0, 0), (0x44, 0, 0, 1), (0x07, 0, 0, 0), (0x60, 0, 0, 3))
        + packed((0x1D, 0, 1, 0), answer(ERRNO), (0x05, 0, 0, 1), answer(KILL), answer(ALLOW)),
        True,  # of write, whose number is 1
    ),
    "returned": (packed((0x00, 0, 0, ALLOW), (0x16, 0, 0, 0)), False),
    "shifted": (packed(NUMBER, (0x64, 0, 0, 1), answer(ALLOW)), True),
}


@pytest.mark.parametrize("case", FILTERS)
def test_what_refuses(case: str) -> None:
    code, refuses = FILTERS[case]
    assert seccomp.refuses(code) is refuses


def number(value: int) -> bytes:
    found = b""
    while value > 127:
        found, value = found + bytes([value & 127 | 128]), value >> 7
    return found + bytes([value])


def image(directory: Path, *filters: tuple[bytes, int | None, int]) -> str:
    """As CRIU writes it: (code, the number of the one that came later, flags) of each filter."""
    message = b""
    for code, later, flags in filters:
        entry = b"\x0a" + number(len(code)) + code + (b"" if later is None else b"\x10" + number(later))
        entry += b"\x18" + number(flags)
        message += b"\x0a" + number(len(entry)) + entry
    (directory / "seccomp.img").write_bytes(bytes(8) + len(message).to_bytes(4, "little") + message)
    return str(directory)


def core(mode: object, filter_: int | None = None, no_new_privs: int = 1, capabilities: int = 0) -> dict[str, Any]:
    creds = {"no_new_privs": no_new_privs, "cap_eff": [capabilities, 0]}
    thread = {"seccomp_mode": mode, "creds": creds, "comm": "x"}
    return {"entries": [{"thread_core": thread if filter_ is None else thread | {"seccomp_filter": filter_}}]}


def test_chains_and_threads(tmp_path: Path) -> None:
    """The oldest filter is the last of a chain, and is set first."""
    later, oldest, plain = denying(CAPSET), denying(PTRACE) + packed(*[answer(ALLOW)] * 300), denying(PTRACE)
    found = Seccomp(image(tmp_path, (later, None, 0), (oldest, 0, 2), (plain, None, 0)))
    assert [found.concerns(2, number) for number in range(3)] == [True, True, False]
    assert (found.concerns(1, 0), found.concerns(0, 0)) == (True, False)
    images = [core("filter", 1), core("strict")]
    found.take("core-7.img", images[0])
    found.take("core-8.img", images[1])
    assert "seccomp" not in str(images)
    shared = found.share()
    assert shared == found.shared
    expected = struct.pack("=3I", 0, 0, 2) + struct.pack("=3I", 7, 2, 2)
    expected += struct.pack("=2I", 2, 304) + oldest + struct.pack("=2I", 0, 4) + later + struct.pack("=3I", 8, 1, 0)
    assert os.pread(found.shared, 1 << 16, 0) == expected
    with pytest.raises(ShimError, match=r"runs without .*criu_seccomp\.so"):
        found.require_loaded()
    os.pwrite(found.shared, struct.pack("=2I", 1, 1), 0)
    found.require_loaded()
    with pytest.raises(ShimError, match="seccomp is set in 1 of 2 threads only"):
        found.require_set()
    os.pwrite(found.shared, struct.pack("=2I", 1, 2), 0)
    found.require_set()
    os.close(found.shared)


@pytest.fixture(autouse=True)
def here(monkeypatch: pytest.MonkeyPatch) -> None:
    on("x86_64", monkeypatch)


def on(machine: str, monkeypatch: pytest.MonkeyPatch) -> None:
    found = os.uname_result((*os.uname()[:4], machine))
    monkeypatch.setattr(os, "uname", lambda: found)


def test_elsewhere_all_is_left_to_criu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """System calls have other numbers there."""
    on("aarch64", monkeypatch)
    images = image(tmp_path, (denying(CAPSET), None, 0))
    assert not Seccomp(images).concerns(1, 0) and not Seccomp(images).concerns(2, 0)
    seccomp.require_restorable(images)


@pytest.mark.parametrize("directory", [None, "/nonexistent"])
def test_nothing_is_to_be_set(directory: str | None) -> None:
    found = Seccomp(directory)
    assert found.share() is None
    assert found.concerns(1, 0) is (directory is not None)
    found.require_loaded()
    found.require_set()


@pytest.mark.parametrize("text", [b"\x0a\x05ab", b"\x08\x05", b"\x0a\x00"])
def test_no_image(tmp_path: Path, text: bytes) -> None:
    (tmp_path / "seccomp.img").write_bytes(bytes(12) + text)
    with pytest.raises(Damaged):
        Seccomp(str(tmp_path))


CIRCLE = [(denying(CAPSET), 1, 0), (denying(CAPSET), 0, 0)]
BROKEN = [(denying(CAPSET)[:-1], None, 0)]
BEYOND = [(packed((0x02, 0, 0, 16), answer(ALLOW)), None, 0)]  # of its memory


@pytest.mark.parametrize("filters", [CIRCLE, BROKEN, BEYOND, [(denying(CAPSET), 7, 0)]])
def test_filters_that_no_kernel_took(tmp_path: Path, filters: list[tuple[bytes, int | None, int]]) -> None:
    with pytest.raises(Damaged, match="none that the kernel would take"):
        seccomp.Seccomp(image(tmp_path, *filters))


@pytest.mark.parametrize(
    ("no_new_privs", "capabilities", "restorable"), [(1, 0, True), (0, 1 << 21, True), (0, 1 << 20, False)]
)
def test_what_no_restore_could_set(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, no_new_privs: int, capabilities: int, restorable: bool
) -> None:
    modes = {"core-1.img": (2, 1), "core-2.img": (0, 0), "core-3.img": (2, 0)}
    for name in modes:
        (tmp_path / name).touch()
    images = image(tmp_path, (denying(CAPSET), None, 0), (denying(PTRACE), None, 0))
    monkeypatch.setattr(criu_images, "seccomp", lambda path: modes[os.path.basename(path)])
    monkeypatch.setattr(criu_images, "load", lambda _: core("filter", 0, no_new_privs, capabilities))
    if restorable:
        return seccomp.require_restorable(images)
    with pytest.raises(ShimError, match="thread 3 of the container has a seccomp filter"):
        seccomp.require_restorable(images)
