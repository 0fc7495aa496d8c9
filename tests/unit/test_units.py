"""Sizes and times, read and shown."""

from __future__ import annotations

import pytest

from oci_criu_shim import units


@pytest.mark.parametrize(
    ("text", "wanted"),
    [("0", 0), ("512", 512), ("1K", 1024), ("20G", 20 << 30), ("1.5T", 3 << 39), ("2GiB", 2 << 30), ("2 mb", 2 << 20)],
)
def test_sizes(text: str, wanted: int) -> None:
    assert units.parse_size(text) == wanted


@pytest.mark.parametrize("text", ["", "G", "-1", "1X", "one", "1.2.3", "1GG", "inf", "nan"])
def test_no_sizes(text: str) -> None:
    with pytest.raises(ValueError, match=f"^{text}$"):
        units.parse_size(text)


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        *(("0s", 0), ("90s", 90), ("15m", 900), ("12h", 43200), ("1w", 604800), ("1h30m", 5400), ("1d12h", 129600)),
        *(("20", 1200), ("20:30", 1230), ("00:10:00", 600), ("1-0", 86400), ("1-12:30", 131400), ("1-0:0:1", 86401)),
    ],
)
def test_times(text: str, wanted: int) -> None:
    assert units.parse_time(text) == wanted


@pytest.mark.parametrize(
    "text", ["", "d", "-1d", "1.5d", "7D", "7 d", "1m1h", "1m2m", "1h30", "-1", "1-", ":1", "1:", "1:2:3:4", "1-2-3"]
)
def test_no_times(text: str) -> None:
    with pytest.raises(ValueError, match=f"^{text}$"):
        units.parse_time(text)


@pytest.mark.parametrize(
    ("count", "shown"),
    [(0, "0 B"), (1023, "1023 B"), (1 << 10, "1.0 KiB"), (3 << 29, "1.5 GiB"), (1 << 60, "1024.0 PiB")],
)
def test_a_size_is_shown(count: int, shown: str) -> None:
    assert units.size(count) == shown


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [(-3, "0s"), (59.9, "59s"), (105, "1m45s"), (120, "2m"), (7500, "2h5m"), (604800, "7d"), (1 << 22, "48d13h")],
)
def test_a_time_is_shown(seconds: float, shown: str) -> None:
    assert units.time(seconds) == shown
