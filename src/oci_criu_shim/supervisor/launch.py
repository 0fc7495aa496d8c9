"""Starting a container under a supervisor: created by the backend or restored, on streams of our own."""

from __future__ import annotations

import os
import time

from oci_criu_shim import files
from oci_criu_shim.container.stdio import Stdio
from oci_criu_shim.errors import ShimError, line_of
from oci_criu_shim.host import process
from oci_criu_shim.host.signals import START, Signals
from oci_criu_shim.supervisor import loop

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from oci_criu_shim.checkpoints.committed import Checkpoint
    from oci_criu_shim.container.terminal import Terminal
    from oci_criu_shim.restore.plan import Asked
    from oci_criu_shim.supervisor.lifecycle import Plan
    from oci_criu_shim.task.policy import Checkpointer


class Supervised:
    """The container of `plan`, whose id is reserved."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.container = plan.container
        self.backend = plan.backend
        self.task = plan.task
        self.log = plan.log
        self.signals = Signals()
        self.pid_file = plan.pid_file or plan.container.path("init.pid")
        self.checkpointer: Checkpointer | None = None  # None where the job did not ask for checkpoints
        self.told = False  # whether the container was sent a signal that may have ended it
        self.rollback = False  # whether files that grew after the checkpoint are cut back
        self.owner = _slurmstepd() if plan.task else None
        self.orphaned = False  # whether that was killed, and the container ended for it: it has not finished
        # In the background, until `create` was told that `start` may come: how it is told.
        self.created: Callable[[], None] | None = None
        self.keep = False

    def run(self, keep: bool = False) -> int:
        """Run it in the foreground; its exit status. Nothing of it is left then, unless it ran and is to be kept."""
        self.keep = keep
        try:
            return self._run()
        finally:
            if not (keep and self.backend.knows(self.container)):
                self._clear()

    def restore(self, checkpoint: Checkpoint, asked: Asked) -> int:
        """Run it from `checkpoint` in the foreground; its exit status. Nothing of it is left then."""
        try:
            return self.begin(checkpoint, asked)()
        finally:
            self._clear()

    def create_in_background(self) -> int:
        """Create it, or hold it where it is to be restored, in a process of its own; the exit status.

        When it has ended, it is stopped, until `delete`; it is gone where it could not be created.
        """
        reader, writer = os.pipe()
        if pid := os.fork():
            os.close(writer)
            with open(reader, "rb") as stream:
                return 0 if stream.read() else process.exit_status(process.wait(pid))
        os.setsid()
        os.close(reader)
        self.created = lambda: _tell(writer)
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
            if self.created:  # it was not
                self._clear()
        if proxy:
            proxy.tell(status)
        return status

    def _clear(self) -> None:
        """What can't be removed changes nothing about how the container ended."""
        try:
            if self.backend.knows(self.container):
                self.backend.output("delete", "--force", self.container.name)
            self.container.release()
        except (ShimError, OSError) as error:
            self.log.error(f"container {self.container.name} has ended, and is not all removed: {error}")

    def _run(self) -> int:
        # From now on a preemption is told to this process (spank/watcher.c), which sees to it when the container runs.
        files.write_atomically(self.container.path("pid"), str(os.getpid()).encode())
        if self.task is None or not self.task.asked:
            return self.create()
        from oci_criu_shim.task.life import CheckpointedTask

        task = CheckpointedTask(self.plan, self.task)
        self.checkpointer, self.log, self.rollback = task.checkpointer, task.log, task.settings.rollback
        return task.run(self)

    def create(self) -> int:
        """Run it from its beginning; its exit status."""
        self.log.note("started")
        stdio = self._terminal() or Stdio()
        self.container.update(**self._record(stdio=stdio.record()))
        if self.backend.leaves_streams and not self.created and not self.plan.relays_terminal and not self.keep:
            return self._supervise(self._spawn(stdio, "run"), stdio)
        return self._create_detached(stdio)

    def _terminal(self) -> Terminal | None:
        if not self.plan.relays_terminal:
            return None
        from oci_criu_shim.container.terminal import Terminal

        return Terminal()

    def _create_detached(self, stdio: Stdio) -> int:
        """Have the backend create the container and end, so that the container's init becomes a child of ours."""
        from oci_criu_shim.host import linux

        linux.become_subreaper()
        words, console = ["create"] if self.created else ["run", "--detach"], None
        if self.plan.relays_terminal:
            from oci_criu_shim.container.terminal import ConsoleSocket

            console = ConsoleSocket(self.container.path("console.sock"))
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
            self.container.update(init=process.identity(init), held=False)
        if self.created:
            self._tell_create()
        return self._supervise(init, stdio)

    def _spawn(self, stdio: Stdio, verb: str, *words: str) -> int:
        words = (*words, f"--pid-file={self.pid_file}", *self.plan.options)
        return self.backend.spawn(verb, *words, fds=stdio.inside)

    def hold(self) -> None:
        """Be a created container until `start`, which waits until what it is held for runs."""
        if not self.created:
            return  # it was not by `create`
        self.container.save(self._record(held=True))
        self._tell_create()
        self.signals.wait_for(START)

    def pretend(self) -> None:
        """Have `create` and `start` succeed for a container that is not to run."""
        if self.created:
            self.hold()
            self.container.update(held=False)

    def _tell_create(self) -> None:
        assert self.created is not None
        self.created()
        self.created = None

    def begin(self, checkpoint: Checkpoint, asked: Asked | None = None) -> Callable[[], int]:
        """Restore it; what then looks after it, to its end, and returns its exit status."""
        from oci_criu_shim.dump import open_files
        from oci_criu_shim.restore import restore
        from oci_criu_shim.restore.adopt import Restored

        begin = time.monotonic()
        restored = Restored(self.plan, checkpoint, self.log)
        self.backend = restored.backend
        stdio = self._terminal() or Stdio(restore.pending_input(checkpoint), checkpoint.manifest["streams"])
        self.container.update(**self._record(stdio=stdio.record()))  # what hooks are told of it
        cut = open_files.place(checkpoint, self.task) if self.task and self.rollback else None
        pid = restored.start(stdio, asked, cut)
        try:
            files.write_atomically(self.pid_file, str(pid).encode())
            self.container.save(self._record(stdio=stdio.record(), init=process.identity(pid)))
        except OSError:
            restored.end(pid)
            raise
        where = self.task.describe() if self.task else self.container.name
        text = f"restored {where} from {checkpoint.path} on {os.uname().nodename}"
        self.log.event(text, "restored", path=checkpoint.path, seconds=time.monotonic() - begin)
        return lambda: self._supervise(pid, stdio)

    def _record(self, **fields: object) -> dict[str, object]:
        record = self.plan.record(supervisor=process.identity(os.getpid()), **fields)
        return {**record, **self.backend.record()}

    def _supervise(self, main: int, stdio: Stdio) -> int:
        stdio.started()
        supervisor = loop.Supervisor(
            *(self.container, main, self.pid_file, stdio, self.signals, self.log),
            *(self.checkpointer, self._take, self.owner),
        )
        status = supervisor.run()
        self.told = supervisor.told
        if stdio.lost:
            self.log.error(f"some of what {self.container.name} wrote is lost: {stdio.lost}")
        self.orphaned = self.owner is not None and supervisor.owner is None
        if self.orphaned:
            self.log.error(f"slurmstepd was killed, so {self.container.name} was ended: a requeue has its job go on")
        return status

    def _take(self, reason: str) -> int:
        """In a child: see to it that a checkpoint is taken for `reason`."""
        from oci_criu_shim.task import preempt, take
        from oci_criu_shim.task.policy import ENDING, LOST
        from oci_criu_shim.task.schedule import LOOK

        assert self.checkpointer is not None
        if reason == LOOK:
            return take.look(self.checkpointer)
        status = (preempt.go if reason in ENDING else take.run_on)(self.checkpointer, reason)
        if status == LOST:
            preempt.lost(self.checkpointer)
        return status


def _slurmstepd() -> int | None:
    """A pidfd of our parent where that is the step's; None where anybody else called us."""
    parent = os.getppid()
    try:
        with open(f"/proc/{parent}/comm", encoding="utf-8") as stream:
            return os.pidfd_open(parent) if stream.read() == "slurmstepd\n" else None
    except (FileNotFoundError, ProcessLookupError):
        return None


def _tell(writer: int) -> None:
    os.write(writer, b"c")
    os.close(writer)
