"""What config.json says holds inside of the container, and still does after a restore."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from tests.node import configured
from tests.node.support import Site, Spec, home

PARTS = (
    *("mounts", "status", "limits", "writes", "masked", "network", "process", "ids", "sysctls", "trees", "held"),
    "uname",
)
CAPABILITIES = 1 << 0 | 1 << 5 | 1 << 8 | 1 << 10 | 1 << 21
PER_LINUX32 = 8
FLAGS = {"ro", "rw", "nosuid", "nodev", "noexec"}


@dataclass
class Seen:
    """What the container answered before the dump and after the restore; the runtime's states then."""

    user: str
    kind: str
    before: dict[str, Any]
    after: dict[str, Any]
    states: tuple[dict[str, Any], dict[str, Any]]

    def mount(self, point: str) -> dict[str, Any]:
        """The mount seen at a place."""
        found: dict[str, Any] = [m for m in self.before["mounts"] if m["point"] == point][-1]
        return found


def full(site: Site, user: str, bundle: str) -> Spec:
    """All that can be said; bob with ids of /etc/subuid besides."""
    spec = configured.everything(site.spec(user), bundle)
    return configured.with_ranges(spec) if user == "bob" else spec


def own(site: Site, user: str, bundle: str) -> Spec:
    """The user's own numbers inside, without and with those of /etc/subuid, of which one is 0."""
    spec = configured.everything(site.spec(user), bundle)
    spec["linux"]["sysctl"] = {"net.core.somaxconn": "77"}  # the others are for 0 to set
    if user == "alice":
        return configured.as_oneself(spec)
    del spec["process"]["scheduler"], spec["process"]["ioPriority"]  # crun is 0 then, and may not set them
    (scratch,) = (mount for mount in spec["mounts"] if mount["destination"] == "/scratch")
    scratch["options"] += ["mode=1777"]  # it is made by 0
    return configured.with_own_and_ranges(spec)


def make_mapped(site: Site) -> None:
    copy = f"mkdir -p {configured.MAPPED}; cp -a /home/bob/base/rootfs/. {configured.MAPPED}"
    site.exec(["sh", "-c", f"{copy}; chown -R 300000:300000 {configured.MAPPED}"])


def mapped(site: Site, user: str, bundle: str) -> Spec:
    """Root's container with ids that are nobody's outside; its root file system is theirs."""
    make_mapped(site)
    return configured.with_mapped_root(configured.everything(site.spec(user), bundle))


def shared(site: Site, user: str, bundle: str) -> Spec:
    """As many namespaces of the node's as can be."""
    return configured.shared_namespaces(site.spec(user))


KINDS = [("root", full), ("alice", full), ("bob", full), ("root", mapped), ("root", shared), ("alice", shared)]
KINDS += [("alice", own), ("bob", own)]


IDS = [f"{user}-{kind.__name__}" for user, kind in KINDS]


@pytest.fixture(scope="module", params=KINDS, ids=IDS)
def seen(site: Site, request: pytest.FixtureRequest) -> Iterator[Seen]:
    user, make = request.param
    bundle = f"{home(user)}/bundle{site.counter + 1}"
    life = site.container(user, make(site, user, bundle))
    site.cluster.exec(site.node, ["sh", "-c", configured.FILES], user, cwd=bundle)
    if make is mapped:
        site.exec(["sh", "-c", f"chown -R 300000:300000 {bundle}/*/"])
    try:
        with site.lending(user):
            life.run()
            before, was = life.look(), life.state()
            life.checkpoint()
            life.restore()
            yield Seen(user, make.__name__, before, life.look(), (was, life.state()))
            assert life.end() == 0
    finally:
        life.stop()


@pytest.mark.parametrize("part", PARTS)
def test_same_after(seen: Seen, part: str) -> None:
    before, after = seen.before[part], seen.after[part]
    if part == "trees" and (seen.user, seen.kind) == ("bob", "own"):
        for path in ("/dev/mqueue", "/dev/pts/ptmx"):  # whoever mounts them has them
            before["/dev"].pop(path), after["/dev"].pop(path)
    assert after == before


def test_namespaces(seen: Seen, site: Site) -> None:
    """Those that were the node's are; the others are the container's own."""
    node = site.exec(["sh", "-c", "readlink /proc/1/ns/*"]).stdout
    own = {k: v not in node for k, v in seen.before["namespaces"].items() if not k.startswith("time")}
    assert own == {k: seen.after["namespaces"][k] not in node for k in own}
    assert own["net"] == own["uts"] == own["ipc"] == (seen.kind != "shared")
    assert own["user"] == (seen.user != "root" or seen.kind == "mapped")


def test_state(seen: Seen) -> None:
    was, now = seen.states
    assert was["pid"] and now["pid"] and was["pid"] != now["pid"]
    differ = {"pid": 0, "created": ""}
    if seen.kind == "mapped":
        differ["bundle"] = ""  # crun 1.21 takes / for it, being in the user namespace already
    assert {**was, **differ} == {**now, **differ}
    assert now["status"] == "running"
    if seen.kind != "shared":
        assert now["annotations"] == {"org.example.words": "kept"}


@pytest.mark.parametrize("seen", KINDS[:4], ids=IDS[:4], indirect=True)
class TestConfigured:
    """What was seen before is what was configured: or the comparison above would prove little."""

    def test_process(self, seen: Seen) -> None:
        process = seen.before["process"]
        assert (process["cwd"], process["nice"], process["scheduler"][0]) == ("/usr/share", 5, 3)
        assert process["ioprio"] == 2 << 13 | 6
        assert (process["oom_score_adj"], process["personality"]) == ("300", PER_LINUX32)
        assert (process["env"]["WORDS"], process["env"]["EMPTY"]) == ("with = and spaces", "")
        assert process["swapoff"] == "Operation not supported"
        for name, limits in configured.LIMITS.items():
            assert tuple(seen.before["limits"][f"RLIMIT_{name}"]) == limits

    def test_privileges(self, seen: Seen) -> None:
        status = seen.before["status"]
        for name in ("CapInh", "CapPrm", "CapEff", "CapBnd"):
            assert int(status[name], 16) == CAPABILITIES
        assert int(status["CapAmb"], 16) == 1 << 0 | 1 << 5
        assert (status["NoNewPrivs"], status["Seccomp"], status["Umask"]) == ("1", "2", "0027")
        if seen.user == "bob":
            assert (status["Gid"], status["Groups"]) == ("44 44 44 44", "5 77")
            assert seen.before["ids"]["uid_map"].split() == ["0", "1001", "1", "1", "200000", "5000"]

    def test_names_and_sysctls(self, seen: Seen) -> None:
        sysctls = seen.before["sysctls"]
        assert (sysctls["kernel/hostname"], sysctls["kernel/domainname"]) == ("inside", "example")
        assert (sysctls["kernel/msgmax"], sysctls["fs/mqueue/msg_max"]) == ("9000", "20")
        assert (sysctls["net/core/somaxconn"], sysctls["net/ipv4/ip_unprivileged_port_start"]) == ("77", "70")
        assert seen.before["network"] == {"names": ["lo"], "low": "ok", "any": "ok"}

    def test_binds(self, seen: Seen) -> None:
        for at, (source, options) in configured.BINDS.items():
            mount = seen.mount(at.replace("/linked/", "/run/"))
            assert mount["root"].endswith("/" + source)
            assert FLAGS.intersection(mount["options"]) == (FLAGS.intersection(options) | {"rw"}) - (
                {"rw"} if "ro" in options else set()
            )
        assert seen.before["writes"]["/"] == "Read-only file system"
        assert seen.before["writes"]["/data"] == "ok"

    def test_scratch(self, seen: Seen) -> None:
        mount = seen.mount("/scratch")
        assert {"size=20480k", "mode=1750"}.issubset(mount["super"])
        assert {"noexec", "nosuid"}.issubset(mount["options"])
        assert seen.before["trees"]["/scratch"]["/scratch/file"][3] == len("some words")

    def test_masked_and_read_only(self, seen: Seen) -> None:
        for point in ("/proc/timer_list", "/proc/keys", "/usr/games", "/etc/shells", "/proc/sys", "/data/below"):
            assert "ro" in seen.mount(point)["options"]
        assert seen.before["masked"]["/sys/firmware"] == "0 entries"

    def test_held(self, seen: Seen) -> None:
        held = seen.before["held"]
        assert set(configured.HELD) | {"shm", "sem"} == set(held)
        assert held["/data/file"][:2] == [3, "tents of data/file\n"]
        assert (held["shm"], held["sem"]) == (True, 7)
