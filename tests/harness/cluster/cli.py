"""Command line of the cluster."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

from .client import is_up, take_down
from .cluster import Cluster
from .errors import ClusterError
from .process import environment
from .settings import Instance
from .sweep import names

DESCRIPTION = """\
A Slurm cluster on this machine: a controller (ctl) and compute nodes (n1, n2, ...), each in namespaces of its own,
with /home and /shared as shared file systems and the users alice and bob. Needs root, and pyroute2 for this Python.
"""


def main(argv: list[str]) -> int:
    """Run one command and return its exit status. Raise ClusterError."""
    options = parser().parse_args(argv)
    if os.geteuid() != 0:
        raise ClusterError("this needs root", "run it by sudo")
    status: int = options.handler(options)
    return status


def parser() -> argparse.ArgumentParser:
    top = argparse.ArgumentParser(prog="python3 -m tests.harness.cluster", description=DESCRIPTION)
    verbs = top.add_subparsers(required=True, metavar="COMMAND")
    named = argparse.ArgumentParser(add_help=False)
    named.add_argument("--name", default="default", help="name of the cluster (default: %(default)s)")
    user = argparse.ArgumentParser(add_help=False)
    user.add_argument("--user", default="alice", help="user on the node (default: %(default)s)")

    def verb(name: str, handler: object, text: str, *parents: argparse.ArgumentParser) -> argparse.ArgumentParser:
        made = verbs.add_parser(name, help=text, description=text, parents=list(parents))
        made.set_defaults(handler=handler)
        return made

    add_up_options(verb("up", do_up, "start a cluster; it stays until `down`", named))
    verb("down", do_down, "take a cluster down, or sweep what a dead one left", named)
    verb("list", do_list, "list clusters and their nodes")
    execute = verb("exec", do_exec, "run a command on a node, in the user's home directory", named, user)
    execute.add_argument("node")
    execute.add_argument("command", nargs=argparse.REMAINDER, metavar="-- COMMAND ...")
    verb("shell", do_shell, "run a login shell on a node", named, user).add_argument("node", nargs="?", default="ctl")
    verb("kill", do_kill, "power loss of a node: all its processes are gone at once", named).add_argument("node")
    verb("boot", do_boot, "power a killed node on again", named).add_argument("node")
    verb("logs", do_logs, "show the logs of a node", named).add_argument("node")
    return top


def add_up_options(up: argparse.ArgumentParser) -> None:
    up.add_argument("--nodes", type=int, default=Cluster.nodes, help="compute nodes (default: %(default)s)")
    for option, default, text in (
        ("--grace-time", Cluster.grace_time, "from a preemption's SIGTERM to its SIGKILL"),
        ("--kill-wait", Cluster.kill_wait, "from the SIGTERM at a job's end to its SIGKILL"),
        ("--requeue-delay", Cluster.requeue_delay, "how long Slurm holds a requeued job back"),
    ):
        up.add_argument(option, type=int, default=default, metavar="SECONDS", help=f"{text} (default: %(default)s)")
    up.add_argument("--slurm-conf", action="append", default=[], metavar="LINE", help="one more line of slurm.conf")
    up.add_argument("--cgroup-conf", action="append", default=[], metavar="LINE", help="one more line of cgroup.conf")
    up.add_argument("--oci-conf", type=Path, metavar="FILE", help="an oci.conf instead of the installed one")
    up.add_argument("--plugstack", type=Path, metavar="FILE", help="a plugstack.conf instead of the installed one")
    up.add_argument("--subids", action="store_true", help="give the users ranges in /etc/subuid and /etc/subgid")
    up.add_argument("--no-install", action="store_true", help="do not install this checkout on the nodes")


def do_up(options: argparse.Namespace) -> int:
    Cluster(
        name=options.name,
        nodes=options.nodes,
        grace_time=options.grace_time,
        kill_wait=options.kill_wait,
        requeue_delay=options.requeue_delay,
        slurm_conf=tuple(options.slurm_conf),
        cgroup_conf=tuple(options.cgroup_conf),
        oci_conf=options.oci_conf.read_text() if options.oci_conf else None,
        plugstack=options.plugstack.read_text() if options.plugstack else None,
        subids=options.subids,
        install=not options.no_install,
    ).up(lambda text: print(text, file=sys.stderr))
    return 0


def do_down(options: argparse.Namespace) -> int:
    take_down(options.name)
    return 0


def do_list(options: argparse.Namespace) -> int:
    for name in names():
        print(name, *(_states(name) if is_up(name) else ["dead"]))
    return 0


def _states(name: str) -> list[str]:
    cluster = Cluster.attach(name)
    running = [node for node in cluster.all_nodes() if Instance(name).node_state(node).exists()]
    return [f"{node}={'up' if node in running else 'off'}" for node in cluster.all_nodes()]


def do_exec(options: argparse.Namespace) -> int:
    command = options.command[1:] if options.command[:1] == ["--"] else options.command
    if not command:
        raise ClusterError("no command given", "exec NODE -- COMMAND ...")
    return _become(options, command)


def do_shell(options: argparse.Namespace) -> int:
    return _become(options, ["bash", "--login"])


def _become(options: argparse.Namespace, command: list[str]) -> int:
    """Replace this program, so that standard streams, the terminal and the exit status are the command's own."""
    terminal = [f"TERM={os.environ['TERM']}"] if "TERM" in os.environ else []
    argv = Cluster.attach(options.name).argv(options.node, [*terminal, *command], options.user)
    os.execvpe(argv[0], argv, environment())


def do_kill(options: argparse.Namespace) -> int:
    Cluster.attach(options.name).kill(options.node)
    return 0


def do_boot(options: argparse.Namespace) -> int:
    Cluster.attach(options.name).boot(options.node)
    return 0


def do_logs(options: argparse.Namespace) -> int:
    print(Cluster.attach(options.name).logs(options.node), end="")
    return 0
