"""Namespaces that config.json names by their path are the same ones after a restore."""

from __future__ import annotations

from tests.node.support import Site


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
