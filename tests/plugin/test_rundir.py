"""The run directory: made, cleared and removed, whatever a user has put there."""

from __future__ import annotations

import errno
import os
import shutil
import stat
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from .support import CHECK, GID, OTHER_UID, PLUGIN, RUN, SECONDS, UID, Case, as_user, call, is_alive, status, stepd

MIB = 1 << 20
NOBODY = 65534

# What a process of the same user can do to the process argv[1]: prints what it was let.
TRACER = """
import ctypes, os, sys
ptrace = ctypes.CDLL(None).ptrace
ptrace.argtypes = [ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p]
pid = int(sys.argv[1])
for name, request in ("attach", 16), ("seize", 0x4206):
    if ptrace(request, pid, None, None) == 0:
        print(name)
        break
for name in "environ", "mem", "maps", "fd", "cwd", "root":
    path = f"/proc/{pid}/{name}"
    try:
        os.readlink(path) if name in ("cwd", "root") else os.listdir(path) if name == "fd" else open(path, "rb")
        print(name)
    except PermissionError:
        pass
"""

STOPPER = """
import os, signal
while True:
    try:
        os.kill(-1, signal.SIGSTOP)
    except ProcessLookupError:
        pass
"""

# Attaches as root, and leaves the process that it traces to be waited for.
HOLDER = """
import ctypes, sys, time
ptrace = ctypes.CDLL(None).ptrace
ptrace.argtypes = [ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p]
assert ptrace(0x4206, int(sys.argv[1]), None, None) == 0
print(flush=True)
time.sleep(600)
"""


class Place(Case):
    """What tests of the directory of job 7 share."""

    def setUp(self) -> None:
        super().setUp()
        self.groups()
        self.outside = CHECK / "outside"
        subprocess.run(["rm", "-rf", self.outside], check=True)
        (self.outside / "precious").mkdir(parents=True)
        (self.outside / "precious" / "file").touch()
        subprocess.run(["chown", "-R", f"{UID}:{GID}", self.outside], check=True)

    def create(self, options: dict[str, str | None] | None = None, quick: bool = False) -> None:
        result = call("prolog", options, quick=quick)
        self.assertEqual((result.hooks, result.errors), ({"slurm_spank_job_prolog": 0}, ""))

    def remove(self, *arguments: str, quick: bool = False) -> str:
        result = call("epilog", quick=quick, arguments=arguments)
        self.assertEqual(result.hooks, {"slurm_spank_job_epilog": 0})
        return result.errors

    def assert_owned(self, path: Path, uid: int, gid: int, mode: int) -> None:
        found = path.lstat()
        self.assertTrue(stat.S_ISDIR(found.st_mode))
        self.assertEqual((found.st_uid, found.st_gid, stat.S_IMODE(found.st_mode)), (uid, gid, mode))

    def assert_fresh(self) -> None:
        self.assert_owned(RUN, 0, 0, 0o755)
        self.assert_owned(self.job(), UID, GID, 0o700)
        self.assertEqual(os.listdir(self.job()), [])
        self.assertTrue((self.outside / "precious" / "file").exists())

    def uncover(self) -> None:
        """Take away the mount that the prolog has made."""
        subprocess.run(["umount", self.job()], check=True)

    def cover(self) -> None:
        """Mount what stands in for a FUSE mount of the user's on the job's directory."""
        subprocess.run(["mount", "-t", "ramfs", "-o", "mode=700", "ramfs", self.job()], check=True)
        os.chown(self.job(), UID, GID)

    def link(self, name: str, target: Path | str) -> None:
        with as_user():
            (self.job() / name).parent.mkdir(exist_ok=True)
            (self.job() / name).symlink_to(target)

    def program(self, name: str, script: str = "") -> Path:
        """In the place of a program: notes who called it, and how; what it has noted."""
        calls = CHECK / f"{name}.calls"
        calls.unlink(missing_ok=True)
        calls.touch()
        calls.chmod(0o666)
        program = CHECK / "bin" / name
        program.parent.mkdir(exist_ok=True)
        program.write_text(f'#!/bin/sh -p\necho "$(/usr/bin/id -u) $*" >>{calls}\n{script}')
        program.chmod(0o755)
        self.addCleanup(program.unlink)
        return calls

    def sleep(self, script: str = "") -> Path:
        """In the place of sleep(1), for all: what happens meanwhile, at once; what it has noted."""
        calls = self.program("sleep", script)
        place = str(shutil.which("sleep", path="/bin"))
        subprocess.run(["mount", "--bind", CHECK / "bin" / "sleep", place], check=True)
        # What has done its work in its place may have yet to end.
        self.addCleanup(lambda: subprocess.run(["umount", "--lazy", place], check=True))
        return calls


class RunDirectory(Place):
    def test_create_and_remove(self) -> None:
        self.addCleanup(os.umask, os.umask(0o777))
        self.create()
        self.assert_fresh()
        self.assertEqual(self.remove(), "")
        self.assertFalse(RUN.exists())

    def test_it_is_a_small_file_system_of_its_own(self) -> None:
        self.create()
        self.assertTrue(os.path.ismount(self.job()))
        found = os.statvfs(self.job())
        self.assertEqual((found.f_blocks * found.f_frsize, found.f_files), (256 * MIB, 65536))
        self.assertEqual(found.f_flag & 0b1110, os.ST_NOSUID | os.ST_NODEV | os.ST_NOEXEC)
        self.uncover()
        self.assert_owned(self.job(), 0, 0, 0)

    def test_whose_it_is_is_on_record(self) -> None:
        """For root's programs, which take it from nowhere else."""
        self.addCleanup(os.umask, os.umask(0o777))
        record = RUN / "7.owner"
        for _ in range(2):
            self.create()
            self.assertEqual(record.read_text(), f"{UID} {GID}\n")
            found = record.lstat()
            self.assertEqual((found.st_uid, found.st_gid, found.st_mode), (0, 0, stat.S_IFREG | 0o644))
            record.unlink()
            record.symlink_to(self.outside / "precious" / "file")
        self.remove()
        self.assertFalse(RUN.exists())
        self.assertEqual((self.outside / "precious" / "file").read_text(), "")

    def test_marker(self) -> None:
        marker = RUN / "7.watch"
        for asked, when in ((True, "(null)"), (False, "off"), (True, "preempt"), (False, None), (False, "nonsense")):
            with self.subTest(when=when):
                call("prolog", {"checkpoint": when} if when else {})
                self.assertEqual(marker.exists(), asked)
        self.create({"checkpoint": None})
        self.assertEqual((marker.stat().st_uid, marker.stat().st_size), (0, 0))
        self.remove()
        self.assertFalse(RUN.exists())

    def test_other_jobs_stay(self) -> None:
        self.create()
        call("prolog", {"checkpoint": None}, job=8)
        self.remove()
        self.assertEqual(sorted(os.listdir(RUN)), ["8", "8.owner", "8.watch"])

    def leave_hostile_files(self) -> None:
        with as_user():
            (self.job() / "link").symlink_to(self.outside)
            (self.job() / "up").symlink_to("../..")
            (self.job() / "container").mkdir()
            (self.job() / "container" / "link").symlink_to(self.outside / "precious")
            (self.job() / "-rf").touch()
            (self.job() / "locked" / "work").mkdir(parents=True)
            (self.job() / "locked" / "work" / "file").touch()
            (self.job() / "locked" / "work").chmod(0)
            (self.job() / "locked").chmod(0)
            os.mkfifo(self.job() / "requeued")
            (self.job() / "stage.1").symlink_to("requeued")
            deep = self.job()
            for _ in range(200):
                deep = deep / "deep"
                deep.mkdir()
        # As a container does whose user has ranges of ids.
        (self.job() / "others" / "below").mkdir(parents=True)
        (self.job() / "others" / "below" / "file").touch()
        for path in (self.job() / "others").rglob("*"):
            os.chown(path, 100005, 100005)
        os.chown(self.job() / "others", 100000, 100000)

    def test_hostile_files_are_cleared(self) -> None:
        self.create()
        self.leave_hostile_files()
        self.create()
        self.assert_fresh()
        self.leave_hostile_files()
        self.assertEqual(self.remove(), "")
        self.assertFalse(RUN.exists())
        self.assertTrue((self.outside / "precious" / "file").exists())

    def test_a_full_directory_is_nobody_elses_affair(self) -> None:
        self.create()
        call("prolog", job=8)
        with as_user():
            with self.assertRaises(OSError) as caught, (self.job() / "file").open("wb", buffering=0) as stream:
                while True:
                    stream.write(bytes(MIB))
            self.assertEqual(caught.exception.errno, errno.ENOSPC)
            (self.job(8) / "file").write_bytes(bytes(MIB))
        with self.assertRaises(OSError) as caught:
            for number in range(65536):
                (self.job(8) / str(number)).touch()
        self.assertEqual(caught.exception.errno, errno.ENOSPC)
        self.assertEqual(self.remove(), "")
        call("epilog", job=8)
        self.assertFalse(RUN.exists())

    def test_half_made_directory(self) -> None:
        self.job().mkdir(parents=True, mode=0o000)
        self.create()
        self.assert_fresh()

    def test_what_root_has_left(self) -> None:
        """Containers of a job of root's."""
        call("prolog", uid=0)
        (self.job() / ".crun" / "one").mkdir(parents=True)
        call("epilog", uid=0)
        self.assertFalse(RUN.exists())

    def assert_told(self, hook: str) -> None:
        """The hook does its work, and its log says that nothing in there was heeded."""
        result = call(hook)
        self.assertEqual(result.hooks, {f"slurm_spank_job_{hook}": 0})
        told = f"{self.job()} is not the file system that was made for job 7: nothing in it counts"
        self.assertEqual(result.errors, f"error: oci-criu-shim: {told}\n")

    def test_what_is_mounted_on_the_directory(self) -> None:
        """By FUSE, its owner can do that: the node must not be drained for it."""
        calls = self.program("scontrol")
        self.create()
        for hook in ("prolog", "epilog"):
            for _ in range(2):
                self.cover()
            (self.job() / "requeued").touch()
            self.assert_told(hook)
            self.assertFalse(os.path.ismount(self.job()) and os.listdir(self.job()))
        self.assertFalse(RUN.exists())
        self.assertEqual(calls.read_text(), "")

    @contextmanager
    def silence(self) -> Iterator[None]:
        """A file system on the directory that never answers, as any user may mount one where /etc/fuse.conf says
        user_allow_other. After SECONDS it is gone, so that whatever asks it fails."""
        fuse = os.open("/dev/fuse", os.O_RDWR)
        options = f"fd={fuse},rootmode=40000,user_id={UID},group_id={GID},allow_other"
        argv = ["mount", "--internal-only", "-t", "fuse", "-o", options, "silence", str(self.job())]
        subprocess.run(argv, check=True, pass_fds=[fuse])
        timer = threading.Timer(SECONDS, os.close, [fuse])
        timer.start()
        try:
            yield
        finally:
            timer.cancel()
            with suppress(OSError):
                os.close(fuse)

    def test_what_never_answers_is_not_asked(self) -> None:
        self.create()
        for hook in ("prolog", "epilog"):
            begun = time.monotonic()
            with self.silence():
                with stepd({"checkpoint": None}) as step:
                    self.assertEqual(step.children(), [])
                    self.assertIn("helper of job 7", step.end())
                self.assert_told(hook)
            self.assertLess(time.monotonic(), begun + SECONDS)
        self.assertFalse(RUN.exists())

    def test_what_is_mounted_in_the_directory(self) -> None:
        self.create()
        mount = self.job() / "mount"
        mount.mkdir()
        subprocess.run(["mount", "--bind", self.outside / "precious", mount], check=True)
        self.assertEqual(self.remove(), "")
        self.assertFalse(RUN.exists())
        self.assertTrue((self.outside / "precious" / "file").exists())

    def test_what_was_not_made_for_the_job_is_left_alone(self) -> None:
        """A directory that is not root's, or a link: nothing is run as its owner, and it keeps no job from starting."""
        calls = [self.program("scontrol"), self.program("runtime")]
        for uid in (UID, 4444):
            self.create()
            self.uncover()
            (self.job() / "requeued").touch()
            (self.job() / "kept.1").symlink_to("/place")
            os.chown(self.job(), uid, GID)
            self.job().chmod(0o755)
            self.assertIn("7 is not what was made for the job, and is left alone", self.remove())
            self.assertEqual(sorted(os.listdir(RUN)), ["7"])
            self.assertEqual(sorted(os.listdir(self.job())), ["kept.1", "requeued"])
            result = call("prolog")
            self.assertEqual(result.hooks, {"slurm_spank_job_prolog": 0})
            self.assertIn("is left alone", result.errors)
            self.assert_fresh()
            (aside,) = RUN.glob("7.left.*")
            self.assertEqual(sorted(os.listdir(aside)), ["kept.1", "requeued"])
            self.clean()
        self.assertEqual([file.read_text() for file in calls], ["", ""])

    def test_what_is_somebody_elses(self) -> None:
        """Nothing is run as who owns it, even if that is root, nor as the job's user."""
        calls = self.program("scontrol")
        for uid in (0, OTHER_UID):
            self.create()
            (self.job() / "requeued").touch()
            os.chown(self.job(), uid, GID)
            self.assert_told("epilog")
            self.assertFalse(RUN.exists())
        self.assertEqual(calls.read_text(), "")

    def test_link_in_place_of_the_directory(self) -> None:
        """Only root can make it; nothing follows it all the same."""
        RUN.mkdir()
        self.job().symlink_to(self.outside)
        call("epilog")
        call("prolog")
        self.assert_fresh()


class Links(Place):
    def test_half_checkpoints_are_removed(self) -> None:
        """What a link in a container's directory leads to, if that is a stage, and as the job's user."""
        kept = [self.outside / "precious", self.outside / "others" / ".stage.n1.1.1", self.outside / ".stage.n1.6.6"]
        gone = [self.outside / ".stage.n1.2.3", self.outside / ".stage.n1 $(x).4.5"]
        for directory in (*kept, *gone):
            (directory / "checkpoint").mkdir(parents=True)
        subprocess.run(["chown", "-R", f"{UID}:{GID}", kept[0], kept[2], *gone], check=True)
        refused = [f"{kept[0]}/../.stage.n1.6.6", f"..{kept[2]}", f"{kept[2]}/..", f"{kept[2]}/checkpoint"]
        self.create()
        for number, target in enumerate((*map(str, kept[:2] + gone), *refused, f"{self.outside}/.stage.never")):
            self.link(f"container/stage.{number}", target)
        self.assertEqual(self.remove(), "")
        self.assertFalse(RUN.exists())
        self.assertEqual([path.exists() for path in (*kept, *gone)], [True] * 3 + [False] * 2)
        self.assertTrue((kept[2] / "checkpoint").exists())

    def test_those_of_an_earlier_run(self) -> None:
        """Which had no epilog, as its node was given up."""
        calls = [self.program("scontrol"), self.program("runtime")]
        stage = self.outside / ".stage.n1.2.3"
        self.create()
        with as_user():
            stage.mkdir()
            (self.job() / "requeued").touch()
        arrived = self.outside / ".stage.n1.4.5"
        with as_user():
            arrived.mkdir()
        self.link("container/stage.1", stage)
        self.link("stage.2", arrived)
        self.link("kept.1", "/place")
        self.create()
        self.assert_fresh()
        self.assertFalse(stage.exists())
        self.assertFalse(arrived.exists())
        self.assertEqual([file.read_text() for file in calls], ["", f"{UID} ckpt prune --completed -- /place\n"])

    def test_what_is_kept_for_the_job(self) -> None:
        """The runtime is asked at the job's end, which may be followed by another run."""
        calls = self.program("runtime")
        self.create()
        self.link("kept.1", "/a place/7")
        self.link("kept.2", "-rf")
        self.link("kept.3", "/place/../7")
        self.link("kept.4", "/place/..")
        with as_user():
            (self.job() / "kept.5").touch()
        self.assertEqual(self.remove(), "")
        self.assertEqual(calls.read_text(), f"{UID} ckpt prune --completed -- /a place/7\n")

    def test_so_many_and_no_more(self) -> None:
        calls = self.program("runtime")
        self.create()
        for number in range(300):
            self.link(f"kept.{number}", "/place")
        self.remove(quick=True)
        self.assertLessEqual(calls.read_text().count("\n"), 256)
        self.assertGreater(calls.read_text().count("\n"), 0)


class Received(Place):
    """What a job has received into the node's memory for another one."""

    def setUp(self) -> None:
        super().setUp()
        self.received = self.outside / "received"

    def receive(self, *names: str) -> None:
        self.create(quick=True)
        with as_user():
            (self.received / "1").mkdir(parents=True)
            for name in names:
                (self.received / "1" / name).touch()
        self.link("received.1", self.received)

    def wait_gone(self) -> None:
        self.wait_for(lambda: not self.received.exists(), "its end")

    def test_it_waits_for_the_other_job(self) -> None:
        """And nobody waits for that: the epilog is over before."""
        over = self.outside / "over"
        calls = self.sleep(f"until [ -e {over} ]; do :; done\n")
        self.receive("manifest.json")
        self.remove(quick=True)
        self.assertFalse(RUN.exists())
        self.wait_for(lambda: bool(calls.read_text()), "the wait")
        self.assertTrue((self.received / "1" / "manifest.json").exists())
        over.touch()
        self.wait_gone()
        self.assertEqual(calls.read_text(), f"{UID} 20\n")

    def test_what_the_other_job_has_taken(self) -> None:
        """By renaming it. What has its name then shows when it would have gone."""
        taken = self.outside / "taken"
        self.sleep(f"mv {self.received} {taken} && mkdir {self.received}\n")
        self.receive("manifest.json")
        self.remove(quick=True)
        self.wait_for(taken.exists, "the other job")
        self.wait_gone()
        self.assertEqual(os.listdir(taken / "1"), ["manifest.json"])

    def test_half_of_it(self) -> None:
        calls = self.sleep()
        self.receive("pages-1.img")
        self.remove(quick=True)
        self.wait_gone()
        self.assertEqual(calls.read_text(), "")

    def test_that_of_an_earlier_run(self) -> None:
        calls = self.sleep()
        self.receive("manifest.json")
        self.create(quick=True)
        self.wait_gone()
        self.assert_fresh()
        self.assertEqual(calls.read_text(), "")

    def test_what_links_may_not_lead_to(self) -> None:
        self.receive()
        refused = [f"{self.received}/../precious", "../precious", f"{self.outside}/precious/.."]
        for number, target in enumerate(refused, 2):
            self.link(f"received.{number}", target)
        self.remove(quick=True)
        self.wait_gone()
        self.assertTrue((self.outside / "precious" / "file").exists())


class Local(Place):
    """A checkpoint that is on the node alone."""

    def setUp(self) -> None:
        super().setUp()
        self.base = self.outside / "oci-criu-shim.7.batch.0.x"
        self.create(quick=True)
        self.link("local.1", self.base)

    def test_it_is_copied(self) -> None:
        """While the epilog waits, and before the job can begin again."""
        calls = self.program("runtime")
        self.remove()
        self.assertEqual(calls.read_text(), f"{UID} ckpt drain -- {self.base}\n")
        self.assertFalse(RUN.exists())

    def test_that_of_an_earlier_run(self) -> None:
        calls = self.program("runtime")
        self.create(quick=True)
        self.assert_fresh()
        self.assertEqual(calls.read_text(), "")

    def test_how_long_it_may_take(self) -> None:
        """USER_SECONDS are 4 in tests."""
        self.program("runtime", "/bin/sleep 6\n")
        for seconds, is_ended in ((0, True), (60, False)):
            with self.subTest(seconds=seconds):
                said = self.remove(f"local-seconds={seconds}", quick=True)
                self.assertEqual("took too long" in said, is_ended, said)
                self.create(quick=True)
                self.link("local.2", self.base)


class Requeued(Place):
    def mark(self, text: str) -> None:
        self.create(quick=True)
        with as_user():
            (self.job() / "requeued").write_text(text)

    def test_a_requeued_job_is_released(self) -> None:
        """By the name that the runtime has noted: the number may be that of a whole array."""
        calls = self.program("scontrol")
        for noted, name in (("", "7"), ("JobId=7_3\n", "7_3"), ("JobId=7;$(id)\nx", "7;$(id)"), ("x", "7")):
            self.mark(noted)
            self.assertEqual(self.remove(), "")
            self.assertEqual(calls.read_text(), f"{UID} update JobId={name} StartTime=now+3seconds\n")
            calls.write_text("")
        self.create()
        self.remove()
        self.assertEqual(calls.read_text(), "")

    def test_where_it_is_to_run(self) -> None:
        calls = self.program("scontrol")
        self.mark("JobId=7\nExcNodeList=\nReqNodeList=n1\nFeatures=a&b\nFeatures=c\nPriority=1\n")
        self.remove(quick=True)
        settings = ("StartTime=now+3seconds", "ExcNodeList=", "ReqNodeList=n1", "Features=a&b")
        self.assertEqual(calls.read_text().splitlines(), [f"{UID} update JobId=7 {setting}" for setting in settings])

    def updates(self, count: int, then: str, later: str = "", word: str = "") -> list[str]:
        """What is asked of a job that still has another epilog, then the state `then`, and at last `later`, if that is
        looked at. The mark may have a `word`."""
        asked = CHECK / "squeue.calls"
        self.program(
            "squeue", f"case $(wc -l <{asked}) in 1) echo COMPLETING ;; 2) echo {then} ;; *) echo {later}; esac\n"
        )
        calls = self.program("scontrol")
        self.mark(f"JobId=7_3\n{word}\n")
        self.remove(quick=True)
        self.assertFalse(self.job().exists())
        looks = 3 if later else 2
        self.wait_for(lambda: asked.read_text().count("\n") == looks, "the last look")
        self.wait_for(lambda: calls.read_text().count("\n") == count, "the last update")
        self.assertEqual(asked.read_text(), f"{UID} --noheader --jobs=7_3 --format=%T\n" * looks)
        return [line.removeprefix(f"{UID} update JobId=7_3 ") for line in calls.read_text().splitlines()]

    def test_it_begins_as_soon_as_its_epilogs_are_over(self) -> None:
        """This one is, before that is known."""
        self.assertEqual(self.updates(2, "PENDING", "RUNNING"), ["StartTime=now+3seconds", "StartTime=now+1"])

    def test_it_was_looked_at_too_early(self) -> None:
        wanted = ["StartTime=now+3seconds", "StartTime=now+1", "StartTime=now"]
        self.assertEqual(self.updates(3, "PENDING", "PENDING"), wanted)

    def test_it_begins_elsewhere(self) -> None:
        """Where no launch can be taken for one of before."""
        wanted = ["StartTime=now+3seconds", "StartTime=now"]
        self.assertEqual(self.updates(2, "PENDING", word="elsewhere"), wanted)

    def test_it_has_begun(self) -> None:
        self.assertEqual(self.updates(1, "RUNNING"), ["StartTime=now+3seconds"])

    def test_a_job_that_is_expedited(self) -> None:
        """Slurm makes it eligible at once, unless it is told when."""
        calls = self.program("scontrol")
        for noted, settings in (("", ()), ("ExcNodeList=n1\n", ("ExcNodeList=n1",))):
            self.mark(f"JobId=7\nexpedited\n{noted}")
            self.remove(quick=True)
            self.assertEqual(calls.read_text(), "".join(f"{UID} update JobId=7 {setting}\n" for setting in settings))

    def test_no_more_is_read_than_the_runtime_writes(self) -> None:
        calls = self.program("scontrol")
        self.mark("JobId=" + "7" * (8 * MIB))
        self.remove(quick=True)
        self.assertEqual(calls.read_text(), f"{UID} update JobId={'7' * (4096 - 6)} StartTime=now+3seconds\n")

    def test_what_is_no_file(self) -> None:
        calls = self.program("scontrol")
        self.create(quick=True)
        with as_user():
            os.mkfifo(self.job() / "requeued")
        self.assertEqual(self.remove(quick=True), "")
        self.assertEqual(calls.read_text(), "")


class Programs(Place):
    """What is run as the user is ended in time, and is nobody's but root's to see."""

    HANGS = "setsid sleep 601 &\nsleep 602\n"

    def setUp(self) -> None:
        super().setUp()
        self.create_with_a_link()

    def create_with_a_link(self) -> None:
        self.create(quick=True)
        with as_user():
            (self.job() / "kept.1").symlink_to("/place")

    def running(self, *words: str) -> list[int]:
        """The processes with this command line."""
        found = []
        for path in Path("/proc").glob("[0-9]*/cmdline"):
            try:
                if path.read_bytes().split(b"\0")[:-1] == [word.encode() for word in words]:
                    found.append(int(path.parent.name))
            except (FileNotFoundError, ProcessLookupError):
                continue
        return [pid for pid in found if is_alive(pid)]

    @contextmanager
    def epilog(self) -> Iterator[subprocess.Popen[str]]:
        """While its runtime sleeps."""
        argv = [f"{CHECK}/fake_slurm", str(PLUGIN), "epilog", "job=7", f"uid={UID}", f"gid={GID}"]
        with subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
            self.wait_for(lambda: all(self.running("sleep", which) for which in ("601", "602")), "the runtime")
            yield process

    def test_what_hangs_is_ended_and_with_it_all_it_has_started(self) -> None:
        self.program("runtime", self.HANGS)
        with self.epilog() as process:
            _, errors = process.communicate(timeout=SECONDS)
        self.assertIn("job 7 as its user took too long, and was ended", errors)
        self.assertEqual((self.running("sleep", "601"), self.running("sleep", "602")), ([], []))
        self.assertFalse(RUN.exists())

    def test_all_together_have_one_budget(self) -> None:
        """The first may take all of it."""
        calls = self.program("runtime", self.HANGS)
        with as_user():
            for number in range(2, 6):
                (self.job() / f"kept.{number}").symlink_to("/place")
        self.assertIn("took too long", self.remove(quick=True))
        self.assertEqual(calls.read_text().count("\n"), 1)

    def test_what_goes_into_the_background_goes(self) -> None:
        self.program("runtime", "setsid sleep 603 &\n")
        self.assertEqual(self.remove(), "")
        self.assertEqual(self.running("sleep", "603"), [])

    def test_a_user_who_stops_all_of_it(self) -> None:
        """Whatever it is at: each time at another point of its beginning."""
        self.program("runtime", self.HANGS)
        argv = ["/usr/bin/python3", "-I", "-S", "-c", STOPPER]
        with subprocess.Popen(argv, user=UID, group=GID, extra_groups=[]) as stopper:
            try:
                for _ in range(3):
                    self.assertIn("took too long", self.remove(quick=True))
                    self.create_with_a_link()
            finally:
                stopper.kill()

    def test_what_cannot_be_ended_holds_nothing_up(self) -> None:
        """A dead process that somebody else is to wait for is to its namespace as one that waits for a disk."""
        self.program("runtime", self.HANGS)
        with self.epilog() as process:
            (pid,) = self.running("sleep", "601")
            argv = ["/usr/bin/python3", "-I", "-S", "-c", HOLDER, str(pid)]
            with subprocess.Popen(argv, stdout=subprocess.PIPE) as holder:
                assert holder.stdout
                holder.stdout.readline()
                try:
                    _, errors = process.communicate(timeout=SECONDS)
                    self.assertEqual(status(pid)["State"][0], "Z")
                finally:
                    holder.kill()
        self.assertIn("took too long", errors)
        self.assertFalse(RUN.exists())

    def descendants(self, pid: int) -> list[int]:
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        return [found for child in map(int, children) for found in (child, *self.descendants(child))]

    def may(self, pid: int) -> list[str]:
        """What another process of the user may do to this one."""
        argv = ["/usr/bin/python3", "-I", "-S", "-c", TRACER, str(pid)]
        done = subprocess.run(argv, user=UID, group=GID, extra_groups=[], capture_output=True, text=True, check=True)
        return done.stdout.split()

    def test_the_user_may_not_trace_them(self) -> None:
        self.program("runtime", self.HANGS)
        with self.epilog() as process:
            guard, *ours = self.descendants(process.pid)
            self.assertEqual(status(guard)["Uid"].split(), ["0"] * 4)
            self.assertGreaterEqual(len(ours), 3)  # the shell, the runtime and what this has started
            for pid in ours:
                found = status(pid)
                self.assertEqual(found["Uid"].split(), [str(UID)] * 4)
                self.assertEqual(found["Gid"].split(), [str(NOBODY), *[str(GID)] * 3])
                self.assertEqual((found["Groups"].split(), int(found["CapEff"], 16)), ([], 0))
                self.assertEqual(self.may(pid), [], Path(f"/proc/{pid}/cmdline").read_text())
            process.communicate(timeout=SECONDS)

    def test_the_user_may_trace_his_own(self) -> None:
        """As is the case where the test before tells something."""
        with subprocess.Popen(["sleep", "60"], user=UID, group=GID, extra_groups=[]) as process:
            self.wait_for(lambda: status(process.pid)["Name"] == "sleep", "sleep to run")
            self.assertEqual(self.may(process.pid), ["attach", "environ", "mem", "maps", "fd", "cwd", "root"])
            process.kill()

    def test_what_they_write_is_the_users(self) -> None:
        """Their group's, too, whatever their real one is."""
        self.program("runtime", f"echo >{self.outside}/made\n")
        self.assertEqual(self.remove(), "")
        found = (self.outside / "made").stat()
        self.assertEqual((found.st_uid, found.st_gid), (UID, GID))

    def test_root_is_a_job_of_his_own_only(self) -> None:
        self.remove(quick=True)
        calls = self.program("runtime")
        for uid in (0, UID):
            call("prolog", uid=uid, quick=True)
            with as_user(uid):
                (self.job() / "kept.1").symlink_to("/place")
            call("epilog", uid=uid, quick=True)
        self.assertEqual([line.split()[0] for line in calls.read_text().splitlines()], ["0", str(UID)])


class Namespaces(Place):
    """Mount namespaces of slurmd's own, and of jobs (job_container/tmpfs)."""

    ASKED: dict[str, str | None] = {"checkpoint": None}

    @contextmanager
    def namespace(self) -> Iterator[tuple[str, ...]]:
        """A private one, which sees nothing that is mounted elsewhere later: what runs a program in it."""
        argv = ["unshare", "--mount", "--propagation=private", "sh", "-c", "echo; exec sleep 600"]
        with subprocess.Popen(argv, stdout=subprocess.PIPE) as process:
            assert process.stdout
            process.stdout.readline()
            try:
                yield "nsenter", f"--target={process.pid}", "--mount", "--root", "--wd=/", "--"
            finally:
                process.kill()

    def assert_helped(self, inside: tuple[str, ...]) -> None:
        """A step in there has its helper's socket in the job's one directory."""
        with stepd(self.ASKED, inside=inside) as step:
            self.assertEqual(len(step.children()), 1)
            listed = subprocess.run([*inside, "ls", self.job()], capture_output=True, text=True, check=True).stdout
            self.assertEqual(listed, "helper.0.sock\n")
            self.assertEqual(step.end(), "")

    def test_slurmd_has_its_own(self) -> None:
        with self.namespace() as inside:
            call("prolog", self.ASKED, quick=True, inside=inside)
            self.assertFalse(os.path.ismount(self.job()))
            self.assert_owned(self.job(), 0, 0, 0)
            self.assert_helped(inside)
            result = call("epilog", quick=True, inside=inside)
            self.assertEqual(result.errors, "")
        self.assertFalse(RUN.exists())

    def test_a_job_has_its_own(self) -> None:
        self.create()
        with self.namespace() as inside:
            self.assert_helped(inside)
            self.assertEqual(self.remove(), "")
            self.assertFalse(RUN.exists())
