"""The program that stands for a container which Slurm creates and starts."""

from __future__ import annotations

import os
import signal
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.plugin.support import CHECK, Case

PROGRAM = str(CHECK / "lib" / "proxy")
SOCKET = CHECK / "proxy.sock"
LISTENER = 3
GO, GONE = CHECK / "proxy.go", CHECK / "proxy.gone"
# Slurm's code, which ends when the test says so.
WAITING = f"while [ ! -e {GO} ]; do sleep 0.01; done; touch {GONE}"
ALL = signal.valid_signals()


class Proxy(Case):
    @contextmanager
    def proxy(self, child: str) -> Iterator[int]:
        """The proxy of a shell that runs `child`, its output in the file `out`; its pid."""
        for path in (SOCKET, GO, GONE):
            path.unlink(missing_ok=True)
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener:
            listener.bind(str(SOCKET))
            listener.listen(1)
            pid = os.fork()
            if pid == 0:
                self.become(listener, child)
        try:
            yield pid
        finally:
            SOCKET.unlink()

    @staticmethod
    def become(listener: socket.socket, child: str) -> None:
        """As slurmstepd's task process does (spank/task.c)."""
        try:
            os.dup2(os.open(out(), os.O_WRONLY | os.O_CREAT | os.O_TRUNC), 1)
            signal.pthread_sigmask(signal.SIG_SETMASK, ALL)
            pid = os.fork()
            if pid == 0:
                signal.pthread_sigmask(signal.SIG_SETMASK, [])
                os.execv("/bin/sh", ["sh", "-c", child])
            os.dup2(listener.fileno(), LISTENER)
            os.set_inheritable(LISTENER, True)  # it may have been there already
            os.execv(PROGRAM, [PROGRAM, str(pid)])
        finally:
            os._exit(99)

    def status(self, pid: int) -> int:
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])

    def connect(self) -> tuple[socket.socket, list[int]]:
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        connection.connect(str(SOCKET))
        _, streams, _, _ = socket.recv_fds(connection, 1, 3)
        return connection, streams

    def test_without_a_runtime_it_ends_as_slurms_code(self) -> None:
        with self.proxy("exit 7") as pid:
            self.assertEqual(self.status(pid), 7)
        with self.proxy("kill -9 $$") as pid:
            self.assertEqual(self.status(pid), 128 + 9)

    def test_runtime_gets_streams_and_tells_the_status(self) -> None:
        with self.proxy(WAITING) as pid:
            connection, streams = self.connect()
            GO.touch()
            self.assertEqual(len(streams), 3)
            os.write(streams[1], b"the task's output")
            connection.send(bytes([42]))
            connection.close()
            for stream in streams:
                os.close(stream)
            self.assertEqual(self.status(pid), 42)
        self.assertEqual(out().read_text(), "the task's output")

    def test_outlasts_slurms_code_while_the_runtime_is_there(self) -> None:
        with self.proxy(WAITING) as pid:
            connection, streams = self.connect()
            GO.touch()
            self.wait_for(GONE.exists, "the end of Slurm's code")
            for stream in streams:
                os.close(stream)
            self.assertEqual(os.waitpid(pid, os.WNOHANG), (0, 0))
            connection.send(bytes([5]))
            self.assertEqual(self.status(pid), 5)
            connection.close()

    def test_says_that_a_status_is_unknown(self) -> None:
        with self.proxy(WAITING) as pid:
            connection, streams = self.connect()
            GO.touch()
            connection.close()
            for stream in streams:
                os.close(stream)
            self.assertEqual(self.status(pid), 1)

    def test_passes_signals_on_to_the_runtime(self) -> None:
        received: list[int] = []
        before = signal.signal(signal.SIGUSR1, lambda number, _: received.append(number))
        self.addCleanup(signal.signal, signal.SIGUSR1, before)
        with self.proxy(WAITING) as pid:
            connection, streams = self.connect()
            GO.touch()
            os.kill(pid, signal.SIGUSR1)
            self.wait_for(lambda: bool(received), "the signal")
            connection.send(bytes([0]))
            self.assertEqual(self.status(pid), 0)
            connection.close()
            for stream in streams:
                os.close(stream)

    def test_passes_signals_on_to_slurms_code_before(self) -> None:
        with self.proxy("trap 'exit 3' TERM; echo ready; while :; do sleep 0.01; done") as pid:
            self.wait_for(lambda: out().exists() and out().read_text() == "ready\n", "the child")
            os.kill(pid, signal.SIGTERM)
            self.assertEqual(self.status(pid), 3)


def out() -> Path:
    """The task's output."""
    return CHECK / "proxy.out"
