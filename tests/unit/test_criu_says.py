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
    full = "Error (criu/bfd.c:131): bfd: Error flushing image: No space left on device"
    assert criu.errors(str(log)) == [full]
    log.write_text(LOG.splitlines()[-1] + "\n")
    assert criu.errors(str(log)) == ["Error (criu/cr-dump.c:1975): Dumping FAILED."]


def test_each_line_once(tmp_path: Path) -> None:
    """Numbers aside: it says so of each thread, each descriptor, each page."""
    log = tmp_path / "log"
    same = "".join(f"(00.0{n})      1: Error (criu/files.c:7): Can't open {n:#x} of {n}\n" for n in range(1, 7))
    log.write_text(f"{same}Error (criu/mem.c:2): b\nError (criu/mem.c:3): c\nError (criu/mem.c:9): c\n")
    lines = criu.errors(str(log))
    assert [line.partition(": ")[2] for line in lines] == ["Can't open 0x1 of 1", "b", "c"]


def test_the_line_that_says_why_is_among_them() -> None:
    lines = [f"Error (criu/a.c:{word}): {word}" for word in ("one", "two", "three", "Can't dump nested user namespace")]
    assert criu.summary(lines).split(" | ") == [lines[0], lines[1], lines[3]]
    assert criu.summary(lines[:2]).split(" | ") == lines[:2]
    assert criu.summary([]) == ""


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
        ("Error (criu/sk-inet.c:912): inet: Connected TCP socket in image", "--tcp-close closes them"),
        (
            "Error (criu/sk-inet.c:982): inet: Can't shutdown socket into 2: Network is unreachable",
            "lo must be up here",
        ),
        ("Error (compel/src/lib/infect.c:848): Can't create memfd in victim: Too many open files", "(ulimit -n)"),
        ("Error (criu/cr-dump.c:1975): Dumping FAILED.", ""),
        ("Error (compel/src/lib/ptrace.c:27): suspending seccomp failed: Operation not permitted", "a seccomp filter"),
        ("Error (compel/src/lib/ptrace.c:31): something else", ""),  # the name of the file says nothing
        ("Error (compel/src/lib/infect.c:261): Unseizable non-zombie 7 found, state D, err -1/4", "waits for a device"),
        ("Error (compel/src/lib/infect.c:261): Unseizable non-zombie 7 found, state t, err -1/10", "traced"),
        ("Error (compel/src/lib/infect.c:359): SEIZE 7: unsupported stop signal 21", "stopped by its terminal"),
        ("Error (criu/files-ext.c:98): Can't dump file 5 of that type [20600] (chr 10:229)", "FUSE"),
        ("Error (criu/eventpoll.c:322): Escaped/closed fd descriptor 4 on pid 1", "epoll set"),
        ("Error (criu/sockets.c:767): BUG! Unknown socket collected (family 40)", "AF_VSOCK"),
        ("Error (criu/sockets.c:767): BUG! Unknown socket collected (family 38)", "a socket of a kind"),
        ("Error (criu/namespaces.c:460): Can't dump nested user namespace for 9", "a namespace of its own"),
    ],
)
def test_meaning(line: str, meaning: str) -> None:
    found = criu.meaning([line])
    assert meaning in found and bool(found) == bool(meaning)


@pytest.mark.parametrize(
    ("line", "wanted"),
    [
        ("Error (criu/files-reg.c:454): Can't create ghost regfile: Permission denied", True),
        ("Error (criu/files-reg.c:454): Can't create ghost regfile: File exists", False),
        ("Error (criu/sk-inet.c:912): inet: Connected TCP socket in image", True),
        ("Error (criu/files-reg.c:2248): Can't open file work/a on restore: No such file or directory", False),
    ],
)
def test_what_would_fail_on_any_node(line: str, wanted: bool) -> None:
    assert criu.fails_everywhere(["Error (criu/cr-restore.c:2331): Restoring FAILED.", line]) is wanted
