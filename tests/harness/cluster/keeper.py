"""The keeper: the process that holds an instance of a cluster, which ends with it.

It is started by cluster.py in a network namespace and a session of its own. It reads a request from stdin (one line of
JSON) and reports on stdout (lines of JSON: {"progress": text}, then {"up": true} or {"error": text, "hint": text}).
After that stdin is a lifeline: its end takes the cluster down, unless the line "keep" came before. The kernel kills the
nodes when this process ends, however it ends (PR_SET_PDEATHSIG). What remains then are files and empty control groups,
see sweep.py.
"""

from __future__ import annotations

import json
import os
import selectors
import shutil
import signal
import socket
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

from . import cgroups, conf, layer, network, node
from .cache import kept
from .errors import ClusterError
from .lock import locked
from .node import Node
from .settings import REPOSITORY, Instance, Settings, load, write_json
from .sweep import forget, sweep
from .waiting import patient

LIFELINE = 0


def main() -> None:
    for ignored in (signal.SIGINT, signal.SIGHUP, signal.SIGPIPE):
        signal.signal(ignored, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    request = json.loads(first_line(LIFELINE))
    settings, roots = Settings(**load(request["settings"])), tuple(map(Path, request["roots"]))
    instance = Instance(settings.name)
    try:
        with locked(instance.lock, wait=False), ExitStack() as stack:
            for root in roots:
                stack.enter_context(kept(root))
            stack.enter_context(swept(instance))
            Keeper(settings, instance, roots).run(LIFELINE)
    except BlockingIOError:
        report(error=f"cluster {settings.name} is already up", hint="choose another --name, or take it down")
    except ClusterError as error:
        report(error=error.message, hint=error.hint)
    except Exception as error:
        report(error=f"{type(error).__name__}: {error}", hint="")
        raise


def first_line(descriptor: int) -> bytes:
    """Read one line and not a byte more."""
    line = b""
    while not line.endswith(b"\n"):
        if not (piece := os.read(descriptor, 1)):
            sys.exit(0)
        line += piece
    return line


def report(**message: object) -> None:
    with suppress(BrokenPipeError):
        print(json.dumps(message), flush=True)


def progress(text: str) -> None:
    report(progress=text)


@contextmanager
def swept(instance: Instance) -> Iterator[None]:
    """No trace of the instance before and after."""
    sweep(instance)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        sweep(instance)
        forget(instance)


class Keeper:
    """Boots the nodes, then serves requests until the end."""

    def __init__(self, settings: Settings, instance: Instance, roots: tuple[Path, ...]) -> None:
        self.settings = settings
        self.instance = instance
        self.root = roots[0]
        self.lower = roots
        self.nodes: dict[str, Node] = {}
        self.selector = selectors.DefaultSelector()
        self.ending = False

    def run(self, lifeline: int) -> None:
        with ExitStack() as stack:
            stack.callback(self.kill_all)
            self.prepare(stack)
            network.make_bridge()
            for name in self.settings.all_nodes():
                self.boot(name)
            listener = stack.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET))
            listener.bind(str(self.instance.control))
            listener.listen()
            self.selector.register(listener, selectors.EVENT_READ, lambda: self.serve(listener))
            self.selector.register(lifeline, selectors.EVENT_READ, lambda: self.hear(lifeline))
            report(up=True)
            self.redirect()
            while not self.ending:
                for key, _ in self.selector.select():
                    key.data()

    def prepare(self, stack: ExitStack) -> None:
        """Make the instance's files; what it uses of the cache is kept until the stack is closed."""
        here = self.instance
        here.state.mkdir(mode=0o700, parents=True)
        write_json(here.settings, self.settings.dump())
        here.data.mkdir(parents=True)
        shutil.copytree(self.root / "home", here.home, symlinks=True)
        for user, uid in (("alice", 1000), ("bob", 1001)):
            own_tree(here.home / user, uid)
        here.shared.mkdir()
        here.shared.chmod(0o1777)
        if self.settings.install and not layer.is_in(self.root):
            self.lower = (stack.enter_context(kept(layer.ensure(self.root, REPOSITORY, progress))), *self.lower)
        v2 = any(tree.is_v2 for tree in cgroups.hierarchies())
        conf.write(self.settings, self.lower[0], here.conf, v2=v2)

    def redirect(self) -> None:
        """From now on nobody reads the pipes."""
        log = os.open(self.instance.data / "log/keeper.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        os.dup2(log, 1)
        os.dup2(log, 2)
        os.close(log)

    def boot(self, name: str) -> None:
        booted = node.boot(self.settings, self.instance, name, self.lower)
        self.nodes[name] = booted
        # The file descriptor is of init; it becomes readable when init has ended.
        self.selector.register(booted.pidfd, selectors.EVENT_READ, lambda: self.forget(name))
        write_json(self.instance.node_state(name), {"pid": booted.pid})

    def forget(self, name: str) -> None:
        """A node has ended."""
        if ended := self.nodes.pop(name, None):
            self.selector.unregister(ended.pidfd)
            self.instance.node_state(name).unlink(missing_ok=True)
            ended.reap()

    def kill(self, name: str) -> None:
        self.nodes[name].kill()
        self.forget(name)

    def kill_all(self) -> None:
        for running in self.nodes.values():
            running.kill()
        for name in list(self.nodes):
            self.forget(name)

    def hear(self, lifeline: int) -> None:
        self.selector.unregister(lifeline)
        self.ending = os.read(lifeline, 16) != b"keep\n"

    def serve(self, listener: socket.socket) -> None:
        """Answer one request: {"do": "boot" | "kill" | "down", "node": name}."""
        connection, _ = listener.accept()
        with connection, suppress(OSError):
            connection.settimeout(patient(5))
            request = json.loads(connection.recv(4096))
            connection.send(json.dumps(self.answer(request)).encode())

    def answer(self, request: dict[str, Any]) -> dict[str, Any]:
        action, name = request["do"], request.get("node", "")
        if action == "down":
            self.ending = True
            return {}
        if name not in self.settings.all_nodes():
            return {"error": f"no node {name}", "hint": f"nodes are {' '.join(self.settings.all_nodes())}"}
        if (action == "boot") == (name in self.nodes):
            return {"error": f"{name} is {'up already' if action == 'boot' else 'not up'}", "hint": ""}
        try:
            {"boot": self.boot, "kill": self.kill}[action](name)
        except ClusterError as error:
            return {"error": error.message, "hint": error.hint}
        return {}


def own_tree(top: Path, uid: int) -> None:
    for path in (top, *top.rglob("*")):
        os.chown(path, uid, uid, follow_symlinks=False)
    top.chmod(0o700)


if __name__ == "__main__":
    main()
