"""Containers with a terminal: interactive steps as by plain crun, and a shell that is checkpointed and restored."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import re
import select
import struct
import termios
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import pytest

from tests.harness import jobs
from tests.harness.cluster import Cluster
from tests.harness.cluster.waiting import patient
from tests.harness.jobs import Job, Work

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="namespaces of a cluster need root")

PROMPT = "ready> "
SHELL = ("env", "TERM=xterm", f"PS1={PROMPT}", "bash", "--norc")
SALLOC = ("env", "SHELL=/bin/sh", f"PS1={PROMPT}", "salloc", "--quiet")
ROOT = "/run/terminal"
SHIM = ("oci-criu-shim", f"--root={ROOT}")


class Session:
    """A program in a terminal of ours."""

    def __init__(self, argv: Sequence[str]) -> None:
        self.pid, self.master = pty.fork()
        if self.pid == 0:
            try:
                os.execvp(argv[0], list(argv))
            finally:
                os._exit(127)
        self.text = ""

    def until(self, pattern: str, seconds: float = 30, meanwhile: Callable[[], None] = lambda: None) -> str:
        """Return what it writes up to a text that `pattern` matches; `meanwhile` is called up to once a second.

        Raise AssertionError if that text does not come.
        """
        limit = time.monotonic() + patient(seconds)
        while not (found := re.search(pattern, self.text)):
            if not select.select([self.master], [], [], 1)[0]:
                assert time.monotonic() < limit, self.text
                meanwhile()
                continue
            try:
                read = os.read(self.master, 4096)
            except OSError:  # EIO: it has ended
                read = b""
            assert read, f"ended without {pattern}: {self.text}"
            self.text += read.decode(errors="replace")
        before, self.text = self.text[: found.end()], self.text[found.end() :]
        return before

    def type(self, text: str) -> None:
        os.write(self.master, text.encode())

    def resize(self, rows: int, columns: int) -> None:
        """Give the terminal another size, and then this one: the kernel tells changes only."""
        for size in ((rows, columns + 1), (rows, columns)):
            fcntl.ioctl(self.master, termios.TIOCSWINSZ, struct.pack("HHHH", *size, 0, 0))

    def resized(self, rows: int, columns: int, pattern: str) -> str:
        """Resize until a text comes, as `until` has it. Slurm's srun loses a change that comes before it waits for
        one."""
        self.resize(rows, columns)
        return self.until(pattern, meanwhile=lambda: self.resize(rows, columns))

    def status(self) -> int:
        """Its exit status, when it has ended."""
        while True:
            try:
                if not os.read(self.master, 4096):
                    break
            except OSError:
                break
        return os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])


@contextmanager
def session(cluster: Cluster, node: str, argv: Sequence[str], user: str = "alice") -> Iterator[Session]:
    opened = Session(cluster.argv(node, argv, user))
    try:
        yield opened
    finally:
        os.close(opened.master)  # what is still there is hung up


def converse(cluster: Cluster, *argv: str) -> list[str]:
    """What is to be seen of a shell in an interactive step."""
    with session(cluster, "ctl", argv) as shell:
        shell.until(PROMPT)
        shell.type("while ! stty size | grep '33 77'; do sleep 0.1; done; tty; tty <&2; echo $((6 * 7))\r")
        seen = shell.resized(33, 77, "\n42\r\n").splitlines()[-4:]
        shell.type("sh -c 'echo begun; exec sleep 100'; echo status $?\r")
        shell.until("begun\r\n")  # a prompt may come after what was typed ahead of it
        shell.type("\x03")
        shell.until(PROMPT)
        shell.type("exit 5\r")
        return [*seen, str(shell.status())]


@pytest.mark.parametrize("options", [jobs.OPTIONS[:2], ()], ids=["asked", "not-asked"])
def test_interactive_step(
    shim_cluster: Cluster, shim_bundle: str, plain_cluster: Cluster, plain_bundle: str, options: tuple[str, ...]
) -> None:
    found = converse(shim_cluster, "srun", "--pty", *options, f"--container={shim_bundle}", *SHELL)
    assert found == converse(plain_cluster, "srun", "--pty", f"--container={plain_bundle}", *SHELL)
    assert found[-1] == "5"


def test_interactive_step_of_salloc(
    shim_cluster: Cluster, shim_bundle: str, plain_cluster: Cluster, plain_bundle: str
) -> None:
    """With LaunchParameters=use_interactive_step the shell of an allocation runs in its container."""
    found = converse(shim_cluster, *SALLOC, *jobs.OPTIONS[:2], f"--container={shim_bundle}")
    assert found == converse(plain_cluster, *SALLOC, f"--container={plain_bundle}")
    assert found[-1] == "5"


def test_preempted_shell_goes_on_in_another_job(shim_cluster: Cluster, shim_bundle: str) -> None:
    """Slurm does not requeue an allocation of srun's."""
    srun = ["srun", "--pty", "--partition=low", *jobs.OPTIONS[:2], f"--container={shim_bundle}"]
    with session(shim_cluster, "ctl", [*srun, *SHELL]) as shell:
        shell.until(PROMPT)
        shell.type("kept=secret; echo job $SLURM_JOB_ID; echo process $$\r")
        number = (re.search(r"\njob (\d+)\r", shell.until("process 1\r\n")) or ["", ""])[1]
        job = Job(shim_cluster, number, Work(), shim_cluster.shared / "none")
        job.wait_running()
        high = job.displace()
        assert shell.status() == 128 + 9
    shim_cluster.exec("ctl", ["scancel", high])
    with session(shim_cluster, "ctl", [*srun, f"--restart-dir={number}", *SHELL]) as shell:
        shell.until(f"restored job .* from {jobs.CHECKPOINTS}/{number}/.*\n")
        shell.type("while ! stty size | grep '44 88'; do sleep 0.1; done; echo the $kept of $$; tty\r")
        shell.resized(44, 88, "\n44 88\r\nthe secret of 1\r\n/dev/pts/0\r\n")
        shell.type("exit 5\r")
        assert shell.status() == 5


@pytest.fixture
def terminal_bundle(shim_cluster: Cluster, shim_bundle: str) -> Iterator[str]:
    """A bundle of root's, whose program is a shell in a terminal."""
    config = json.loads((shim_cluster.home / "alice/bundle/config.json").read_text())
    config["root"]["path"] = f"{shim_bundle}/rootfs"
    config["process"] |= {"terminal": True, "args": ["bash", "--norc"]}
    config["process"]["env"] = ["PATH=/usr/bin:/bin", "TERM=xterm", f"PS1={PROMPT}"]
    config["linux"]["namespaces"] = [n for n in config["linux"]["namespaces"] if n["type"] != "user"]
    directory = shim_cluster.shared / "terminal"
    directory.mkdir()
    (directory / "config.json").write_text(json.dumps(config))
    yield "/shared/terminal"
    shim_cluster.exec("n1", ["rm", "-rf", "/shared/terminal", ROOT], "root")


def test_shell_is_checkpointed_and_restored(shim_cluster: Cluster, terminal_bundle: str) -> None:
    images = f"--image-path={terminal_bundle}/images"
    with session(shim_cluster, "n1", [*SHIM, "run", f"--bundle={terminal_bundle}", "shell"], "root") as shell:
        shell.until(PROMPT)
        shell.type("kept=secret; echo $((6 * 7))\r")
        shell.until("\n42\r\n")
        shim_cluster.exec("n1", [*SHIM, "checkpoint", images, "shell"], "root")
        assert shell.status() == 128 + 9
    restore = [*SHIM, "restore", f"--bundle={terminal_bundle}", images, "shell"]
    with session(shim_cluster, "n1", restore, "root") as shell:
        shell.resize(44, 88)
        shell.type("while ! stty size | grep '44 88'; do sleep 0.1; done; echo the $kept; tty\r")
        shell.until("\n44 88\r\nthe secret\r\n/dev/pts/0\r\n")
        shell.type("sh -c 'echo begun; exec sleep 100'\r")
        shell.until("begun\r\n")  # a prompt may come after what was typed ahead of it
        shell.type("\x03")
        shell.until(PROMPT)
        shell.type("exit 5\r")
        assert shell.status() == 5
    assert not shim_cluster.exec("n1", [*SHIM, "list", "--quiet"], "root").stdout
