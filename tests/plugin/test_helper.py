"""The helper: to whom it lends which capabilities, in what surroundings, and for how long."""

from __future__ import annotations

import json
import os
import signal
import socket
import stat
from pathlib import Path
from typing import Any

from .support import (
    CGROUP,
    CHECK,
    EXTERN,
    GID,
    GROUP,
    JOB,
    OTHER_UID,
    SECONDS,
    UID,
    Case,
    Program,
    as_user,
    call,
    connect,
    is_alive,
    stepd,
)

CAP_SYS_CHROOT, CAP_SYS_ADMIN = 18, 21
DUMP = f"{1 << CAP_SYS_CHROOT | 1 << CAP_SYS_ADMIN:016x}"
KEY = "OCI_CRIU_SHIM_KEY"
NODES = "SLURM_JOB_NUM_NODES"


class Helper(Case):
    def setUp(self) -> None:
        super().setUp()
        call("prolog")
        self.job().chmod(0o755)
        self.path = self.job() / "helper.0.sock"
        self.entered = self.files("memory/tasks", "freezer/tasks")
        self.start(*self.entered)
        self.addCleanup(self.end_helper)

    def start(self, *groups: Path) -> None:
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_NONBLOCK)
        listener.bind(str(self.path))
        listener.listen()
        self.path.chmod(0o666)
        given = [listener.fileno(), *(os.open(path, os.O_WRONLY) for path in groups)]
        self.helper = Program("helper", 7, 0, UID, GID, GROUP, fds=tuple(given))
        listener.close()
        for descriptor in given[1:]:
            os.close(descriptor)

    def end_helper(self) -> str:
        return self.helper.end() if self.helper.process.poll() is None else ""

    def hold(self) -> tuple[socket.socket, int]:
        connection = connect(self.path, b"hold")
        self.addCleanup(connection.close)
        return connection, int(connection.recv(64))

    def descriptors(self) -> int:
        return len(os.listdir(f"/proc/{self.helper.process.pid}/fd"))

    def children(self) -> list[str]:
        pid = self.helper.process.pid
        return Path(f"/proc/{pid}/task/{pid}/children").read_text().split()

    def report(self) -> dict[str, Any]:
        with connect(self.path, b"report") as connection:
            found: dict[str, Any] = json.loads(connection.recv(1 << 16))
        return found

    def test_credentials(self) -> None:
        status = self.report()["status"]
        self.assertEqual(status["Uid"].split(), [str(UID)] * 4)
        self.assertEqual(status["Gid"].split(), [str(GID)] * 4)
        self.assertEqual(status["Groups"].split(), [str(GID), "5001"])
        for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"):
            self.assertEqual(status[name], DUMP, name)
        self.assertEqual(status["NoNewPrivs"], "1")

    def test_surroundings(self) -> None:
        found = self.report()
        found["environment"].pop(KEY)
        self.assertEqual(found["environment"], {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LANG": "C.UTF-8"})
        self.assertEqual(sorted(found["descriptors"]), ["0", "1", "2", "3"])
        self.assertEqual({found["descriptors"][fd] for fd in "012"}, {"/dev/null"})
        self.assertTrue(found["descriptors"]["3"].startswith("socket:"))
        self.assertEqual(found["command"], ["/usr/bin/python3", "-I", "-S", f"{CHECK}/lib/worker.py", "7", GROUP])
        self.assertEqual((found["directory"], found["core"], found["oom"]), ("/", [0, 0], 1000))
        self.assertTrue(found["session"])
        self.assertEqual(found["status"]["Umask"], "0077")
        self.assertEqual(int(found["status"]["SigBlk"], 16), 0)
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1):
            self.assertTrue(int(found["status"]["SigIgn"], 16) >> number - 1 & 1, number)

    def test_other_users_are_refused(self) -> None:
        for uid in (OTHER_UID, 0):
            with connect(self.path, uid=uid) as connection:
                self.assertEqual(connection.recv(64), b"")
        self.assertEqual(self.children(), [])
        self.assertIn(f"of user {OTHER_UID}", self.helper.end())

    def test_four_at_a_time(self) -> None:
        held = [self.hold() for _ in range(4)]
        with connect(self.path, b"report") as fifth:
            fifth.settimeout(1)
            with self.assertRaises(TimeoutError):
                fifth.recv(1 << 16)
            self.assertEqual(len(self.children()), 4)
            os.kill(held[0][1], 9)
            fifth.settimeout(SECONDS)
            self.assertTrue(fifth.recv(1 << 16))

    def test_nothing_is_left_over(self) -> None:
        self.report()
        before = self.descriptors()
        for _ in range(20):
            self.report()
        self.wait_for(lambda: not self.children(), "the workers to be reaped")
        self.assertEqual(self.descriptors(), before)

    def test_workers_enter_the_groups(self) -> None:
        for _ in range(2):
            self.report()
        self.assertEqual([path.read_text() for path in self.entered], ["00", "00"])

    def test_the_key(self) -> None:
        """All workers of a helper have one, and those of another one another."""
        first, second = (self.report()["environment"][KEY] for _ in range(2))
        self.helper.end()
        self.start(*self.entered)
        other = self.report()["environment"][KEY]
        self.assertEqual((first, len(bytes.fromhex(first))), (second, 32))
        self.assertNotEqual(first, other)

    def leave(self, more: bytes = b"") -> list[int]:
        """The pids of a worker and of what it leaves behind."""
        with connect(self.path, b"leave" + more) as connection:
            return list(json.loads(connection.recv(1 << 16)))

    def test_what_a_worker_leaves_behind_ends(self) -> None:
        pids = self.leave()
        self.wait_for(lambda: not any(map(is_alive, pids)), "all to end")
        self.report()

    def test_what_a_killed_worker_leaves_behind_ends(self) -> None:
        pids = self.leave(b", hold")
        self.assertTrue(all(map(is_alive, pids)))
        os.kill(pids[0], signal.SIGKILL)
        self.wait_for(lambda: not any(map(is_alive, pids)), "all to end")

    def test_all_ends_with_the_lifeline(self) -> None:
        pids = self.leave(b", hold")
        self.assertEqual(self.helper.end(), "")
        self.assertFalse(any(map(is_alive, pids)))

    def test_workers_end_with_a_killed_helper(self) -> None:
        _, worker = self.hold()
        self.helper.process.kill()
        self.helper.process.communicate()
        os.close(self.helper.lifeline)
        self.wait_for(lambda: not is_alive(worker), "the worker to end")

    def test_ends_with_the_lifeline(self) -> None:
        workers = [self.hold()[1] for _ in range(2)]
        self.assertEqual(self.helper.end(), "")
        self.assertEqual([is_alive(pid) for pid in workers], [False, False])
        self.assertFalse(self.path.exists())

    def test_other_signals_do_nothing(self) -> None:
        for number in (1, 2, 3, 15, 18, 20):
            os.kill(self.helper.process.pid, number)
        self.report()

    def test_no_worker_outside_of_the_groups(self) -> None:
        self.helper.end()
        self.start(self.entered[0], Path("/dev/full"))
        with connect(self.path) as connection:
            self.assertEqual(connection.recv(64), b"")
        self.assertIn("the control groups of job 7: No space left on device", self.helper.end())

    def test_refuses_nonsense(self) -> None:
        good = (7, 0, UID, GID, GROUP)
        for arguments in (good[:4], (7, 0, -1, GID, GROUP), (*good, 1), (7, 0, UID, GID, "/metrics"), good):
            with self.subTest(arguments=arguments):
                helper = Program("helper", *arguments, fds=(0,))
                self.assertEqual(helper.process.wait(SECONDS), 1)
                helper.process.communicate()
                os.close(helper.lifeline)


class Step(Case):
    """The plugin in a step; of control groups there are files here that look like them."""

    BATCH = 0xFFFFFFFB
    ASKED: dict[str, str | None] = {"checkpoint": None}

    def socket_path(self) -> Path:
        return self.job() / f"helper.{self.BATCH}.sock"

    def setUp(self) -> None:
        super().setUp()
        self.groups()
        call("prolog", self.ASKED)

    def test_asked(self) -> None:
        with stepd(self.ASKED, step=self.BATCH) as step:
            (pid,) = step.children()
            found = self.socket_path().stat()
            self.assertTrue(stat.S_ISSOCK(found.st_mode))
            self.assertEqual(found.st_uid, UID)
            with connect(self.socket_path(), b"report") as connection:
                report = json.loads(connection.recv(1 << 16))
            self.assertEqual(report["status"]["CapEff"], DUMP)
            self.assertEqual(report["status"]["Groups"].split(), [str(GID), "5001", "5002"])
            self.assertEqual(step.end(), "")
            self.wait_for(lambda: not is_alive(pid), "the helper to end")
        self.assertFalse(self.socket_path().exists())

    def test_two_lines_in_plugstack_conf(self) -> None:
        """Slurm calls each hook twice: there is one helper, and it serves."""
        with stepd(self.ASKED, step=self.BATCH, lines=2) as step:
            self.assertEqual(len(step.children()), 1)
            with connect(self.socket_path(), b"report") as connection:
                self.assertTrue(connection.recv(1 << 16))
            self.assertEqual(step.end(), "")

    def test_before_slurmd_has_loaded_the_plugin(self) -> None:
        """No prolog has made the job's directory."""
        call("epilog", self.ASKED)
        with stepd(self.ASKED, step=self.BATCH) as step:
            self.assertEqual(step.children(), [])
            self.assertIn("the socket of the helper of job 7: No such file or directory", step.end())

    def test_what_ran_outside_of_its_container(self) -> None:
        """It is said at the end."""
        conf = CHECK / "etc/slurm.conf"
        conf.parent.mkdir(exist_ok=True)
        conf.with_name("oci.conf").touch()
        for conf_path, container, said in (
            (str(conf), "/b", ""),
            ("/none/slurm.conf", "/b", "no oci.conf on"),
            ("/none/slurm.conf", "", ""),
        ):
            with self.subTest(said=said):
                given = {"SLURM_CONF": conf_path, **({"SLURM_CONTAINER": container} if container else {})}
                with stepd(self.ASKED, given) as step:
                    step.end()
                self.assertEqual(len(step.said), bool(said))
                self.assertIn(said, "".join(step.said))

    def test_tasks_without_a_container(self) -> None:
        """A program of ours is executed in the place of theirs, if the step asked for checkpoints."""
        ours, variable = str(CHECK / "lib/task"), "OCI_CRIU_SHIM_PROGRAM"
        for options, environment, step_id, words, taken in (
            (self.ASKED, {}, 0, ("program", "a b"), True),
            (self.ASKED, {}, self.BATCH, ("/spool/script",), True),
            (self.ASKED, {}, EXTERN, ("program",), False),
            (self.ASKED, {"SLURM_CONTAINER": "/b"}, 0, ("program",), False),
            ({}, {}, 0, ("program",), False),
            (self.ASKED, {}, 0, ("multi.conf", "0 one\n1 two"), False),
        ):
            with self.subTest(step=step_id, words=words, taken=taken):
                with stepd(dict(options), environment, step=step_id, words=words, lines=1 + taken) as step:
                    errors = step.end()
                first = step.result.words[0]
                self.assertEqual(first, ours if taken else words[0])
                self.assertEqual(step.result.environment.get(variable), words[0] if taken else None)
                self.assertEqual("--multi-prog" in errors, words[0] == "multi.conf")

    def test_not_asked(self) -> None:
        for options in ({}, {"checkpoint": "off"}):
            with stepd(dict(options), step=self.BATCH) as step:
                self.assertEqual(step.children(), [])
                self.assertEqual(os.listdir(self.job()), [])

    def test_ends_with_a_killed_slurmstepd(self) -> None:
        with stepd(self.ASKED, step=self.BATCH) as step:
            (pid,) = step.children()
            with connect(self.socket_path(), b"hold") as connection:
                worker = int(connection.recv(64))
            step.process.kill()
            self.wait_for(lambda: not is_alive(pid) and not is_alive(worker), "helper and worker to end")
        self.assertFalse(self.socket_path().exists())

    def place(self) -> tuple[int, str]:
        """The pid of a helper, one of whose workers has entered its groups, and the argument that names the job's."""
        with stepd(self.ASKED, step=self.BATCH) as step:
            (pid,) = step.children()
            with connect(self.socket_path(), b"report") as connection:
                command = json.loads(connection.recv(1 << 16))["command"]
            self.assertEqual(step.end(), "")
        return pid, command[-1]

    def test_groups(self) -> None:
        """The helper leaves the job's; a worker enters them, and none of a step's."""
        names = (f"memory{JOB}", f"memory{JOB}/step_extern", f"cpu,cpuacct{JOB}", "memory", "systemd")
        files = self.groups(*(f"{name}/tasks" for name in names))
        pid, named = self.place()
        self.assertEqual(named, GROUP)
        self.assertEqual([path.read_text() for path in files], [str(pid), "0", "0", "", "0", "", ""])

    def version_2(self, job: str) -> Path:
        """The job's group, which is called so."""
        (CGROUP / "self").write_text(f"0::/system.slice/slurmstepd.scope/{job}/step_batch/slurm\n")
        self.files("system.slice/slurmstepd.scope/system/cgroup.procs")
        return CGROUP / "system.slice/slurmstepd.scope" / job

    def test_groups_of_version_2(self) -> None:
        """A worker enters slurmstepd's own, which is among the job's, whatever that is called."""
        for name in ("job_7", "s1A2B3C"):
            with self.subTest(name=name):
                job = self.version_2(name)
                (entered,) = self.files(f"{job}/step_batch/slurm/cgroup.procs")
                pid, named = self.place()
                self.assertEqual(named, f":/{job.relative_to(CGROUP)}")
                self.assertEqual(entered.read_text(), "0")
                self.assertEqual((job.parent / "system/cgroup.procs").read_text(), str(pid))

    def test_no_dump_outside_of_the_groups(self) -> None:
        self.groups()
        (CGROUP / f"freezer{JOB}/tasks").unlink()
        self.refused()
        (CGROUP / "self").write_text("0::/\n")
        self.refused()
        self.version_2("job_7")
        self.refused()

    def refused(self) -> None:
        with stepd(self.ASKED, step=self.BATCH) as step:
            self.assertEqual(step.result.hooks["slurm_spank_init_post_opt"], 0)
            self.assertEqual(step.children(), [])
            self.assertIn("the control group of job 7: No such file or directory", step.end())
        self.assertFalse(self.socket_path().exists())

    def test_what_is_at_the_place_of_the_socket(self) -> None:
        outside = CHECK / "outside"
        outside.mkdir(exist_ok=True)
        (outside / "file").write_text("precious")
        with as_user():
            self.socket_path().symlink_to(outside / "file")
        with stepd(self.ASKED, step=self.BATCH) as step:
            self.assertEqual(len(step.children()), 1)
            self.assertTrue(stat.S_ISSOCK(self.socket_path().lstat().st_mode))
        self.assertEqual((outside / "file").read_text(), "precious")

    def test_a_step_without_its_helper_runs(self) -> None:
        with as_user():
            self.socket_path().mkdir()
        with stepd(self.ASKED, step=self.BATCH) as step:
            self.assertEqual(step.result.hooks["slurm_spank_init_post_opt"], 0)
            self.assertEqual(step.children(), [])
            self.assertIn("helper of job 7", step.end())

    def test_directory_of_another_user(self) -> None:
        os.chown(self.job(), OTHER_UID, GID)
        with stepd(self.ASKED, step=self.BATCH) as step:
            self.assertEqual(step.children(), [])
            self.assertEqual(os.listdir(self.job()), [])
