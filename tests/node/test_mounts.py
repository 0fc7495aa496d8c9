"""Mounts that depend on the node: propagation from it, changed flags on it, much in a tmpfs."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tests.node import configured
from tests.node.support import Site

USERS = pytest.mark.parametrize("user", ["root", "alice"])
TOP = "/home/outer"


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
