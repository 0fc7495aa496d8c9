"""The starter's side of the keeper: start it, hold its lifeline, send it requests."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from .errors import ClusterError
from .lock import locked
from .process import spawn
from .rootfs import Progress
from .settings import REPOSITORY, Instance
from .sweep import forget, sweep
from .waiting import patient, wait_for


class Lifeline:
    """While it is open and its process lives, the instance lives."""

    def __init__(self, instance: Instance, keeper: subprocess.Popen[bytes]) -> None:
        self._instance = instance
        self._keeper = keeper
        self._kept = False

    def send(self, line: str) -> None:
        assert self._keeper.stdin
        self._keeper.stdin.write(line.encode() + b"\n")
        self._keeper.stdin.flush()

    def follow(self, progress: Progress) -> None:
        """Read the keeper's reports until the nodes have booted. Raise ClusterError with what went wrong."""
        assert self._keeper.stdout
        for line in self._keeper.stdout:
            message: dict[str, Any] = json.loads(line)
            if "error" in message:
                raise ClusterError(message["error"], message["hint"])
            if "up" in message:
                return
            progress(message["progress"])
        raise ClusterError("the cluster's keeper ended without a word")

    def keep(self) -> None:
        """Let the instance outlive this process."""
        self.send("keep")
        self._kept = True

    def close(self) -> None:
        """Let go; unless it is kept, return when nothing of the instance is left."""
        assert self._keeper.stdin and self._keeper.stdout
        with suppress(BrokenPipeError):
            self._keeper.stdin.close()
        self._keeper.stdout.close()
        if not self._kept and self._keeper.wait() < 0:
            sweep_dead(self._instance)


def start_keeper(instance: Instance, request: Mapping[str, object], progress: Progress) -> Lifeline:
    """Start a keeper and return when the nodes have booted. Raise ClusterError."""
    argv = ["unshare", "--net", "--", sys.executable, "-m", "tests.harness.cluster.keeper"]
    pipe = subprocess.PIPE
    keeper = spawn(argv, stdin=pipe, stdout=pipe, stderr=None, cwd=REPOSITORY, new_session=True)
    lifeline = Lifeline(instance, keeper)
    try:
        lifeline.send(json.dumps(request))
        lifeline.follow(progress)
    except BaseException:
        lifeline.close()
        raise
    return lifeline


def ask(instance: Instance, request: Mapping[str, str]) -> None:
    """Send the keeper a request and wait until it is done. Raise ClusterError, also if nobody listens."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as connection:
        connection.settimeout(patient(30))
        try:
            connection.connect(str(instance.control))
        except (FileNotFoundError, ConnectionRefusedError):
            raise ClusterError(f"cluster {instance.name} is not up", "see `list`") from None
        connection.send(json.dumps(request).encode())
        answer: dict[str, str] = json.loads(connection.recv(65536) or b"{}")
    if "error" in answer:
        raise ClusterError(answer["error"], answer["hint"])


def is_up(name: str) -> bool:
    """Whether a keeper serves this name."""
    lock = Instance(name).lock
    if not lock.exists():
        return False
    try:
        with locked(lock, wait=False):
            forget(Instance(name))
            return False
    except BlockingIOError:
        return True


def sweep_dead(instance: Instance) -> None:
    """Sweep what a killed keeper left. Do nothing if the name is in use again."""
    with suppress(BlockingIOError), locked(instance.lock, wait=False):
        sweep(instance)
        forget(instance)


def take_down(name: str, timeout: float = 30.0) -> None:
    """Take down the cluster of this name, whatever state it is in. Raise ClusterError after timeout seconds."""
    instance = Instance(name)
    if is_up(name):
        ask(instance, {"do": "down"})
        wait_for(lambda: not is_up(name), timeout, f"the end of cluster {name}")
    with locked(instance.lock):
        sweep(instance)
        forget(instance)
