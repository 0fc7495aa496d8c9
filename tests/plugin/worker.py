"""Stands in for the privileged worker: does what the first message says. Its answers are JSON."""

import json
import os
import resource
import signal
import socket
import time


def report() -> dict[str, object]:
    with open("/proc/self/status") as file:
        status = dict(line.rstrip("\n").split(":\t", 1) for line in file if ":\t" in line)
    descriptors = {}
    for fd in range(64):
        try:
            descriptors[fd] = os.readlink(f"/proc/self/fd/{fd}")
        except FileNotFoundError:
            continue
    with open("/proc/self/oom_score_adj") as file:
        oom = int(file.read())
    with open("/proc/self/cmdline") as file:
        command = file.read().split("\0")[:-1]
    return {
        "status": status,
        "descriptors": descriptors,
        "environment": dict(os.environ),
        "directory": os.getcwd(),
        "core": resource.getrlimit(resource.RLIMIT_CORE),
        "oom": oom,
        "command": command,
        "session": os.getsid(0) == os.getpid(),
    }


def hold() -> None:
    while True:
        time.sleep(60)


def leave(depth: int) -> list[int]:
    """Have a process with a session of its own hold, and another below it, and so on; their pids."""
    reader, writer = os.pipe()
    if not os.fork():
        os.setsid()
        below = leave(depth - 1) if depth else []
        os.write(writer, json.dumps([os.getpid(), *below]).encode())
        hold()
    return list(json.loads(os.read(reader, 1 << 16)))


def orphan() -> list[int]:
    """Have a process with a session of its own hold, whose parent has ended; a list with its pid."""
    reader, writer = os.pipe()
    child = os.fork()
    if not child:
        os.write(writer, json.dumps(leave(0)).encode())
        os._exit(0)
    os.waitpid(child, 0)
    return list(json.loads(os.read(reader, 1 << 16)))


def main() -> None:
    connection = socket.socket(fileno=3)
    order = connection.recv(256)
    if order == b"report":
        connection.send(json.dumps(report()).encode())
    elif order == b"hold":
        connection.send(str(os.getpid()).encode())
        hold()
    elif order.startswith(b"write "):
        # To where reports go, in hexadecimal; with a dot at the end it goes on.
        os.write(4, bytes.fromhex(order[6:].rstrip(b".").decode()))
        connection.send(str(os.getpid()).encode())
        if order.endswith(b"."):
            hold()
    elif order.startswith(b"leave"):
        pids = [*leave(2), *orphan()]
        os.kill(pids[1], signal.SIGSTOP)
        connection.send(json.dumps([os.getpid(), *pids]).encode())
        if order == b"leave, hold":
            hold()


main()
