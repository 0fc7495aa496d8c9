"""What is root's in the plugin and its programs touches nothing in a place that a user can write.

A walk, by strace(1), through all that they do in a job's whole life, on a node where the job's directory holds what a
user could put there: no system call of a process with root's rights may open, follow, execute or read anything there,
or in any other place that a user can write; nor may one read what a user sends.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import stat
import subprocess
from collections.abc import Iterator
from pathlib import Path

from .support import CHECK, JOB, RUN, UID, Case, _argv, as_user, connect, status

CALL = re.compile(r"^(\w+)\((.*)\)\s+= (\S+)(?: /\* (\d+) in strace's PID NS \*/)?")
PATH = re.compile(r'(?:(?:AT_FDCWD|\d+)<([^>]*)>, )?"((?:[^"\\]|\\.)*)"')
# Of these only the descriptor is looked at, not the data; of the others, all that may be a path.
READS = ("read", "pread64", "readv", "getdents64", "fchown", "fchmod", "sendfile", "mmap")
WRITES = ("write", "pwrite64", "writev")
RECEIVES = ("recvfrom", "recvmsg", "recvmmsg", *READS)
KERNELS = re.compile(r"^/proc/(?!.*/(cwd|root|exe|fd|map_files)/)")  # not what a link there leads to
ON_DESCRIPTOR = re.compile(r"^\d+<(/[^>]*)>")
ON_SOCKET = re.compile(r"^\d+<(socket|UNIX)\b")
FORKS = ("clone", "clone3", "fork", "vfork")
CHANGES = ("setresuid", "setreuid", "setuid")
# The helper takes its socket away, by a name that is not followed, in a directory that it does not follow there.
ALLOWED = re.compile(r"^unlinkat\(\d+<[^>]*/7>, \"helper\.\d+\.sock\", 0\)")


class Walk:
    """The system calls of a program and all that it starts, one file each, as `strace -ff -y` writes them."""

    def __init__(self, directory: Path, job: Path) -> None:
        self.directory = directory
        self.job = str(job)
        self.seen: set[int] = set()

    def roots(self, pid: int, root: bool = True) -> Iterator[str]:
        """The calls of `pid` and its descendants that reach with root's rights for what may be a user's."""
        self.seen.add(pid)
        rights = root
        for line in (self.directory / f"trace.{pid}").read_text(errors="replace").splitlines():
            match = CALL.match(line)
            if not match:
                continue
            name, words, result, here = match.groups()
            if name in FORKS and result.isdecimal():
                yield from self.roots(int(here or result), rights)
            elif name in CHANGES and result == "0":
                root = rights = words.split(",")[0] == "0"
            elif name == "setfsuid":
                rights = root and words == "0"
            elif rights and self.reaches(name, words) and not ALLOWED.match(line):
                yield line

    def reaches(self, name: str, words: str) -> bool:
        """Whether a call is about something below the job's directory, in another place of users, or from a socket."""
        if name in RECEIVES and ON_SOCKET.match(words):
            return True
        if name in READS:
            paths = ON_DESCRIPTOR.findall(words)
        else:
            paths = [os.path.join(base, path) for base, path in PATH.findall(words) if name not in WRITES]
        return any(self.is_users(os.path.normpath(path)) for path in paths if path.startswith("/"))

    def is_users(self, path: str) -> bool:
        """Whether a user can write what is there, or make it what it is; the job's directory itself was mounted."""
        if path == self.job or path.startswith(f"{self.job}/"):
            return path != self.job
        if KERNELS.match(path):
            return False
        first = str(CHECK) if path.startswith(f"{CHECK}/") else "/"  # what the tests are built in may be below /tmp
        place = first
        for name in ("", *path[len(first) :].strip("/").split("/")):
            place = os.path.join(place, name)
            try:
                found = os.lstat(place)
            except (FileNotFoundError, NotADirectoryError):
                return False
            kind = stat.S_IFMT(found.st_mode)
            if found.st_uid or (kind in (stat.S_IFDIR, stat.S_IFREG) and found.st_mode & (stat.S_IWGRP | stat.S_IWOTH)):
                return True
        return False


class Boundary(Case):
    def setUp(self) -> None:
        super().setUp()
        self.groups()
        self.traces = CHECK / "traces"
        self.forget()

    def forget(self) -> None:
        shutil.rmtree(self.traces, ignore_errors=True)
        self.traces.mkdir()

    def trace(self, context: str, step: int = 0) -> subprocess.Popen[str]:
        """fake_slurm in a context, traced; in a step it has begun."""
        strace = ["strace", "-ff", "-qq", "-y", "--pidns-translation", "-s", "4096", "-o", str(self.traces / "trace")]
        argv = [*strace, *_argv(context, 7, step, {"checkpoint": None}, quick=True)]
        pipe = subprocess.PIPE
        process = subprocess.Popen(argv, stdin=pipe, stdout=pipe, stderr=subprocess.DEVNULL, text=True)
        assert process.stdout
        while context == "remote" and process.stdout.readline() != "ready\n":
            pass
        return process

    def assert_nothing(self) -> None:
        walk = Walk(self.traces, self.job())
        first = min(int(path.suffix[1:]) for path in self.traces.iterdir())
        self.assertEqual(list(walk.roots(first)), [])
        self.assertEqual(walk.seen, {int(path.suffix[1:]) for path in self.traces.iterdir()})
        self.forget()

    def fill(self) -> None:
        """What a user could put there."""
        with as_user():
            (self.job() / "requeued").write_text("JobId=7\nExcNodeList=n1\n")
            (self.job() / "signalled").symlink_to("/etc/passwd")
            (self.job() / "kept.1").symlink_to("/nonexistent")
            (self.job() / "container").mkdir()
            (self.job() / "container/pid").write_text("1\n")
            (self.job() / "container/stage.1").symlink_to("/nonexistent/.stage.1")
            (self.job() / ".-tmp-backend").mkdir(mode=0)

    def test_prolog_and_epilog(self) -> None:
        for context in ("prolog", "prolog", "epilog"):
            with self.subTest(context=context):
                self.trace(context).communicate()
                self.assert_nothing()
                if context == "prolog":
                    self.fill()

    def test_a_step_with_a_dump(self) -> None:
        self.trace("prolog").communicate()
        self.fill()
        self.forget()
        step = self.trace("remote")
        with connect(self.job() / "helper.0.sock", b"report") as connection:
            self.assertTrue(connection.recv(1 << 16))
        step.communicate()
        self.assert_nothing()

    def test_the_extern_step(self) -> None:
        self.groups(f"freezer{JOB}/step_extern/cgroup.procs")
        self.trace("prolog").communicate()
        self.fill()
        self.forget()
        step = self.trace("remote", step=0xFFFFFFFC)
        self.wait_for(lambda: bool(self.watchers()), "the watcher to become the user")
        (pid,) = self.watchers()
        os.kill(pid, signal.SIGTERM)
        trace = self.traces / f"trace.{pid}"
        self.wait_for(lambda: '"pid", ' in trace.read_text(), "it to look for a runtime")
        step.communicate()
        self.assert_nothing()

    def test_what_a_walk_sees(self) -> None:
        """Or it would be none."""
        self.trace("prolog").communicate()
        self.fill()
        self.forget()
        job = self.job()
        reaching = [
            f'openat(AT_FDCWD</>, "{job}/requeued", O_RDONLY) = 3<{job}/requeued>',
            f'openat(3<{job}>, "container", O_RDONLY) = 4<{job}/container>',
            f'openat(3<{RUN}>, "./7/../7/container", O_RDONLY) = -1 ENOENT (No such file or directory)',
            f'read(4<{job}/container/pid>, "1\\n", 16) = 2',
            f'readlink("{job}/kept.1", "/nonexistent", 4096) = 12',
            f'execve("{job}/program", ["program"], 0x0 /* 1 var */) = -1 EACCES (Permission denied)',
            f'connect(5<socket:[1]>, {{sa_family=AF_UNIX, sun_path="{job}/socket"}}, 110) = 0',
            'unlink("/tmp/file") = 0',
            f'openat(AT_FDCWD</>, "/proc/{os.getpid()}/root/tmp/file", O_RDONLY) = -1 ENOENT (No such file)',
            "recvmsg(4<socket:[1]>, {msg_namelen=0}, 0) = 0",
            'read(4<UNIX-SEQPACKET:[1]>, "", 16) = 0',
        ]
        others = [
            f'openat(3<{RUN}>, "7", O_PATH|O_DIRECTORY) = 4<{job}>',
            f'openat(AT_FDCWD</>, "{RUN}/7.owner", O_RDONLY) = 4<{RUN}/7.owner>',
            'openat(AT_FDCWD</>, "/dev/null", O_RDWR) = 3</dev/null>',
            'read(3<pipe:[1]>, "", 4) = 0',
            f'write(3</proc/{os.getpid()}/oom_score_adj>, "/tmp/file", 9) = 9',
            "setfsuid(4242) = 0",
            f'unlinkat(4<{job}>, "helper.0.sock", 0) = 0',
            "setfsuid(0) = 4242",
            "setresuid(4242, 4242, 4242) = 0",
            f'openat(AT_FDCWD</>, "{job}/requeued", O_RDONLY) = 3<{job}/requeued>',
        ]
        (self.traces / "trace.1").write_text("".join(f"{line}\n" for line in reaching + others))
        self.assertEqual(list(Walk(self.traces, job).roots(1)), reaching)

    def watchers(self) -> list[int]:
        """Those that run as the job's user already. (/proc has them as root's.)"""
        found = []
        for pid in filter(str.isdecimal, os.listdir("/proc")):
            try:
                if os.readlink(f"/proc/{pid}/exe").endswith("/watcher") and status(int(pid))["Uid"].split()[0] == str(
                    UID
                ):
                    found.append(int(pid))
            except (OSError, KeyError):
                continue
        return found
