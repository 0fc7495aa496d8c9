"""Start a bare task: a program over the node's own root file system, as its own user, in namespaces of its own.

No backend does that: crun can't make the node's root file system a container's (pivot_root(2) fails with EINVAL).
From then on it is a container like any other. crun is told that it has created it, and answers for it.
"""

from __future__ import annotations

import os

from oci_criu_shim.container import backends, bare, io_uring
from oci_criu_shim.container.bundle import Bundle
from oci_criu_shim.errors import Misfit, ShimError, line_of
from oci_criu_shim.host import linux, own_mounts, process, userns

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from oci_criu_shim.container.plan import Plan
    from oci_criu_shim.container.stdio import Stdio

FAULT = "!"  # begins a line of an answer that says what failed


def start(plan: Plan, stdio: Stdio) -> int:
    """Start the task on the streams of `stdio`; return the pid of its init, a child of ours.

    Raise Misfit if this node can't.
    """
    starter = _Starter(plan, stdio)
    linux.become_subreaper()  # for the init, whose parent ends
    pid = starter.run()
    backends.adopt(plan.backend, plan.container, plan.bundle, pid, "", starter.blocked)
    return pid


class _Starter:
    def __init__(self, plan: Plan, stdio: Stdio) -> None:
        self.plan = plan
        self.bundle = plan.bundle
        self.stdio = stdio
        if os.geteuid() == 0:
            raise ShimError("root's tasks are not run without a container", "run the program itself")
        self.argv = [*bare.init(), *plan.bundle.process["args"]]
        self.blocked = io_uring.filter_program(plan.given)
        self.terminals = _Sockets() if plan.relays_terminal else None
        self.reader, self.writer = os.pipe()

    def run(self) -> int:
        builder = process.fork(lambda: self._answering(self._build))
        os.close(self.writer)
        with open(self.reader, encoding="utf-8", errors="replace") as answer:
            lines = answer.read().splitlines()
            process.wait(builder)
            faults = [line.removeprefix(FAULT) for line in lines if line.startswith(FAULT)]
            if faults or not lines:
                said = f"{self.plan.container.name} can't be started: {' '.join(faults) or 'its builder was killed'}"
                raise Misfit(said, userns.HINT if "unshare" in said else "the node's log may say why")
            if self.terminals:
                self.stdio.attach(self.terminals.receive())
        return int(lines[0])

    def _answering(self, work: Callable[[], None]) -> int:
        """Do the work in a child, and say if it fails; return the exit status."""
        try:
            work()
        except (ShimError, OSError) as error:
            os.write(self.writer, f"{FAULT}{line_of(error) if isinstance(error, OSError) else error}\n".encode())
            return 1
        return 0

    def _build(self) -> None:
        """Make the task's namespaces around this process, and fork the init."""
        userns.enter()
        linux.unshare(linux.CLONE_NEWNS | linux.CLONE_NEWIPC | linux.CLONE_NEWPID)
        own_mounts.make(self.bundle.own_places)
        bare.make_directories(self.bundle)
        os.write(self.writer, f"{process.fork(lambda: self._answering(self._become))}\n".encode())

    def _become(self) -> None:
        """Be the init, and so the leader of a session; the user's own number has no rights here from the exec on."""
        os.setsid()
        own_mounts.make_of_namespaces()
        fds = self._terminal(self.terminals) if self.terminals else self.stdio.inside
        if self.blocked:
            linux.set_seccomp_filter(self.blocked)
        environment = Bundle(self.bundle.path, self.plan.given).environment()
        process.become(self.argv, environment, fds)

    def _terminal(self, terminals: _Sockets) -> dict[int, int]:
        """Make a terminal for the session, and send its master to the supervisor."""
        import fcntl
        import termios

        master, slave = os.openpty()
        fcntl.ioctl(slave, termios.TIOCSCTTY, 0)
        terminals.send(master)
        return dict.fromkeys(range(3), slave)


class _Sockets:
    """Two sockets, by which a child sends a descriptor to its parent."""

    def __init__(self) -> None:
        import socket  # it takes long to import, and a task without a terminal needs none

        self.ours, self.theirs = socket.socketpair()

    def send(self, descriptor: int) -> None:
        import socket

        socket.send_fds(self.theirs, [b"t"], [descriptor])

    def receive(self) -> int:
        import socket

        with self.ours, self.theirs:
            return socket.recv_fds(self.ours, 1, 1)[1][0]
