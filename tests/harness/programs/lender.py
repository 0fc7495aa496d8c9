"""Runs on a node as root, in the place of the step's helper: `lender.py SOCKET UID`.

Each connection gets a worker with the user's ids and the two capabilities of a dump.
"""

from __future__ import annotations

import os
import socket
import sys

WORKER = "/usr/lib/oci-criu-shim/worker.py"
ENVIRONMENT = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LANG": "C.UTF-8", "OCI_CRIU_SHIM_KEY": os.urandom(32).hex()}
LENT = "+sys_chroot,+sys_admin"


def lend(connection: int, uid: str) -> None:
    """Become the worker."""
    os.setsid()
    os.dup2(connection, 3)
    identity = [f"--reuid={uid}", f"--regid={uid}", "--clear-groups", "--no-new-privs"]
    capabilities = [f"--bounding-set=-all,{LENT}", f"--inh-caps={LENT}", f"--ambient-caps={LENT}"]
    argv = ["setpriv", *identity, *capabilities, "/usr/bin/python3", "-I", "-S", WORKER]
    os.execvpe(argv[0], argv, ENVIRONMENT)


def main() -> None:
    """Serve until killed."""
    path, uid = sys.argv[1:]
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    listener.bind(path)
    os.chown(path, int(uid), int(uid))
    listener.listen()
    print("ready", flush=True)
    while True:
        connection, _ = listener.accept()
        if os.fork() == 0:
            lend(connection.fileno(), uid)
        connection.close()
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass


if __name__ == "__main__":
    main()
