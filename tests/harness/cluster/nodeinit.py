"""First program in a node's new namespaces: mounts the node's root, waits for the network, becomes the node's init.

Started by node.py. Says "ready" on stdout once it runs in the namespaces, reads its plan (one line of JSON) from stdin,
and goes on after the mounts when it reads "go" there; end of file means that the keeper has gone.
"""

from __future__ import annotations

import json
import os
import socket
import sys
from pathlib import Path

from . import linux
from .plan import Plan
from .process import PATH

DEVICES = ("null", "zero", "full", "random", "urandom", "tty", "fuse", "kvm", "net/tun", "userfaultfd")
LINKS = {"fd": "/proc/self/fd", "stdin": "fd/0", "stdout": "fd/1", "stderr": "fd/2", "ptmx": "pts/ptmx"}
SAFE = linux.MS_NOSUID | linux.MS_NODEV | linux.MS_NOEXEC


def main() -> None:
    print("ready", flush=True)
    if not (line := sys.stdin.readline()):
        sys.exit("the keeper has gone")
    plan = Plan(**json.loads(line))
    root = mount_root(plan)
    mount_devices(root / "dev")
    mount_kernel(root, plan.hierarchies)
    for target, source in plan.binds.items():
        (root / target.lstrip("/")).mkdir(parents=True, exist_ok=True)
        linux.bind(Path(source), root / target.lstrip("/"))
    for path, text in plan.files.items():
        (root / path.lstrip("/")).write_text(text)
    socket.sethostname(plan.hostname)
    if sys.stdin.readline() != "go\n":
        sys.exit("the keeper has gone")
    linux.pivot_root(root)
    become_init(plan.role)


def mount_root(plan: Plan) -> Path:
    upper, work, merged = (Path(plan.directory) / name for name in ("upper", "work", "merged"))
    for directory in (upper, work, merged):
        directory.mkdir(parents=True, exist_ok=True)
    layers = f"lowerdir={':'.join(plan.lower)},upperdir={upper},workdir={work}"
    linux.mount("overlay", merged, "overlay", 0, layers)
    return merged


def mount_devices(dev: Path) -> None:
    """A /dev of its own, whose device files are the host's: a container's bind mount of one shows up as devtmpfs."""
    linux.mount("dev", dev, "tmpfs", linux.MS_NOSUID, "mode=755")
    for name in DEVICES:
        if (source := Path("/dev") / name).exists():
            (dev / name).parent.mkdir(exist_ok=True)
            (dev / name).touch()
            linux.bind(source, dev / name)
    for name, target in LINKS.items():
        (dev / name).symlink_to(target)
    for name in ("pts", "shm", "mqueue"):
        (dev / name).mkdir()
    flags = linux.MS_NOSUID | linux.MS_NOEXEC
    linux.mount("devpts", dev / "pts", "devpts", flags, "newinstance,ptmxmode=666,mode=620,gid=5")
    linux.mount("shm", dev / "shm", "tmpfs", linux.MS_NOSUID | linux.MS_NODEV, "mode=1777")
    linux.mount("mqueue", dev / "mqueue", "mqueue", SAFE)


def mount_kernel(root: Path, hierarchies: tuple[tuple[str, ...], ...]) -> None:
    linux.mount("proc", root / "proc", "proc", SAFE)
    linux.mount("sysfs", root / "sys", "sysfs", SAFE)
    if Path("/sys/kernel/security/apparmor").exists():
        linux.mount("securityfs", root / "sys/kernel/security", "securityfs", SAFE)
    linux.mount("run", root / "run", "tmpfs", linux.MS_NOSUID | linux.MS_NODEV, "mode=755")
    top = root / "sys/fs/cgroup"
    if not all(hierarchies):
        linux.mount("cgroup", top, "cgroup2", SAFE)
        return
    linux.mount("cgroup", top, "tmpfs", SAFE, "mode=755")
    for controllers in hierarchies:
        joined = ",".join(controllers)
        (top / joined).mkdir()
        linux.mount("cgroup", top / joined, "cgroup", SAFE, joined)
        # If this machine mounts cpu and cpuacct together, both names lead there.
        for name in controllers[1:] and controllers:
            (top / name).symlink_to(joined)


def become_init(role: str) -> None:
    """Replace this program by the root's own Python, with the log as its output."""
    os.umask(0o022)
    os.setsid()
    log = os.open("/var/log/slurm/init.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    null = os.open("/dev/null", os.O_RDONLY)
    for source, target in ((null, 0), (log, 1), (log, 2)):
        os.dup2(source, target)
    environment = {"PATH": PATH, "LANG": "C.UTF-8", "HOME": "/root"}
    os.execve("/usr/bin/python3", ["node-init", "-I", "-S", "/run/init.py", role], environment)


if __name__ == "__main__":
    main()
