"""The watcher: whom it signals, whom it doesn't, and when it ends."""

from __future__ import annotations

import os
import select
import shutil
import signal
import subprocess
from pathlib import Path

from .support import (
    CGROUP,
    CHECK,
    CHECKPOINT_SIGNAL,
    EXTERN,
    GID,
    OTHER_UID,
    SECONDS,
    UID,
    Case,
    Program,
    as_user,
    call,
    is_alive,
    status,
    stepd,
)

# Writes a byte for each signal of the checkpoint; "deaf" ones have not said what is to become of it.
RUNTIME = """
import os, signal, sys, time
if sys.argv[1] == "catch":
    signal.signal(signal.SIGRTMIN + 3, lambda *_: os.write(1, b"!"))
elif sys.argv[1] == "block":
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGRTMIN + 3})
os.write(1, b"r")
while sys.argv[1] == "block":
    time.sleep(0.01)
    if signal.sigpending():
        signal.sigwait({signal.SIGRTMIN + 3})
        os.write(1, b"!")
while True:
    signal.pause()
"""


class Runtime:
    """A process of the job that stands in for the runtime."""

    def __init__(self, kind: str = "catch", uid: int = UID) -> None:
        self.process = subprocess.Popen(
            ["/usr/bin/python3", "-I", "-S", "-c", RUNTIME, kind], stdout=subprocess.PIPE, user=uid, group=GID
        )
        assert self.process.stdout
        self.output = self.process.stdout.fileno()
        assert os.read(self.output, 1) == b"r"

    @property
    def pid(self) -> int:
        return self.process.pid

    def signals(self, seconds: float) -> bytes:
        """What came in, waiting for the first."""
        if not select.select([self.output], [], [], seconds)[0]:
            return b""
        return os.read(self.output, 64)

    def end(self) -> None:
        self.process.kill()
        self.process.communicate()


class Watcher(Case):
    def setUp(self) -> None:
        super().setUp()
        call("prolog", {"checkpoint": None})
        self.watcher: Program | None = None
        self.addCleanup(self.end_watcher)
        self.killed, self.kill = os.pipe()
        self.addCleanup(os.close, self.killed)
        self.addCleanup(os.close, self.kill)

    def runtime(self, kind: str = "catch", uid: int = UID) -> Runtime:
        runtime = Runtime(kind, uid)
        self.addCleanup(runtime.end)
        return runtime

    def container(self, name: str, text: str | bytes | None) -> Path:
        path = self.job() / name
        with as_user():
            path.mkdir()
            if text is not None:
                (path / "pid").write_bytes(text if isinstance(text, bytes) else text.encode())
        return path

    def start(self) -> Program:
        self.watcher = Program("watcher", 7, UID, GID, fds=(self.killed,))
        pid = self.watcher.process.pid
        self.wait_for(lambda: status(pid)["Uid"].split() == [str(UID)] * 4, "the watcher to become the user")
        self.wait_for(lambda: status(pid)["NoNewPrivs"] == "1", "the watcher to be ready")
        return self.watcher

    def end_watcher(self) -> None:
        if self.watcher and self.watcher.process.poll() is None:
            self.watcher.end()

    def test_tells_all_runtimes_each_time(self) -> None:
        runtimes = [self.runtime("catch"), self.runtime("block"), self.runtime("catch")]
        for index, runtime in enumerate(runtimes):
            self.container(f"c{index}", f"{runtime.pid}\n" if index else f"{runtime.pid}")
        watcher = self.start()
        for _ in range(2):
            watcher.process.send_signal(signal.SIGTERM)
            self.assertEqual([runtime.signals(SECONDS) for runtime in runtimes], [b"!"] * 3)
        self.assertEqual(watcher.end(), "")

    def test_the_signal_that_the_user_wants_of_slurm(self) -> None:
        """With PreemptParameters=send_user_signal, nothing else tells of a preemption."""
        runtime = self.runtime()
        self.container("c", str(runtime.pid))
        watcher = self.start()
        for number in (signal.SIGHUP, signal.SIGINT, signal.SIGUSR1, signal.SIGURG, signal.SIGXCPU, signal.SIGRTMIN):
            watcher.process.send_signal(number)
            self.assertEqual(runtime.signals(SECONDS), b"!", number)
        self.assertEqual(watcher.end(), "")

    def test_leaves_a_mark(self) -> None:
        watcher = self.start()
        self.assertFalse((self.job() / "signalled").exists())
        watcher.process.send_signal(signal.SIGTERM)
        self.wait_for((self.job() / "signalled").exists, "the mark")
        self.assertEqual((self.job() / "signalled").stat().st_uid, UID)
        self.assertEqual(watcher.process.wait(SECONDS), 0)

    def test_other_signals_do_nothing(self) -> None:
        runtime = self.runtime()
        self.container("c", str(runtime.pid))
        watcher = self.start()
        for other in (signal.SIGCONT, signal.SIGTSTP, signal.SIGTTIN, signal.SIGCHLD, signal.SIGWINCH):
            watcher.process.send_signal(other)
        self.assertEqual(runtime.signals(1), b"")
        self.assertIsNone(watcher.process.poll())
        watcher.process.send_signal(signal.SIGTERM)
        self.assertEqual(runtime.signals(SECONDS), b"!")

    def test_ends_with_its_step(self) -> None:
        """Which Slurm kills without it."""
        watcher = self.start()
        os.write(self.kill, b"!")
        self.assertEqual(watcher.process.wait(SECONDS), 0)
        self.assertEqual(watcher.end(), "")

    def test_ends_with_the_last_runtime(self) -> None:
        """Or Slurm waits a second for it."""
        runtimes = [self.runtime(), self.runtime()]
        containers = [self.container(f"c{index}", str(runtime.pid)) for index, runtime in enumerate(runtimes)]
        watcher = self.start()
        watcher.process.send_signal(signal.SIGTERM)
        for runtime, container in zip(runtimes, containers, strict=True):
            self.assertEqual(runtime.signals(SECONDS), b"!")
            self.assertIsNone(watcher.process.poll())
            shutil.rmtree(container)
        self.assertEqual(watcher.process.wait(SECONDS), 0)

    def test_ends_when_the_job_has_ended(self) -> None:
        self.container("c", str(self.runtime().pid))
        watcher = self.start()
        with as_user():
            (self.job() / "something").touch()
            (self.job() / "ended").touch()
        self.assertEqual(watcher.process.wait(SECONDS), 0)

    def test_ends_when_the_job_is_requeued(self) -> None:
        runtime = self.runtime()
        self.container("c", str(runtime.pid))
        watcher = self.start()
        watcher.process.send_signal(signal.SIGTERM)
        self.assertEqual(runtime.signals(SECONDS), b"!")
        with as_user():
            (self.job() / "new").write_text("JobId=7\n")
            (self.job() / "new").rename(self.job() / "requeued")
        self.assertEqual(watcher.process.wait(SECONDS), 0)

    def test_stays_without_runtimes_after_other_signals(self) -> None:
        watcher = self.start()
        watcher.process.send_signal(signal.SIGUSR1)
        self.wait_for((self.job() / "signalled").exists, "the mark")
        runtime = self.runtime()
        self.container("c", str(runtime.pid))
        watcher.process.send_signal(signal.SIGTERM)
        self.assertEqual(runtime.signals(SECONDS), b"!")

    def test_privileges(self) -> None:
        watcher = self.start()
        found = status(watcher.process.pid)
        self.assertEqual((found["Gid"].split(), found["Groups"].split()), ([str(GID)] * 4, []))
        for name in ("CapInh", "CapPrm", "CapEff", "CapAmb"):
            self.assertEqual(int(found[name], 16), 0, name)
        self.assertEqual(found["NoNewPrivs"], "1")

    def test_processes_that_do_not_expect_it(self) -> None:
        """A number left behind may be another process's by now."""
        deaf, stranger, runtime = self.runtime("deaf"), self.runtime(uid=OTHER_UID), self.runtime()
        for index, process in enumerate((deaf, stranger, runtime)):
            self.container(f"c{index}", str(process.pid))
        watcher = self.start()
        watcher.process.send_signal(signal.SIGTERM)
        self.assertEqual(runtime.signals(SECONDS), b"!")
        self.assertTrue(is_alive(deaf.pid))
        self.assertEqual(stranger.signals(0.5), b"")

    def test_garbage(self) -> None:
        spared, runtime = self.runtime(), self.runtime()
        pid = str(spared.pid)
        garbage: list[str | bytes] = [
            *("", "\n", "0", "1", "-1", f"-{pid}", f"+{pid}", f" {pid}", f"{pid} ", f"0{pid}", f"0x{int(pid):x}"),
            *(f"{pid}x", f"x{pid}", "9" * 15, "9" * 100, "18446744073709551616", str((1 << 32) + spared.pid)),
            *(pid.encode() + b"\0", pid.encode() + b"\0\n", b"\xff" * 8, b"9" * (1 << 20), "4194305"),
        ]
        for index, text in enumerate(garbage):
            self.container(f"g{index}", text)
        self.container("nothing", None)
        outside = CHECK / "outside"
        outside.mkdir(exist_ok=True)
        (outside / "pid").write_text(pid)
        with as_user():
            os.mkfifo(self.container("fifo", None) / "pid")
            (self.container("directory", None) / "pid").mkdir()
            (self.container("link", None) / "pid").symlink_to(outside / "pid")
            (self.container("loop", None) / "pid").symlink_to("pid")
            (self.container("tty", None) / "pid").symlink_to("/dev/tty")
            (self.job() / "linked").symlink_to(outside)
            (self.job() / "file").write_text(pid)
            (self.job() / "pid").write_text(pid)
        self.container("zz", str(runtime.pid))
        watcher = self.start()
        watcher.process.send_signal(signal.SIGTERM)
        self.assertEqual(runtime.signals(SECONDS), b"!")
        self.assertEqual(spared.signals(0.5), b"")
        self.assertEqual(watcher.end(), "")

    def test_no_directory(self) -> None:
        call("epilog")
        watcher = self.start()
        watcher.process.send_signal(signal.SIGTERM)
        watcher.end()

    def test_refuses_root_and_nonsense(self) -> None:
        for numbers in ((7, 0, GID), (7, UID), (7, -1, GID), (7, UID, 1 << 32)):
            with self.subTest(numbers=numbers):
                watcher = Program("watcher", *numbers, fds=(self.killed,))
                self.assertEqual(watcher.process.wait(SECONDS), 1)
                watcher.process.communicate()
                os.close(watcher.lifeline)


class ExternStep(Case):
    """The plugin in an extern step; of control groups there are files here that look like them."""

    def version_1(self) -> Path:
        (CGROUP / "self").write_text("6:freezer:/slurm/uid_4242/job_7\n4:memory:/\n0::/\n")
        group = CGROUP / "freezer/slurm/uid_4242/job_7/step_extern"
        group.mkdir(parents=True)
        (group / "cgroup.procs").touch()
        return group / "cgroup.procs"

    def test_watched_job(self) -> None:
        processes = self.version_1()
        call("prolog", {"checkpoint": None})
        with stepd(step=EXTERN) as step:
            self.assertEqual(step.result.hooks["slurm_spank_init_post_opt"], 0)
            (pid,) = step.children()
            self.assertEqual(processes.read_text(), str(pid))
            self.assertEqual(step.end(), "")
            self.wait_for(lambda: not is_alive(pid), "the watcher to end")

    def test_version_2(self) -> None:
        """Whatever the name of the job's group is, and on a kernel that can't kill by groups."""
        call("prolog", {"checkpoint": None})
        for job in ("job_7", "s7HNM8KNWEHA00"):
            (CGROUP / "self").write_text(f"0::/system.slice/slurmstepd.scope/{job}/step_extern/slurm\n")
            with stepd(step=EXTERN) as step:
                self.assertEqual(len(step.children()), 1)
                self.assertEqual(step.end(), "")

    def test_killed_by_its_group(self) -> None:
        """The watcher is in slurmstepd's leaf, and cgroup.kill reaches only that of the step's other processes."""
        group = "system.slice/slurmstepd.scope/s7HNM8KNWEHA00/step_extern"
        (CGROUP / "self").write_text(f"0::/{group}/slurm\n")
        (kill,) = self.files(f"{group}/user/cgroup.kill")
        call("prolog", {"checkpoint": None})
        with stepd(step=EXTERN) as step:
            (pid,) = step.children()
            kill.write_text("1")
            self.wait_for(lambda: not is_alive(pid), "the watcher to end")
            self.assertEqual(step.end(), "")

    def test_unwatched_job_has_none(self) -> None:
        """Nor has one without a prolog: with PrologFlags=RunInJob, Slurm 24.11 and 26.05 call none of a plugin."""
        self.version_1()
        with stepd(step=EXTERN) as step:
            self.assertEqual(step.children(), [])
        for options in ({}, {"checkpoint": "off"}):
            call("prolog", dict(options))
            with stepd(step=EXTERN) as step:
                self.assertEqual(step.children(), [])
                self.assertEqual(step.end(), "")

    def test_ends_with_a_killed_slurmstepd(self) -> None:
        self.version_1()
        call("prolog", {"checkpoint": None})
        with stepd(step=EXTERN) as step:
            (pid,) = step.children()
            step.process.kill()
            self.wait_for(lambda: not is_alive(pid), "the watcher to end")

    def test_untracked(self) -> None:
        call("prolog", {"checkpoint": None})
        with stepd(step=EXTERN) as step:
            self.assertEqual(step.result.hooks["slurm_spank_init_post_opt"], 0)
            self.assertIn("watcher of job 7", step.end())

    def test_signal_number(self) -> None:
        self.assertEqual(CHECKPOINT_SIGNAL, 37)
