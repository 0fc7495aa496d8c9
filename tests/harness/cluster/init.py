"""Process 1 of a node, run by the node's own Python with nothing of the harness around it.

Starts the daemons of the node's role, reaps whatever ends, and writes to its log how each daemon ended. A daemon that
ended is not started again: that is for a test to do, or to see.
"""

import os
import pwd
import shutil
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

LOG = Path("/var/log/slurm")
MUNGE_SOCKET = Path("/run/munge/munge.socket.2")
AS_MUNGE = ("/usr/bin/setpriv", "--reuid=munge", "--regid=munge", "--init-groups")

MUNGED = (*AS_MUNGE, "/usr/sbin/munged", "--foreground")
DAEMONS = {
    "controller": ("slurmctld", ("/usr/sbin/slurmctld", "-D")),
    "compute": ("slurmd", ("/usr/sbin/slurmd", "-D")),
}


def main() -> None:
    role = sys.argv[1]
    say(f"booting as {role}, boot clock at {time.clock_gettime(time.CLOCK_BOOTTIME):.0f} s")
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGCHLD})
    prepare()
    running = {start("munged", MUNGED): "munged"}
    wait_for(MUNGE_SOCKET)
    name, argv = DAEMONS[role]
    running[start(name, argv)] = name
    reap_forever(running)


def say(text: str) -> None:
    print(time.strftime("[%Y-%m-%dT%H:%M:%S]"), "init:", text, flush=True)


def prepare() -> None:
    """What tmpfiles.d and the distribution's service files do elsewhere."""
    own("/run/munge", "munge", 0o755)
    for user in ("alice", "bob"):
        own(f"/run/user/{pwd.getpwnam(user).pw_uid}", user, 0o700)
    own("/var/lib/slurm/slurmctld", "slurm", 0o700)
    own("/run/lock", "root", 0o1777)
    # From before a power loss: what is in /tmp, and sockets of steps, which make launches fail (Slurm 24.11).
    for path, mode in (("/tmp", 0o1777), ("/var/spool/slurmd", 0o755)):
        shutil.rmtree(path, ignore_errors=True)
        own(path, "root", mode)


def own(path: str, user: str, mode: int) -> None:
    entry = pwd.getpwnam(user)
    os.makedirs(path, exist_ok=True)
    os.chown(path, entry.pw_uid, entry.pw_gid)
    os.chmod(path, mode)


def start(name: str, argv: tuple[str, ...]) -> int:
    """Start a daemon with a session of its own; return its pid."""
    log = str(output_of(name))
    append = os.O_WRONLY | os.O_CREAT | os.O_APPEND
    actions = [(os.POSIX_SPAWN_OPEN, 1, log, append, 0o644), (os.POSIX_SPAWN_DUP2, 1, 2)]
    return os.posix_spawn(argv[0], argv, os.environ, file_actions=actions, setsid=True, setsigmask=[])


def wait_for(path: Path, timeout: float = 60.0) -> None:
    deadline = time.monotonic() + timeout
    while not path.exists():
        if time.monotonic() > deadline:
            say(f"{path} did not appear in {timeout:.0f} s")
            return
        time.sleep(0.01)


def reap_forever(running: dict[int, str]) -> None:
    """Never returns: when process 1 ends, the kernel ends the node."""
    while True:
        signal.sigwait({signal.SIGCHLD})
        for pid, status in ended():
            if pid in running:
                daemon = running.pop(pid)
                say(f"{daemon} {describe(status)}{last_words(daemon)}")


def ended() -> Iterator[tuple[int, int]]:
    """Pid and wait status of every child that has ended by now."""
    with suppress(ChildProcessError):
        while True:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if not pid:
                return
            yield pid, status


def output_of(name: str) -> Path:
    """What a daemon writes besides its own log, such as why it aborts."""
    return LOG / f"{name}.out"


def last_words(name: str) -> str:
    lines = output_of(name).read_text(errors="replace").splitlines()[-5:]
    return "".join(f"\n  {line}" for line in lines)


def describe(status: int) -> str:
    if os.WIFSIGNALED(status):
        return f"was killed by {signal.Signals(os.WTERMSIG(status)).name}"
    return f"ended with status {os.WEXITSTATUS(status)}"


if __name__ == "__main__":
    main()
