"""What CRIU says, as the user is told."""

from __future__ import annotations

from pathlib import Path

import pytest

from oci_criu_shim.host import criu

LOG = """\
Warn  (criu/kerndat.c:1): something
Error (criu/util.c:1534): rlimit: Can't setup RLIMIT_NOFILE for self: Operation not permitted
Error (criu/bfd.c:131): bfd: Error flushing image: No space left on device
(00.012345)     17: Error (criu/cr-dump.c:1975): Dumping FAILED.
"""


def test_errors_with_and_without_times(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_text(LOG)
    assert criu.errors(str(log)) == [
        "Error (criu/bfd.c:131): bfd: Error flushing image: No space left on device",
        "Error (criu/cr-dump.c:1975): Dumping FAILED.",
    ]
    assert criu.errors(str(log), 1) == criu.errors(str(log))[:1]


def test_no_log_is_no_error(tmp_path: Path) -> None:
    assert criu.errors(str(tmp_path / "log")) == []


@pytest.mark.parametrize(
    ("line", "meaning"),
    [
        (
            "Error (criu/bfd.c:131): bfd: Error flushing image: No space left on device",
            "the checkpoint directory is full",
        ),
        ("Error (criu/sk-inet.c:1): inet: Connected TCP socket, consider using", "a TCP connection is open"),
        ("Error (criu/cr-dump.c:1975): Dumping FAILED.", ""),
    ],
)
def test_meaning(line: str, meaning: str) -> None:
    found = criu.meaning([line])
    assert meaning in found and bool(found) == bool(meaning)
