"""Mounts that depend on the node: propagation from it, changed flags on it, much in a tmpfs."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tests.node import configured
from tests.node.support import Site, Spec

USERS = pytest.mark.parametrize("user", ["root", "alice"])
TOP = "/home/outer"
CAPABILITIES = [f"CAP_{name}" for name in ("DAC_OVERRIDE", "SYS_ADMIN")]
INNER = "/home/inner"
BINDS = """
import ctypes, os, sys
for pair in sys.argv[2:]:
    source, *target = pair.encode().split()
    if target:
        assert not ctypes.CDLL(None).mount(source, *target, None, 4096, None)
    else:
        os.rmdir(source)
os.execvp("python3", ["python3", "-I", "/inside.py", sys.argv[1]])
"""
# What a program mounts, or removes, and a file that it reads then.
MADE = {
    "directory": (("/data/real /data/work",), "/data/work/f"),
    "file": (("/data/real/f /data/work/f",), "/data/work/f"),
    "itself": (("/data/work /data/work",), "/data/work/f"),
    "out-of-the-root": (("/data/real /srv",), "/srv/f"),
    "of-the-root": (("/srv /data/work",), "/data/work/f"),
    "twice": (("/data/real /data/work", "/data/work /srv"), "/srv/f"),
    "over-another": (("/data/real /data/work", "/data/other /data/work"), "/data/work/f"),
    "a-file-that-is-mounted": (("/one /data/work/f",), "/data/work/f"),
    "removed": (("/data/old /srv", "/data/old"), "/data/real/f"),
    "covered": (("/data/real /srv", "/data/other /data/real"), "/srv/f"),
}


@contextmanager
def outer(site: Site, options: str = "") -> Iterator[None]:
    """A shared mount of the node's at TOP."""
    site.exec(["sh", "-c", f"mkdir -p {TOP}/later && mount --bind {TOP} {TOP} && mount --make-shared {TOP}"])
    try:
        yield
    finally:
        site.exec(["umount", "-R", TOP])


@USERS
@pytest.mark.parametrize(("option", "tags"), [("rslave", ["master"]), ("rprivate", [])])
def test_propagation(site: Site, user: str, option: str, tags: list[str]) -> None:
    """What the node mounts after the restore is seen in a slave; twice, since a restored one is dumped again."""
    spec = site.spec(user)
    spec["linux"]["rootfsPropagation"] = "rslave"
    spec["mounts"].append({"destination": "/outer", "type": "bind", "source": TOP, "options": ["rbind", option]})
    life = site.container(user, spec)
    try:
        with site.lending(user), outer(site):
            life.run()
            for _ in range(2):
                life.look()
                life.checkpoint()
                life.restore()
                assert [m["sharing"] for m in life.look()["mounts"] if m["point"] == "/outer"] == [tags]
                site.exec(["mount", "-t", "tmpfs", "later", f"{TOP}/later"])
                seen = {m["point"] for m in life.look()["mounts"]}
                site.exec(["umount", f"{TOP}/later"])
                assert ("/outer/later" in seen) == (option == "rslave")
            assert life.end() == 0
    finally:
        life.stop()


def test_a_source_with_flags_that_a_user_cant_take_off(site: Site) -> None:
    spec = site.spec("alice")
    spec["mounts"].append({"destination": "/outer", "type": "bind", "source": TOP, "options": ["bind"]})
    life = site.container("alice", spec)
    try:
        with site.lending("alice"), outer(site):
            life.run()
            life.look()
            life.checkpoint()
            site.exec(["mount", "-o", "remount,bind,nosuid,nodev", TOP])
            life.restore()
            assert life.end() == 1
            assert f"the container's mount /outer was not nosuid nodev, and {TOP} is, here" in life.said()
            site.exec(["mount", "-o", "remount,bind,suid,dev", TOP])
            life.restore()
            life.look()
            assert life.end() == 0
    finally:
        life.stop()


def with_rights(spec: Spec) -> None:
    """So that its program may mount."""
    sets = ("bounding", "effective", "permitted", "inheritable", "ambient")
    spec["process"] |= {"capabilities": dict.fromkeys(sets, CAPABILITIES), "noNewPrivileges": False}


def make_inner(site: Site) -> None:
    """Three directories with a file `f` each, on the node, and one in the root file system."""
    makes = ("mkdir -p $0/real $0/work $0/other $0/old $1", "for d in real work other; do echo $d >$0/$d/f; done")
    gives = ("echo srv >$1/f", "echo one >$0.one", "chown -R alice $0 $1")
    site.exec(["sh", "-c", " && ".join((*makes, *gives)), INNER, "/home/alice/base/rootfs/srv"])


@USERS
@pytest.mark.parametrize("propagation", ["rprivate", "rslave"])
@pytest.mark.parametrize("case", MADE)
def test_what_a_program_has_mounted(site: Site, user: str, propagation: str, case: str) -> None:
    """It comes back, though its files are the node's; twice, since a restored one is dumped again."""
    pairs, path = MADE[case]
    spec = site.spec(user)
    with_rights(spec)
    spec["linux"]["rootfsPropagation"] = propagation
    spec["mounts"].append({"destination": "/data", "type": "bind", "source": INNER, "options": ["bind", propagation]})
    spec["mounts"].append({"destination": "/one", "type": "bind", "source": f"{INNER}.one", "options": ["bind"]})
    spec["process"]["args"] = ["python3", "-I", "-c", BINDS, path, *pairs]
    make_inner(site)
    life = site.container(user, spec)
    try:
        with site.lending(user):
            life.run()
            before = life.look()
            for _ in range(2):
                life.checkpoint()
                life.restore()
                after = life.look()
                assert after["mounts"] == before["mounts"]
                assert after["held"] == before["held"]
            assert life.end() == 0
    finally:
        life.stop()
        site.exec(["rm", "-r", INNER])


APART = """
import ctypes, os, signal
libc = ctypes.CDLL(None)
reader, writer = os.pipe()
if os.fork() == 0:
    assert not libc.unshare(0x20000)
    assert not libc.mount(b"/data/real", b"/data/work", None, 4096, None)
    assert not libc.mount(b"tmpfs", b"/srv", b"tmpfs", 0, None)
    kept = open("/srv/kept", "w"), open("/data/work/f", "a")
    kept[0].write("kept")
    kept[0].flush()
    os.write(writer, b"x")
    while True:
        signal.sigwait([signal.SIGUSR1])
os.read(reader, 1)
os.execvp("python3", ["python3", "-I", "/inside.py", "/data/work/f"])
"""


@USERS
def test_a_mount_namespace_of_a_programs_own(site: Site, user: str) -> None:
    """Twice, since a restored one is dumped again; it has the masked files of the container's own, too."""
    spec = site.spec(user)
    with_rights(spec)
    spec["mounts"].append({"destination": "/data", "type": "bind", "source": INNER, "options": ["bind"]})
    spec["process"]["args"] = ["python3", "-I", "-c", APART]
    make_inner(site)
    life = site.container(user, spec)

    def seen() -> list[str]:
        init = life.state()["pid"]
        other = site.exec(["pgrep", "-P", str(init)]).stdout.strip()
        script = "cut -d' ' -f4-6 /proc/$0/mountinfo | sort; cd /proc/$0/root && cat srv/kept data/work/f"
        return site.exec(["sh", "-c", script, other]).stdout.splitlines()

    try:
        with site.lending(user):
            life.run()
            before = life.look()["held"], seen()
            assert before[1][-1] == "keptreal"
            for _ in range(2):
                life.checkpoint()
                rows = json.loads(site.exec(["cat", f"{life.images}/manifest.json"]).stdout)["written"]
                assert ("/data", "real/f") in [(row["mount"], row["name"]) for row in rows]
                life.restore()
                assert (life.look()["held"], seen()) == before
            assert life.end() == 0
    finally:
        life.stop()
        site.exec(["rm", "-r", INNER])


@USERS
def test_much_in_a_tmpfs(site: Site, user: str) -> None:
    spec = site.spec(user)
    spec["mounts"].append(configured.tmpfs("/scratch", "size=150m", "mode=777"))
    fill = "seq 1 20000000 | head -c 104857600 >/scratch/big && exec python3 -I /inside.py"
    spec["process"]["args"] = ["sh", "-c", fill]
    life = site.container(user, spec)
    try:
        with site.lending(user):
            life.run()
            before = life.look()["trees"]["/scratch"]
            life.checkpoint()
            life.restore()
            assert before["/scratch/big"][3] == 100 << 20
            assert life.look()["trees"]["/scratch"] == before
            assert life.end() == 0
    finally:
        life.stop()


def test_what_criu_makes_meanwhile(site: Site) -> None:
    """It is not in the node's /tmp, in which it would stay if CRIU were killed."""
    life = site.container("alice", site.spec("alice"))
    try:
        with site.lending("alice"):
            life.run()
            life.look()
            life.checkpoint()
            site.exec(["chmod", "755", "/tmp"])
            life.restore()
            life.look()
            assert life.end() == 0
    finally:
        site.exec(["chmod", "1777", "/tmp"])
        life.stop()
