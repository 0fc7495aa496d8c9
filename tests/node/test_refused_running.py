"""What a program does, or has done to it, that can't be restored: named before anything is frozen, and it runs on."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator

import pytest

from tests.harness.cluster import wait_for
from tests.harness.cluster.suite import SUITE
from tests.node.support import Life, Site, Spec
from tests.node.test_refused import refused, running

CAPABILITIES = [f"CAP_{name}" for name in ("KILL", "SYS_ADMIN", "NET_ADMIN")]
# Directories of the node's that the container has: /work, where anybody may write, and /theirs, where only root may.
PLACES = {"/work": "/srv/refused/work", "/theirs": "/srv/refused/theirs"}
MAKE = """
set -e
mkdir -p /srv/refused/work/a /srv/refused/work/b /srv/refused/theirs/in /srv/refused/theirs/closed
mkdir -p /home/alice/base/rootfs/media
chmod 777 /srv/refused/work /srv/refused/work/a /srv/refused/work/b
for file in f g; do head -c 5000 /dev/zero >/srv/refused/theirs/$file; done
chmod 711 /srv/refused/theirs/closed
cp /usr/bin/sleep /srv/refused/work/sleep
chmod 711 /srv/refused/work/sleep
"""


@pytest.fixture(autouse=True)
def places(site: Site) -> Iterator[None]:
    site.exec(["sh", "-c", MAKE])
    yield
    site.exec(["rm", "-r", "/srv/refused"])


def peculiar(*words: str) -> list[str]:
    return ["python3", "-I", "/peculiar.py", *words]


def change(spec: Spec, *words: str) -> None:
    """A program that does what few do, with a right to it."""
    sets = ("bounding", "effective", "permitted", "inheritable", "ambient")
    spec["process"] |= {"capabilities": dict.fromkeys(sets, CAPABILITIES), "noNewPrivileges": False}
    for place, source in PLACES.items():
        spec["mounts"].append({"destination": place, "type": "bind", "source": source, "options": ["rbind", "rw"]})
    spec["process"]["args"] = peculiar(*words)


FIRST = f"(descriptor {SUITE.first_free})"
DOES: dict[str, tuple[str, tuple[str, ...], str]] = {
    "mount-of-a-removed-file": ("alice", ("mounted_and_removed", "/work"), "/work/new is a mount of "),
    "overlay": ("alice", ("mounted", "overlay", "/media", "overlay", "lowerdir=/usr:/etc"), "a mount of the type over"),
    "ramfs": ("alice", ("mounted", "none", "/media", "ramfs"), "/media is a mount of the type ramfs"),
    "background": ("alice", ("background",), "(python3) is stopped (SIGTTIN), since it read from its terminal"),
    "adopted": (
        "alice",
        ("adopted",),
        "(python3) is in the session 3, which none of its ancestors has begun: its",
    ),
    "deserted": ("alice", ("deserted",), "(python3) is in the process group 2, which its first process, process "),
    "leaderless": ("alice", ("leaderless",), "the first thread of process "),
    "traced": ("alice", ("traced",), "(python3) is traced by process"),
    "unreadable": ("alice", ("becomes", "/work/sleep", "600"), "(sleep) runs a program that may not be read"),
    "user-namespace": ("alice", ("unshared", "user"), "(python3) is in a namespace of its own (user)"),
    "socket-elsewhere": ("alice", ("named_elsewhere", "/work"), "(python3) has a socket named /work/socket in a mount"),
    "mount-elsewhere": ("alice", ("mounted_elsewhere", "/work"), "(python3) has a mount at /work, in a mount"),
    "pid-namespace": ("alice", ("unshared", "pid"), "(python3) is in a namespace of its own (pid)"),
    "network-namespace": ("alice", ("unshared", "net"), "(python3) is in a namespace of its own (network)"),
    "unreadable-directory": (
        "alice",
        ("working", "/theirs/closed"),
        "(python3) is in /theirs/closed, which it may not",
    ),
    "unmounted": ("alice", ("held_and_unmounted", "/media"), "/file open, which is on none of the container's mounts"),
    "below-a-mount": (
        "alice",
        ("held_below", "/work/b", "file"),
        "has /work/b/file open, and it is not there: something",
    ),
    "fifo-below-a-mount": (
        "root",
        ("held_below", "/work/b", "fifo"),
        "has /work/b/fifo open, and it is not there: some",
    ),
    "mounted-twice": (
        "alice",
        ("held_and_bound", "/media"),
        "has /media/file open, and something else is at that path",
    ),
    "closed-file": (
        "alice",
        ("in_a_closed_directory", "/work/c", "file"),
        "has /work/c/in/file open, in a directory that",
    ),
    "closed-renamed": (
        "alice",
        ("in_a_closed_directory", "/work/c", "renamed"),
        "/in/file open, in a directory that only",
    ),
    "closed-directory": (
        "alice",
        ("in_a_closed_directory", "/work/c", "directory"),
        "is in /work/c/in, in a directory th",
    ),
    "closed-tmpfs": (
        "alice",
        ("in_a_closed_directory", "/work/c", "tmpfs"),
        "a tmpfs is mounted at /work/c/in, in a dir",
    ),
    "peer-made-a-slave": (
        "alice",
        ("peers", "/work/a", "/work/b", "0x80000"),
        "the mount at /work/b/in came there from",
    ),
    "peer-of-others": (
        "root",
        ("peers", "/work/a", "/work/b", "0x40000", "0x100000"),
        "the mount at /work/b/in came th",
    ),
    "interpreter": (
        "alice",
        ("registered", "/work/a"),
        "registered at /work/a (binfmt_misc), which CRIU can't restore: odd",
    ),
    "vsock": ("alice", ("socket_of", "40"), f"(python3) has a socket of the protocol AF_VSOCK {FIRST}"),
    "counter": ("alice", ("perf",), f"(python3) uses performance counters (perf_event_open) {FIRST}"),
    "faults": ("alice", ("userfaultfd",), f"(python3) uses page faults (userfaultfd) {FIRST}"),
    "secret": ("alice", ("secret",), f"(python3) uses secret memory (memfd_secret) {FIRST}"),
    "epoll-sent": ("alice", ("epoll_sent",), f"(python3) waits for a file by epoll {FIRST} that it has closed"),
    "epoll-inherited": ("alice", ("epoll_inherited",), f"waits for a file by epoll {FIRST} that it has closed"),
    "namespace": ("alice", ("held_namespace",), "has a namespace open that no process of the container is in, net:["),
}


@pytest.mark.parametrize("case", DOES)
def test_what_a_program_does(site: Site, case: str) -> None:
    user, words, reason = DOES[case]
    with running(site, user, lambda spec: change(spec, *words)) as life:
        refused(life, reason)


def test_a_device(site: Site) -> None:
    number = {"type": "c", "major": 10, "minor": 229}

    def with_fuse(spec: Spec) -> None:
        change(spec, "held_open", "/dev/fuse")
        spec["linux"]["devices"] = [{"path": "/dev/fuse", "fileMode": 0o666, "uid": 0, "gid": 0, **number}]
        spec["linux"]["resources"]["devices"].append({"allow": True, "access": "rwm", **number})

    with running(site, "root", with_fuse) as life:
        refused(life, f"(python3) uses FUSE, /dev/fuse (10:229) {FIRST}, which CRIU can't dump")


def test_what_a_hook_has_mounted(site: Site) -> None:
    def hooked(spec: Spec) -> None:
        script = "mount --bind /usr /home/alice/base/rootfs/media"
        change(spec, "pidfd")
        spec["hooks"] = {"createContainer": [{"path": "/bin/sh", "args": ["sh", "-c", script]}]}

    with running(site, "alice", hooked) as life:
        refused(life, "/media is a mount of the node's files that is not in config.json: a program or a hook made it")


IS_DONE: dict[str, tuple[tuple[str, ...], str, str]] = {
    "open": (("held_open", "/theirs/f"), "rm theirs/f", "(python3) has /theirs/f open, which was deleted or replaced"),
    "mapped": (
        ("mapped", "/theirs/f"),
        "mv theirs/g theirs/f",
        "has /theirs/f mapped, which was deleted or replaced: a restore",
    ),
    "directory": (("working", "/theirs/in"), "rmdir theirs/in", "(python3) is in /theirs/in, which was deleted"),
    "renamed": (
        ("held_open", "/theirs/f"),
        "ln theirs/f theirs/h; rm theirs/f",
        "/theirs/f open, which was deleted or",
    ),
    "denied": (("held_open", "/theirs/f"), "chmod 600 theirs/f", "has /theirs/f open, which it could not open again"),
}


@pytest.mark.parametrize("case", IS_DONE)
def test_what_is_done_to_its_files(site: Site, case: str) -> None:
    words, script, reason = IS_DONE[case]
    with running(site, "alice", lambda spec: change(spec, *words)) as life:
        site.exec(["sh", "-c", f"cd /srv/refused && {script}"])
        refused(life, reason)


def test_what_is_mounted_over(site: Site) -> None:
    """A file that is open below a mount that was made since."""
    words = "held_and_covered", "/work/a"
    with running(site, "alice", lambda spec: change(spec, *words)) as life:
        refused(life, "has /work/a open, and something else is at that path now")


def test_what_runs_on_with_a_name_less(site: Site) -> None:
    """A file that lost the name it was opened by and has another one goes along only with a container that ends."""
    words = "relinked", "/dev/shm/one", "/dev/shm/other"
    with running(site, "alice", lambda spec: change(spec, *words)) as life:
        done = life.checkpoint("--leave-running", check=False)
        assert done.returncode == 1
        assert "has /dev/shm/one open, a name that was removed, and the file has another one" in done.stderr
        assert "CRIU" not in done.stderr
        restored(life)


KEPT: dict[str, tuple[str, ...]] = {
    "stopped": ("stopped", "SIGSTOP"),
    "stopped-by-a-terminal": ("stopped", "SIGTSTP"),
    "zombie": ("zombie",),
    "between-sessions": ("between_sessions",),
    "filter": ("filter_all",),
    "filter-of-a-thread": ("threads_filter",),
    "deleted": ("deleted", "/work/x"),
    "deleted-in-a-directory-of-a-group": ("deleted", "/work/shared/x"),
    "deleted-directory": ("deleted_directory", "/work/in/it"),
    "unlinked-socket": ("unlinked", "/work/socket"),
    "unlinked-socket-in-memory": ("unlinked", "/dev/shm/socket"),
    "epoll": ("epoll",),
    "tmpfs": ("mounted", "tmpfs", "/media", "tmpfs"),
    "proc": ("mounted", "proc", "/media", "proc"),
    "own-bind": ("mounted", "/dev/shm", "/media"),
    "peers": ("peers", "/work/a", "/work/b"),
    "peer-made-private": ("peers", "/work/a", "/work/b", "0x40000"),
    "undumpable": ("without_memory_dumps",),
    "pidfd": ("pidfd",),
}


def test_a_path_of_the_root_file_system_that_is_read_only(site: Site) -> None:
    def more(spec: Spec) -> None:
        change(spec, "held_open", "/etc/passwd")
        spec["linux"]["readonlyPaths"] += ["/etc", "/usr/bin"]

    with running(site, "alice", more) as life:
        before = life.look()["mounts"]
        restored(life)
        assert {"/etc", "/usr/bin"} <= {mount["point"] for mount in before}
        assert life.look()["mounts"] == before


KEPT_BY_ROOT: dict[str, tuple[str, ...]] = {
    "zombie": ("zombie",),
    "strict": ("strict",),
    "overlay": ("mounted", "overlay", "/media", "overlay", "lowerdir=/usr:/etc"),
    "mount-namespace": ("unshared", "mnt"),
    "deleted": ("held_open", "/theirs/f"),
}


@pytest.mark.parametrize("case", KEPT)
def test_what_is_not_refused(site: Site, case: str) -> None:
    """Its neighbours, which come back."""
    site.exec(["sh", "-c", "cd /srv/refused/work; mkdir shared; chown alice:staff shared; chmod 2777 shared"])
    with running(site, "alice", lambda spec: change(spec, *KEPT[case])) as life:
        restored(life)


def test_what_exec_has_started(site: Site) -> None:
    """It is said, once, that a checkpoint is without it."""
    with running(site, "alice", lambda spec: change(spec, "pidfd")) as life:
        argv = site.cluster.argv(site.node, life.argv("exec", life.name, "sleep", "600"), "alice")
        with subprocess.Popen(argv) as added:
            wait_for(lambda: site.exec(["pgrep", "-f", "sleep 600"], check=False).stdout, 10, "its start")
            said = [life.checkpoint("--leave-running").stderr for _ in range(2)]
            added.kill()
        assert "(sleep), which was started by `exec`, is not in the checkpoint" in said[0]
        assert "exec" not in said[1]


@pytest.mark.parametrize("case", KEPT_BY_ROOT)
def test_what_is_not_refused_to_root(site: Site, case: str) -> None:
    """A mount namespace: without the mounts that hide files in /proc."""

    def without_masks(spec: Spec) -> None:
        change(spec, *KEPT_BY_ROOT[case])
        spec["linux"]["maskedPaths"] = spec["linux"]["readonlyPaths"] = []

    with running(site, "root", without_masks) as life:
        if case == "deleted":
            site.exec(["rm", "/srv/refused/theirs/f"])
        restored(life)


def restored(life: Life) -> None:
    life.checkpoint()
    life.restore()
    assert life.look()["uname"]
