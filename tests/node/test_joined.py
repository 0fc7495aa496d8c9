"""Namespaces that config.json names by their path are the same ones after a restore."""

from __future__ import annotations

import pytest

from tests.node.support import Life, Site


def test_named_network_and_names(site: Site) -> None:
    names = {"network": "/run/netns/named", "uts": "/run/uts-named", "cgroup": "/run/cgroup-named"}
    site.exec(["ip", "netns", "add", "named"])
    site.exec(["sh", "-c", "ip -n named link add kept type veth peer name other && ip -n named link set lo up"])
    site.exec(["touch", "/run/uts-named", "/run/cgroup-named"])
    site.exec(["unshare", "--uts=/run/uts-named", "hostname", "of-another"])
    site.exec(["unshare", "--cgroup=/run/cgroup-named", "true"])
    spec = site.spec("root")
    for entry in spec["linux"]["namespaces"]:
        if entry["type"] in names:
            entry["path"] = names[entry["type"]]
    spec.pop("hostname")
    life = site.container("root", spec)
    try:
        life.run()
        before = life.look()
        life.checkpoint()
        life.restore()
        after = life.look()
        assert before["network"]["names"] == ["kept", "lo", "other"]
        assert before["uname"][0] == "of-another"
        assert (after["network"], after["uname"]) == (before["network"], before["uname"])
        for name in ("net", "uts", "cgroup"):
            assert after["namespaces"][name] == before["namespaces"][name]
        assert life.end() == 0
    finally:
        life.stop()
        site.exec(["ip", "netns", "del", "named"])
        site.exec(["sh", "-c", "umount /run/*-named && rm /run/*-named"])


@pytest.mark.parametrize("is_first", [False, True])
def test_network_without_a_loopback(site: Site, is_first: bool) -> None:
    """Even if CRIU has not noted yet what the kernel can do."""
    site.exec(["ip", "netns", "add", "down"])
    spec = site.spec("root")
    next(entry for entry in spec["linux"]["namespaces"] if entry["type"] == "network")["path"] = "/run/netns/down"
    spec["process"]["args"] = ["cat"]
    life = site.container("root", spec)
    try:
        life.run()
        assert said(life, "before") == "before\n"
        life.checkpoint()
        if is_first:
            site.exec(["rm", "/run/criu.kdat"])
        life.restore()
        assert said(life, "after") == "after\n", life.said()
        assert life.end() == 0
    finally:
        life.stop()
        site.exec(["ip", "netns", "del", "down"])


def said(life: Life, line: str) -> str:
    """What cat says to a line."""
    assert life.process and life.process.stdin and life.process.stdout
    life.process.stdin.write(line + "\n")
    life.process.stdin.flush()
    return life.process.stdout.readline()
