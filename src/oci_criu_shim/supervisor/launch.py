"""Start a container under a supervisor, created by the backend or restored, on streams of our own."""

from __future__ import annotations

import os
import time

from oci_criu_shim import files
from oci_criu_shim.container.intake import Intake, resume
from oci_criu_shim.container.record import CONSOLE, INIT_PID, PID
from oci_criu_shim.container.stdio import Pipes, Stdio
from oci_criu_shim.errors import Misfit, ShimError, line_of
from oci_criu_shim.host import process
from oci_criu_shim.host.signals import START, Signals
from oci_criu_shim.supervisor.loop import Supervisor

TYPE_CHECKING = False
if TYPE_CHECKING:
    from oci_criu_shim.checkpoints.committed import Checkpoint
    from oci_criu_shim.container.plan import Plan
    from oci_criu_shim.container.record import Record
    from oci_criu_shim.container.terminal import Terminal
    from oci_criu_shim.restore.plan import Asked
    from oci_criu_shim.supervisor.attempts import Attempts
    from oci_criu_shim.task.ladder import Ladder


class Launch:
    """The run of the container of `plan`, whose id is reserved, from its start to its end."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.container = plan.container
        self.backend = plan.backend
        self.log = plan.log
        self.signals = Signals()
        self.pid_file = plan.pid_file or plan.container.path(INIT_PID)
        self.attempts: Attempts | None = None  # None if the job did not ask for checkpoints
        self.begun = ""  # when it was first created, if it is restored
        self.told = False  # whether the container was sent a signal that may have ended it
        self.rollback = False  # whether files that grew after the checkpoint are cut back
        self.owner = _slurmstepd() if plan.task else None
        self.orphaned = False  # whether slurmstepd was killed, and the container ended for it: it has not finished
        # The pipe by which `create` is told that `start` may come; None in the foreground, and once it was told.
        self.created: int | None = None
        self.keep = False

    def run(self, keep: bool = False) -> int:
        """Run it in the foreground; return its exit status. Remove it, unless it ran and is to be kept."""
        self.keep = keep
        try:
            return self._run()
        finally:
            if not (keep and self.backend.knows(self.container)):
                self._clear()

    def restore(self, checkpoint: Checkpoint, asked: Asked) -> int:
        """Run it from `checkpoint` in the foreground, and remove it; return its exit status."""
        try:
            running = self._restore(checkpoint, asked)
            process.fork(lambda: self._tell_of_restore(running[0], checkpoint))
            return self._supervise(*running)
        finally:
            self._clear()

    def create_in_background(self) -> int:
        """Create it in a background process, or hold it if it is to be restored; return the exit status.

        When it has ended, it stays as a stopped container until `delete`. If it could not be created, it is removed.
        """
        reader, writer = os.pipe()
        if pid := os.fork():
            os.close(writer)
            with open(reader, "rb") as stream:
                return 0 if stream.read() else process.exit_status(process.wait(pid))
        os.setsid()
        os.close(reader)
        self.created = writer
        status = 1
        try:
            status = self._run_in_background()
        finally:
            os._exit(status)

    def _run_in_background(self) -> int:
        proxy = None
        try:
            if path := self.plan.proxy:
                from oci_criu_shim.supervisor.proxy import Proxy

                proxy = Proxy(path)
                proxy.take_streams()
            status = self._run()
        except (ShimError, OSError) as error:
            self.log.error(line_of(error))
            self._clear()
            status = 1
        else:
            if self.created is not None:  # it was not
                self._clear()
        if proxy:
            proxy.tell(status)
        return status

    def _clear(self) -> None:
        """Remove all that is left of it. A failure is logged, and never changes the exit status."""
        try:
            if self.backend.knows(self.container):
                self._delete()
            self.container.release()
        except (ShimError, OSError) as error:
            self.log.error(f"container {self.container.name} has ended, and is not all removed: {line_of(error)}")

    def _tell_of_restore(self, pid: int, checkpoint: Checkpoint) -> int:
        from oci_criu_shim.container import checkpoint_hook

        reason = checkpoint.manifest.get("reason", "")
        checkpoint_hook.tell_of_restore(self.container, pid, self.backend, self.log, reason)
        return 0

    def _delete(self) -> None:
        """Have the backend forget it. Of a bare task that has ended, crun has no more than two files of ours."""
        if self.plan.bundle.is_bare and self.container.alive("init") is None:
            files.remove_tree(os.path.join(self.backend.root, self.container.name))
        else:
            self.backend.output("delete", "--force", self.container.name)

    def _run(self) -> int:
        """Run it, if it is to run at all; return the exit status of the task."""
        # From now on a preemption is told to this process (spank/watcher.c), which sees to it when the container runs.
        files.write_atomically(self.container.path(PID), str(os.getpid()).encode())
        if self.plan.task is None or not self.plan.task.asked:
            return self._create()
        from oci_criu_shim.supervisor.attempts import Attempts
        from oci_criu_shim.task.run import TaskRun

        try:
            run = TaskRun(self.plan, self.plan.task, self.signals)
        except Misfit as error:
            from oci_criu_shim.task import where

            if not where.go(self.container.root, self.plan.task, self.log, error):
                raise
            return self._moves()
        self.log, self.rollback = run.log, run.settings.rollback
        self.attempts = Attempts(run.policy, run.log)
        if (status := run.over()) is not None:
            self._pretend()
            run.wait_for_script()
            return status
        try:
            ladder = run.begin()
            status = self._climb(ladder) if ladder else self._create()
        except (ShimError, OSError) as error:
            run.log.note("failed", reason=line_of(error))
            raise
        run.ended(status, self.told, self.orphaned)
        return status

    def _climb(self, ladder: Ladder) -> int:
        """Run it from the first checkpoint that can be restored, or from its beginning; return its exit status.

        Raise ShimError if it can't go on.
        """
        from oci_criu_shim.checkpoints import committed

        self._hold()
        for path in ladder.rungs():
            try:
                running = self._restore(committed.read(path))
            except (ShimError, OSError) as error:
                if ladder.note_failure(path, error):
                    return self._moves()
            else:
                ladder.note_success(path)
                return self._supervise(*running)
        if ladder.try_elsewhere():
            return self._moves()
        ladder.require_fresh_start()
        return self._create()

    def _moves(self) -> int:
        """Wait until Slurm ends this run of the job, which was requeued to another node; return the exit status."""
        from oci_criu_shim.task import script_end

        script_end.wait_for_requeue(self.signals)
        return 1

    def _hold(self) -> None:
        """After `create`, be a created container until `start`, which then waits until the restored program runs."""
        if self.created is None:
            return
        self.container.save({**self._record(), "held": True})
        self._tell_create()
        self.signals.wait_for(START)

    def _pretend(self) -> None:
        """Let `create` and `start` succeed for a container that is not to run."""
        if self.created is not None:
            self._hold()
            self.container.update({"held": False})

    def _tell_create(self) -> None:
        assert self.created is not None
        os.write(self.created, b"c")
        os.close(self.created)
        self.created = None

    def _create(self) -> int:
        """Run it from its beginning; return its exit status."""
        self.log.note("started")
        self.begun = files.timestamp()
        taken = Intake(tell=self.log.error)
        stdio = self._terminal(taken) or Pipes(taken)
        self.container.update({**self._record(), "stdio": stdio.record()})
        if self.plan.bundle.is_bare:
            return self._start_bare(stdio)
        in_foreground = self.created is None and not self.keep and not self.plan.relays_terminal
        if in_foreground and self.backend.leaves_streams:
            return self._supervise(self._spawn(stdio, "run"), stdio)
        return self._create_detached(stdio)

    def _terminal(self, intake: Intake) -> Terminal | None:
        if not self.plan.relays_terminal:
            return None
        from oci_criu_shim.container.terminal import Terminal

        return Terminal(intake)

    def _create_detached(self, stdio: Stdio) -> int:
        """Have the backend create the container and exit, so that the container's init becomes a child of ours."""
        from oci_criu_shim.host import linux

        linux.become_subreaper()
        words, console = ["run", "--detach"] if self.created is None else ["create"], None
        if self.plan.relays_terminal:
            from oci_criu_shim.container.terminal import ConsoleSocket

            console = ConsoleSocket(self.container.path(CONSOLE))
            words.append(f"--console-socket={console.path}")
        status = process.wait(self._spawn(stdio, *words))
        if status:
            stdio.started()
            stdio.drain()
            return process.exit_status(status)
        if console:
            stdio.attach(console.master())
        init = files.read_number(self.pid_file)
        if process.start_time(init) is not None:
            self.container.update({"init": process.identity(init), "held": False})
        if self.created is not None:
            self._tell_create()
        return self._supervise(init, stdio)

    def _start_bare(self, stdio: Stdio) -> int:
        from oci_criu_shim.supervisor import bare

        init = bare.start(self.plan, stdio)
        files.write_atomically(self.pid_file, str(init).encode())
        self.container.update({"init": process.identity(init)})
        return self._supervise(init, stdio)

    def _spawn(self, stdio: Stdio, verb: str, *words: str) -> int:
        words = (*words, f"--pid-file={self.pid_file}", *self.plan.options)
        return self.backend.spawn(verb, *words, fds=stdio.inside)

    def _restore(self, checkpoint: Checkpoint, asked: Asked | None = None) -> tuple[int, Stdio]:
        """Restore it; return the pid of its init, and its streams."""
        from oci_criu_shim.restore import rollback
        from oci_criu_shim.restore.restore import Restore, pending_input

        begin, task, source = time.monotonic(), self.plan.task, checkpoint.manifest.get("source")
        taken = resume(source, pending_input(checkpoint), asked is None, self.log.error)
        cut = rollback.place(checkpoint, task) if task and self.rollback else None
        restored = Restore(self.plan, checkpoint, self.log, asked, cut)
        self.backend, self.begun = restored.backend, checkpoint.manifest.get("begun", "")
        stdio = self._terminal(taken) or Pipes(taken, checkpoint.manifest["streams"])
        self.container.update({**self._record(), "stdio": stdio.record()})  # hooks are told of it
        pid = restored.start(stdio)
        try:
            files.write_atomically(self.pid_file, str(pid).encode())
            self.container.save({**self._record(), "stdio": stdio.record(), "init": process.identity(pid)})
        except OSError:
            restored.end(pid)
            raise
        if self.attempts:
            self.attempts.restored(checkpoint.manifest.get("reason", ""))
        where = task.describe() if task else self.container.name
        text = f"restored {where} from {checkpoint.path} on {os.uname().nodename}"
        if asked:  # by the verb `restore`, which says nothing, like crun's and runc's
            self.log.debug(text)
        else:
            self.log.event(text, "restored", path=checkpoint.path, seconds=time.monotonic() - begin)
        return pid, stdio

    def _record(self) -> Record:
        return {**self.plan.record(self.begun), **self.backend.record(), "supervisor": process.identity(os.getpid())}

    def _supervise(self, main: int, stdio: Stdio) -> int:
        """Look after it until its end; return its exit status."""
        stdio.started()
        supervisor = Supervisor(
            *(self.container, main, self.pid_file, stdio, self.signals, self.log, self.attempts, self.owner)
        )
        status = supervisor.run()
        self.told = supervisor.told
        if stdio.lost:
            self.log.error(f"some of what {self.container.name} wrote is lost: {stdio.lost}")
        self.orphaned = self.owner is not None and supervisor.owner is None
        if self.orphaned:
            self.log.error(
                f"slurmstepd was killed, so {self.container.name} was ended: its job goes on if it is requeued"
            )
        return status


def _slurmstepd() -> int | None:
    """Return a pidfd of our parent if that is the step's slurmstepd; None if anything else called us."""
    parent = os.getppid()
    try:
        with open(f"/proc/{parent}/comm", encoding="utf-8") as stream:
            return os.pidfd_open(parent) if stream.read() == "slurmstepd\n" else None
    except (FileNotFoundError, ProcessLookupError):
        return None
