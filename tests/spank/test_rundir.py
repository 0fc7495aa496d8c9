"""The run directory: made, cleared and removed, whatever a user has put there."""

from __future__ import annotations

import os
import stat
import subprocess
from pathlib import Path

from .support import CHECK, GID, RUN, UID, Case, as_user, call


class RunDirectory(Case):
    def setUp(self) -> None:
        super().setUp()
        self.outside = CHECK / "outside"
        subprocess.run(["rm", "-rf", self.outside], check=True)
        (self.outside / "precious").mkdir(parents=True)
        (self.outside / "precious" / "file").touch()
        subprocess.run(["chown", "-R", f"{UID}:{GID}", self.outside], check=True)

    def create(self, **options: str | None) -> None:
        result = call("prolog", dict(options))
        self.assertEqual(result.hooks, {"slurm_spank_job_prolog": 0}, result.errors)

    def remove(self) -> str:
        result = call("epilog")
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

    def test_create_and_remove(self) -> None:
        self.addCleanup(os.umask, os.umask(0o777))
        self.create()
        self.assert_fresh()
        self.assertEqual(self.remove(), "")
        self.assertFalse(RUN.exists())

    def test_marker(self) -> None:
        marker = RUN / "7.watch"
        for asked, options in (
            (True, {"checkpoint": "(null)"}),
            (False, {"checkpoint": "off"}),
            (True, {"checkpoint": "preempt"}),
            (False, {}),
            (False, {"checkpoint": "nonsense"}),
        ):
            with self.subTest(options=options):
                self.create(**options)
                self.assertEqual(marker.exists(), asked)
        self.create(checkpoint=None)
        self.assertEqual((marker.stat().st_uid, marker.stat().st_size), (0, 0))
        self.remove()
        self.assertFalse(RUN.exists())

    def test_other_jobs_stay(self) -> None:
        self.create()
        call("prolog", {"checkpoint": None}, job=8)
        self.remove()
        self.assertEqual(sorted(os.listdir(RUN)), ["8", "8.watch"])

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
            os.mkfifo(self.job() / "fifo")
            deep = self.job()
            for _ in range(200):
                deep = deep / "deep"
                deep.mkdir()

    def test_hostile_files_are_cleared(self) -> None:
        self.create()
        self.leave_hostile_files()
        self.create()
        self.assert_fresh()
        self.leave_hostile_files()
        self.assertEqual(self.remove(), "")
        self.assertFalse(RUN.exists())
        self.assertTrue((self.outside / "precious" / "file").exists())

    def test_half_checkpoints_are_removed(self) -> None:
        """What a link in a container's directory leads to, if that is a stage, and as the user that it belongs to."""
        kept = [self.outside / "precious", self.outside / "others" / ".stage.n1.1.1"]
        gone = [self.outside / ".stage.n1.2.3", self.outside / ".stage.n1 $(x).4.5"]
        for directory in (*kept, *gone):
            (directory / "checkpoint").mkdir(parents=True)
        subprocess.run(["chown", "-R", f"{UID}:{GID}", kept[0], *gone], check=True)
        self.create()
        with as_user():
            (self.job() / "container").mkdir()
            for number, directory in enumerate((*kept, *gone)):
                (self.job() / "container" / f"stage.{number}").symlink_to(directory)
            (self.job() / "container" / "stage.9").symlink_to(self.outside / ".stage.never")
        self.assertEqual(self.remove(), "")
        self.assertFalse(RUN.exists())
        self.assertEqual([path.exists() for path in (*kept, *gone)], [True, True, False, False])

    def program(self, name: str) -> Path:
        """In the place of a program: notes who called it, and how; what it has noted."""
        calls = CHECK / f"{name}.calls"
        calls.unlink(missing_ok=True)
        calls.touch()
        calls.chmod(0o666)
        program = CHECK / "bin" / name
        program.parent.mkdir(exist_ok=True)
        program.write_text(f'#!/bin/sh\necho "$(id -u) $*" >>{calls}\n')
        program.chmod(0o755)
        return calls

    def test_what_is_kept_for_the_job(self) -> None:
        """The runtime is asked at the job's end, which may be followed by another run."""
        calls = self.program("runtime")
        self.create()
        with as_user():
            (self.job() / "kept.1").symlink_to("/a place/7")
            (self.job() / "kept.2").symlink_to("-rf")
            (self.job() / "kept.3").touch()
        self.assertEqual(self.remove(), "")
        asked = [f"{UID} ckpt prune --completed -- {path}" for path in ("/a place/7", "-rf")]
        self.assertEqual(calls.read_text().splitlines(), asked)

    def test_a_requeued_job_is_released(self) -> None:
        """By the name that the runtime has noted: the number may be that of a whole array."""
        calls = self.program("scontrol")
        for noted, name in (("", "7"), ("JobId=7_3\n", "7_3"), ("JobId=7;$(id)\nx", "7;$(id)"), ("x", "7")):
            self.create()
            with as_user():
                (self.job() / "requeued").write_text(noted)
            self.assertEqual(self.remove(), "")
            self.assertEqual(calls.read_text(), f"{UID} update JobId={name} StartTime=now+3seconds\n")
            calls.write_text("")
        self.create()
        self.remove()
        self.assertEqual(calls.read_text(), "")

    def test_directory_of_another_user_is_cleared(self) -> None:
        self.create()
        (self.job() / "file").touch()
        os.chown(self.job(), 4444, 4444)
        self.create()
        self.assert_fresh()

    def test_half_made_directory(self) -> None:
        self.job().mkdir(parents=True, mode=0o000)
        self.create()
        self.assert_fresh()

    def test_what_root_has_left(self) -> None:
        """Containers of a job of his."""
        self.create()
        os.chown(self.job(), 0, 0)
        (self.job() / ".crun" / "one").mkdir(parents=True)
        self.assertEqual(self.remove(), "")
        self.assertFalse(RUN.exists())

    def test_what_is_mounted_on_the_directory(self) -> None:
        """By FUSE, its owner can do that: the node must not be drained for it."""
        self.create()
        for hook in (self.create, self.remove):
            for _ in range(2):
                options = f"uid={UID},gid={GID},mode=0"
                subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", self.job()], check=True)
            self.assertFalse(hook())
            self.assertFalse(os.path.ismount(self.job()))
        self.assertFalse(RUN.exists())

    def test_what_cannot_be_cleared_is_put_aside(self) -> None:
        self.create()
        (self.job() / "root").mkdir(mode=0o700)
        (self.job() / "root" / "file").touch()
        self.assertIn("not empty", self.remove().lower())
        result = call("prolog")
        self.assertEqual(result.hooks, {"slurm_spank_job_prolog": 0})
        self.assertIn("can't be removed", result.errors)
        self.assert_fresh()
        aside = [name for name in os.listdir(RUN) if name.startswith("7.left.")]
        self.assertEqual(len(aside), 1)

    def test_link_in_place_of_the_directory(self) -> None:
        """Only root can make it; nothing follows it all the same."""
        RUN.mkdir()
        self.job().symlink_to(self.outside)
        call("epilog")
        self.create()
        self.assert_fresh()

    def test_mounts_are_left_alone(self) -> None:
        """What a user may have mounted by FUSE."""
        self.create()
        mount = self.job() / "mount"
        mount.mkdir()
        subprocess.run(["mount", "-t", "tmpfs", "-o", f"uid={UID},gid={GID}", "tmpfs", mount], check=True)
        self.addCleanup(self.unmount)
        with as_user():
            (mount / "file").touch()
        self.assertNotEqual(self.remove(), "")
        self.assertTrue((mount / "file").exists())
        call("prolog")
        self.assert_fresh()
        self.assertEqual(len(list(RUN.glob("7.left.*/mount/file"))), 1)

    def unmount(self) -> None:
        for mount in RUN.glob("*/mount"):
            subprocess.run(["umount", mount], check=True)
