"""Keeps a TCP connection to another host open, but closes it for checkpoints: `connected.py ADDRESS PORT DIRECTORY`.

`connected.py DIRECTORY` is its hook: it has the other one close its connection, or open it again, and waits for that.
The state is in DIRECTORY, in `open` or `closed`, and the pid in `pid`.
"""

from __future__ import annotations

import os
import signal
import socket
import sys
import time


def keep(address: str, port: str, directory: str) -> None:
    """Never ends."""
    wanted = (signal.SIGUSR1, signal.SIGUSR2)
    signal.pthread_sigmask(signal.SIG_BLOCK, wanted)
    while True:
        with socket.create_connection((address, int(port)), 20):
            _note(directory, "open")
            while signal.sigwait(wanted) != signal.SIGUSR1:
                pass
        _note(directory, "closed")
        while signal.sigwait(wanted) != signal.SIGUSR2:
            pass


def _note(directory: str, state: str) -> None:
    with open(f"{directory}/pid", "w", encoding="ascii") as stream:
        stream.write(str(os.getpid()))
    for other in ("open", "closed"):
        if os.path.exists(f"{directory}/{other}"):
            os.unlink(f"{directory}/{other}")
    with open(f"{directory}/{state}", "x", encoding="ascii"):
        pass


def tell(directory: str) -> None:
    """Ends when it is done."""
    number, state = (
        (signal.SIGUSR1, "closed") if os.environ["OCI_CRIU_SHIM_HOOK"] == "pre-dump" else (signal.SIGUSR2, "open")
    )
    with open(f"{directory}/pid", encoding="ascii") as stream:
        os.kill(int(stream.read()), number)
    while not os.path.exists(f"{directory}/{state}"):
        time.sleep(0.01)
    print(os.environ["OCI_CRIU_SHIM_HOOK"], os.environ["OCI_CRIU_SHIM_REASON"], state)


if __name__ == "__main__":
    if sys.argv[2:]:
        keep(*sys.argv[1:])
    tell(*sys.argv[1:])
