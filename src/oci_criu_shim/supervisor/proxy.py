"""Talk to the task's proxy, which takes the container's place if Slurm creates and starts it (spank/proxy.c).

Slurm's code for that gives `create` a pipe of Slurm's own instead of the task's streams, and waits until no process
holds it.
"""

from __future__ import annotations

import os
import socket

from oci_criu_shim.errors import ShimError


class Proxy:
    """A connection to the proxy that listens at `path` and serves one runtime. Raise ShimError if there is none."""

    def __init__(self, path: str) -> None:
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        try:
            self.socket.connect(path)
        except OSError as error:
            raise ShimError(f"the task's proxy at {path} does not answer: {error.strerror}") from None

    def take_streams(self) -> None:
        """Take the task's standard streams for our own."""
        _, streams, _, _ = socket.recv_fds(self.socket, 1, 3, socket.MSG_CMSG_CLOEXEC)
        if len(streams) != 3:
            raise ShimError("the task's proxy gave no streams")
        for number, stream in enumerate(streams):
            os.dup2(stream, number)
            os.close(stream)

    def tell(self, status: int) -> None:
        """Tell the proxy the exit status that the task is to have, if it is still there."""
        try:
            self.socket.send(bytes([status]))
        except OSError:
            pass
