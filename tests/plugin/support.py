"""Running the plugin and its programs as Slurm does; what the tests of this directory share."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import time
import unittest
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

if "SPANK_CHECK" not in os.environ:
    raise unittest.SkipTest("run by `make -C spank check`")

CHECK = Path(os.environ["SPANK_CHECK"])
RUN = CHECK / "run"
CGROUP = CHECK / "cgroup"
PLUGIN = CHECK / "lib" / "oci_criu_shim_spank.so"
FORWARD = "_SLURM_SPANK_OPTION_oci_criu_shim_"

UID, GID = 4242, 4243
OTHER_UID = 4343
EXTERN = 0xFFFFFFFC
JOB = f"/slurm/uid_{UID}/job_7"
GROUP = f"freezer:{JOB}"
CHECKPOINT_SIGNAL = signal.SIGRTMIN + 3
ALL_SIGNALS = signal.valid_signals()
SECONDS = 120
"""For what an idle machine does in one or two, under valgrind: this one may be busy."""

# Python and shells are not ours.
VALGRIND = [
    *("valgrind", "--quiet", "--vgdb=no", "--error-exitcode=99", "--leak-check=full", "--track-fds=yes"),
    *("--trace-children=yes", "--trace-children-skip=*/python3*,*/sh"),
]


class Case(unittest.TestCase):
    """Starts with no run directory, and with slurmstepd in no job's control group, unless by groups()."""

    def setUp(self) -> None:
        self.clean()
        self.addCleanup(self.clean)

    def clean(self) -> None:
        for path in filter(Path.is_dir, RUN.glob("*")):
            while os.path.ismount(path):
                subprocess.run(["umount", "--lazy", path], check=True)
        for directory in (RUN, CGROUP):
            shutil.rmtree(directory, ignore_errors=True)
        CGROUP.mkdir()
        (CGROUP / "self").write_text("0::/\n")

    def groups(self, *names: str) -> list[Path]:
        """Make files that look like control groups of version 1; those by which processes enter them, then `names`."""
        lines = [f"6:freezer:{JOB}", "5:cpu,cpuacct:/x", "4:memory:/", "3:name=systemd:/", "0::/x"]
        (CGROUP / "self").write_text("".join(f"{line}\n" for line in lines))
        return self.files("freezer/cgroup.procs", f"freezer{JOB}/tasks", *names)

    def files(self, *names: str) -> list[Path]:
        found = [CGROUP / name for name in names]
        for path in found:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
        return found

    def job(self, number: int = 7) -> Path:
        return RUN / str(number)

    def wait_for(self, condition: Callable[[], bool], what: str) -> None:
        limit = time.monotonic() + SECONDS
        while not condition():
            self.assertLess(time.monotonic(), limit, f"in vain waited for {what}")
            time.sleep(0.01)


class Result:
    """What fake_slurm printed."""

    def __init__(self, output: str, errors: str = "") -> None:
        lines = output.splitlines()
        self.hooks = {name: int(rc) for name, _, rc in (line.partition(" ") for line in lines if " " in line)
                      if name.startswith("slurm_spank_")}  # fmt: skip
        self.accepted = "options 1" in lines
        self.environment = _assignments(lines, "env ")
        self.control = _assignments(lines, "control ")
        self.words = [line.removeprefix("word ") for line in lines if line.startswith("word ")]
        self.said = [line.removeprefix("said ") for line in lines if line.startswith("said ")]
        self.errors = errors


def _assignments(lines: list[str], prefix: str) -> dict[str, str]:
    chosen = [line.removeprefix(prefix).partition("=") for line in lines if line.startswith(prefix)]
    return {name: value for name, _, value in chosen}


def _argv(
    context: str,
    job: int,
    step: int,
    options: dict[str, str | None],
    arguments: tuple[str, ...] = (),
    quick: bool = False,
    uid: int = UID,
    **others: int,
) -> list[str]:
    given = [f"option:{name}" if value is None else f"option:{name}={value}" for name, value in options.items()]
    numbers = [f"job={job}", f"step={step}", f"uid={uid}", f"gid={GID}", f"groups={GID},5001,5002"]
    numbers += [f"{name}={value}" for name, value in others.items()]
    line = [f"argument:{text}" for text in arguments]
    return [*([] if quick else VALGRIND), str(CHECK / "fake_slurm"), str(PLUGIN), context, *numbers, *given, *line]


def call(
    context: str,
    options: dict[str, str | None] | None = None,
    environment: dict[str, str] | None = None,
    job: int = 7,
    cwd: Path = Path("/"),
    quick: bool = False,
    uid: int = UID,
    inside: tuple[str, ...] = (),
    arguments: tuple[str, ...] = (),
    **others: int,
) -> Result:
    """Call the hooks of a context that ends by itself; `quick`: valgrind, which takes a second or two, has seen it.
    `inside` is a program that runs another one; `others` are numbers of fake_slurm's. The command is in a job, unless
    the environment says otherwise."""
    done = subprocess.run(
        [*inside, *_argv(context, job, 0, options or {}, arguments, quick, uid, **others)],
        env={"PATH": os.environ["PATH"], **({"SLURM_JOB_ID": "7"} if environment is None else environment)},
        cwd=cwd,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise AssertionError(f"exit status {done.returncode}\n{done.stdout}{done.stderr}")
    return Result(done.stdout, done.stderr)


class Stepd:
    """A fake slurmstepd that has called the hooks of its beginning."""

    def __init__(self, process: subprocess.Popen[str], result: Result) -> None:
        self.process = process
        self.result = result
        self.said: list[str] = []
        """What was said to the user, once it has ended."""

    def children(self) -> list[int]:
        text = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text()
        return [int(pid) for pid in text.split()]

    def end(self) -> str:
        """Let it end as usual; returns what it wrote to standard error."""
        output, errors = self.process.communicate()
        if self.process.returncode:
            raise AssertionError(f"exit status {self.process.returncode}\n{errors}")
        self.said = Result(output).said
        return errors


@contextmanager
def stepd(
    options: dict[str, str | None] | None = None,
    environment: dict[str, str] | None = None,
    step: int = 0,
    job: int = 7,
    arguments: tuple[str, ...] = (),
    inside: tuple[str, ...] = (),
    words: tuple[str, ...] = (),
    **others: int,
) -> Iterator[Stepd]:
    process = subprocess.Popen(
        [
            *(*inside, *_argv("remote", job, step, options or {}, arguments, bool(inside), **others)),
            *(f"word:{word}" for word in words),
        ],
        env={"PATH": os.environ["PATH"], **(environment or {})},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    with process:
        assert process.stdout
        lines = []
        for line in process.stdout:
            if line == "ready\n":
                break
            lines.append(line)
        begun = Stepd(process, Result("".join(lines)))
        programs = begun.children()
        yield begun
        process.kill()
    # The helper takes its socket away at its end, which may be the next test's.
    limit = time.monotonic() + SECONDS
    while any(map(is_alive, programs)):
        assert time.monotonic() < limit, "what slurmstepd has begun does not end"
        time.sleep(0.01)


class Program:
    """helper or watcher, started as spawn.c does."""

    def __init__(self, name: str, *arguments: object, fds: tuple[int, ...] = ()) -> None:
        reading, self.lifeline = os.pipe()
        given = (reading, *fds)

        def place() -> None:
            signal.pthread_sigmask(signal.SIG_SETMASK, ALL_SIGNALS)
            os.setsid()
            os.setgroups([GID, 5001])
            # Last, as it closes what Popen waits for: it returns before the program has begun.
            high = [os.dup2(fd, 100 + index) for index, fd in enumerate(given)]
            for index, fd in enumerate(high):
                os.dup2(fd, 3 + index)
            os.closerange(3 + len(given), 1024)

        self.process = subprocess.Popen(
            [*VALGRIND, str(CHECK / "lib" / name), *map(str, arguments)],
            preexec_fn=place,
            close_fds=False,
            stdin=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        os.close(reading)

    def end(self) -> str:
        """Cut the lifeline and wait; returns what it wrote to standard error."""
        os.close(self.lifeline)
        _, errors = self.process.communicate(timeout=SECONDS)
        if self.process.returncode:
            raise AssertionError(f"exit status {self.process.returncode}\n{errors}")
        return errors


def status(pid: int) -> dict[str, str]:
    """The fields of /proc/PID/status; {} if there is no such process."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except (FileNotFoundError, ProcessLookupError):
        return {}
    return {name: value for name, _, value in (line.partition(":\t") for line in lines)}


def is_alive(pid: int) -> bool:
    return status(pid).get("State", "Z")[0] not in "ZX"


@contextmanager
def as_user(uid: int = UID, gid: int = GID) -> Iterator[None]:
    """Have this thread's effective ids be those of a user."""
    os.setegid(gid)
    os.seteuid(uid)
    try:
        yield
    finally:
        os.seteuid(0)
        os.setegid(0)


def connect(path: Path, order: bytes = b"", uid: int = UID) -> socket.socket:
    """Connect as a user."""
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    connection.settimeout(SECONDS)
    with as_user(uid):
        connection.connect(str(path))
    if order:
        connection.send(order)
    return connection
