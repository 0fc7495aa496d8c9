"""What can't be dumped or restored is refused with the reason, before anything is frozen; the container runs on."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from tests.harness.cluster import wait_for
from tests.node import configured
from tests.node.support import Life, Site, Spec


@contextmanager
def running(site: Site, user: str, change: Callable[[Spec], object]) -> Iterator[Life]:
    """A container with something changed, at work."""
    spec = site.spec(user)
    change(spec)
    life = site.container(user, spec)
    try:
        with site.lending(user):
            life.run()
            life.look()
            yield life
    finally:
        life.stop()


def refused(life: Life, reason: str) -> None:
    done = life.checkpoint(check=False)
    assert done.returncode == 1
    assert reason in done.stderr
    assert "CRIU could not" not in done.stderr
    assert life.look()["uname"]


def another_user(spec: Spec) -> None:
    """A child with an id of /etc/subuid."""
    configured.with_ranges(spec)
    capabilities = ["CAP_SETUID", "CAP_SETGID", "CAP_KILL"]
    spec["process"]["capabilities"] = dict.fromkeys(("bounding", "effective", "permitted"), capabilities)
    spec["process"]["args"] = ["sh", "-c", "setpriv --reuid=33 --clear-groups sleep 600 & exec python3 -I /inside.py"]


def without_network(spec: Spec) -> None:
    """crun then binds the node's /sys with all that is below it."""
    spec["linux"]["namespaces"] = [n for n in spec["linux"]["namespaces"] if n["type"] != "network"]


def without_pids(spec: Spec) -> None:
    spec["linux"]["namespaces"] = [n for n in spec["linux"]["namespaces"] if n["type"] != "pid"]


def message_queue(spec: Spec) -> None:
    """A queue that nobody has open."""
    make = "import ctypes; ctypes.CDLL('librt.so.1').mq_open(b'/queue', 0o102, 0o600, None)"
    spec["process"]["args"] = ["sh", "-c", f'python3 -c "{make}" && exec python3 -I /inside.py']


CASES: dict[str, tuple[str, Callable[[Spec], object], str]] = {
    "sysctl": ("root", lambda s: s["linux"].update(sysctl={"kernel.shm_rmid_forced": "1"}), "kernel.shm_rmid_forced"),
    "child": ("bob", another_user, "no right to its memory"),
    "queue-of-root": ("root", message_queue, "POSIX message queues, which CRIU can't dump: queue"),
    "queue": ("alice", message_queue, "POSIX message queues, which CRIU can't dump: queue"),
    "pids": ("root", without_pids, "no pid namespace of its own"),
}


# Of a job's container that asked for checkpoints it is said when it starts.
AT_START: dict[str, tuple[str, Callable[[Spec], object], str]] = {
    "sysctl": ("alice", lambda s: s["linux"].update(sysctl={"kernel.shm_rmid_forced": "1"}), "kernel.shm_rmid_forced"),
    "process": ("bob", lambda s: configured.with_ranges(s)["process"]["user"].update(uid=33), "no right to its memory"),
    "network": ("alice", without_network, "the bind mount at /sys has others below it"),
}


@pytest.mark.parametrize("case", CASES)
def test_when_asked(site: Site, case: str) -> None:
    user, change, reason = CASES[case]
    with running(site, user, change) as life:
        refused(life, reason)


@pytest.mark.parametrize("case", AT_START)
def test_at_the_start(site: Site, case: str) -> None:
    user, change, reason = AT_START[case]
    spec = site.spec(user)
    change(spec)
    life = site.container(user, spec)
    try:
        life.run()
        assert life.end() == 1
        assert reason in life.said()
    finally:
        life.stop()


@contextmanager
def shared_mount(site: Site) -> Iterator[str]:
    """A directory that is a shared mount of the node's, with another mount in it."""
    top = "/home/nested"
    make = f"mkdir -p {top}/inner && mount --bind {top} {top} && mount --make-shared {top}"
    site.exec(["sh", "-c", f"{make} && mount -t tmpfs inner {top}/inner"])
    try:
        yield top
    finally:
        site.exec(["umount", "-R", top])


def test_mounts_below_a_users_bind(site: Site) -> None:
    """One that the node made later."""
    top = "/home/nested"
    site.exec(["mkdir", "-p", f"{top}/inner"])
    bind = {"destination": "/nested", "type": "bind", "source": top, "options": ["rbind", "rw"]}
    with running(site, "alice", lambda spec: spec["mounts"].append(bind)) as life, shared_mount(site):
        refused(life, "the bind mount at /nested has others below it")


def test_mounts_seen_on_the_node(site: Site) -> None:
    def change(spec: Spec) -> None:
        spec["linux"]["rootfsPropagation"] = "rshared"
        bind = {"destination": "/nested", "type": "bind", "source": "/home/nested", "options": ["rbind", "rshared"]}
        spec["mounts"].append(bind)

    with shared_mount(site), running(site, "root", change) as life:
        refused(life, "is seen on the node as well (rshared)")


def test_paused(site: Site) -> None:
    with running(site, "alice", lambda spec: None) as life, frozen(life) as thaw:
        done = life.checkpoint(check=False)
        assert (done.returncode, "the container is paused" in done.stderr) == (1, True)
        thaw()
        life.look()
        life.checkpoint()


@contextmanager
def frozen(life: Life) -> Iterator[Callable[[], None]]:
    """A control group below the container's own, frozen with its init in it; to call, to thaw it."""
    site = life.site
    script = f"""
        set -e
        group=$(sed -n 's/^[0-9]*:freezer://p' /proc/{life.state()["pid"]}/cgroup)
        cd /sys/fs/cgroup/freezer$group
        mkdir frozen
        echo {life.state()["pid"]} >frozen/cgroup.procs
        echo FROZEN >frozen/freezer.state
        pwd
    """
    group = site.exec(["sh", "-c", script]).stdout.strip()
    state = f"{group}/frozen/freezer.state"

    def thaw() -> None:
        site.exec(["sh", "-c", f"echo THAWED >{state}"], check=False)

    try:
        wait_for(lambda: site.exec(["cat", state]).stdout == "FROZEN\n", 5, "a frozen container")
        yield thaw
    finally:
        thaw()
        life.stop()
        # crun removes the one of root's container with all below it.
        gone = ["sh", "-c", f"test ! -d {group}/frozen || rmdir {group}/frozen"]
        wait_for(lambda: site.exec(gone, check=False).returncode == 0, 5, "an empty group")
