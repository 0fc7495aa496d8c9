"""Runs on a node as a job's user in place of the runtime: asks a step's helper for a dump, and aborts it.

`asking.py SOCKET PID DIRECTORY` asks for a dump of PID to DIRECTORY, and prints the worker's last answer.
"""

from __future__ import annotations

import json
import os
import socket
import sys


def main() -> None:
    """Ask, and say to what is written that it is no checkpoint."""
    path, pid, directory = sys.argv[1:]
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    connection.connect(path)
    given = [os.pidfd_open(int(pid)), os.open(directory, os.O_RDONLY)]
    socket.send_fds(connection, [json.dumps({"op": "dump", "leave_running": True}).encode()], given)
    answer = json.loads(connection.recv(1 << 16))
    if answer["event"] == "dumped":
        connection.send(json.dumps({"op": "abort"}).encode())
        answer = json.loads(connection.recv(1 << 16))
    print(answer["error"])


if __name__ == "__main__":
    main()
