"""Which of our own streams are copied to and from a container."""

from __future__ import annotations

from oci_criu_shim.stdio import Stdio


def test_a_terminal_that_is_shared_is_not_read() -> None:
    """Who types there types for the container."""
    stdio = Stdio(before=["/dev/pts/3", "pipe:[11]", "pipe:[12]"])
    assert set(stdio.watch()) == {stdio.outside[1], stdio.outside[2]}
    assert stdio.record()["streams"][0] == "/dev/pts/3"
    assert stdio.record()["streams"][1] == f"pipe:[{stdio.inodes[1]}]"


def test_input_is_copied_to_a_pipe() -> None:
    assert 0 in Stdio().watch() and 0 in Stdio(before=["pipe:[1]", "pipe:[2]", "/dev/null"]).watch()
