"""A config.json that says as much as one can, and the files it needs."""

from __future__ import annotations

from typing import Any

Spec = dict[str, Any]
CAPABILITIES = ["CAP_CHOWN", "CAP_KILL", "CAP_SETPCAP", "CAP_NET_BIND_SERVICE", "CAP_SYS_ADMIN"]
LIMITS = {"NOFILE": (500, 600), "CORE": (1 << 20, 1 << 21), "NPROC": (4000, 5000), "STACK": (4 << 20, 16 << 20)}
MAPPED = "/home/mapped/rootfs"
# Sourced by the shell of whoever owns the bundle, before the container is made.
FILES = """
mkdir -p data/below data/mounted slave shared plain
for name in data/file data/below/file plain/file slave/file shared/file single; do
    echo "contents of $name" >$name
done
"""
BINDS = {
    # destination: (source, options)
    "/data": ("data", ["rbind", "rw", "nosuid"]),
    "/data/inner": ("plain", ["bind", "ro", "nodev"]),
    "/frozen": ("data", ["rbind", "ro", "noexec", "nosuid", "nodev"]),
    "/linked/there": ("plain", ["bind", "rw"]),
    "/etc/single": ("single", ["bind", "ro"]),
    "/writable": ("single", ["bind", "rw"]),
    "/slave": ("slave", ["rbind", "rslave", "rw"]),
    "/shared": ("shared", ["rbind", "rshared", "rw"]),
    "/private": ("shared", ["rbind", "rprivate", "rw", "noatime"]),
}
HELD = ("/data/file", "/data/inner/file", "/frozen/below/file", "/run/there/file", "/writable", "/slave/file")


def everything(spec: Spec, bundle: str) -> Spec:
    """Say all that can be said for both root and a user."""
    process, linux = spec["process"], spec["linux"]
    process["args"] += HELD
    process["cwd"] = "/usr/share"
    process["env"] += ["WORDS=with = and spaces", "EMPTY=", "SYSV=yes"]
    process["user"] |= {"umask": 0o027}
    process["rlimits"] = [{"type": f"RLIMIT_{n}", "soft": s, "hard": h} for n, (s, h) in LIMITS.items()]
    process["capabilities"] = dict.fromkeys(("bounding", "effective", "permitted", "inheritable"), CAPABILITIES)
    process["capabilities"]["ambient"] = CAPABILITIES[:2]
    process["noNewPrivileges"] = True
    process["oomScoreAdj"] = 300
    process["ioPriority"] = {"class": "IOPRIO_CLASS_BE", "priority": 6}
    process["scheduler"] = {"policy": "SCHED_BATCH", "nice": 5}
    spec["root"]["readonly"] = True
    spec["hostname"], spec["domainname"] = "inside", "example"
    spec["annotations"] = {"org.example.words": "kept"}
    spec["mounts"] += [bind(bundle, at, *how) for at, how in BINDS.items()]
    spec["mounts"].append(tmpfs("/scratch", "size=20m", "mode=1750", "noexec", "nosuid"))
    linux["seccomp"] = {
        "defaultAction": "SCMP_ACT_ALLOW",
        "architectures": ["SCMP_ARCH_X86_64"],
        "syscalls": [{"names": ["swapoff"], "action": "SCMP_ACT_ERRNO", "errnoRet": 95}],
    }
    linux["sysctl"] = {
        "net.ipv4.ip_unprivileged_port_start": "70",
        "net.ipv4.ping_group_range": "0 0",
        "net.core.somaxconn": "77",
        "kernel.msgmax": "9000",
        "fs.mqueue.msg_max": "20",
    }
    linux["devices"] = [{"path": "/dev/fuse", "type": "c", "major": 10, "minor": 229, "fileMode": 0o666}]
    linux["personality"] = {"domain": "LINUX32"}
    linux["maskedPaths"] += ["/usr/games", "/etc/shells"]
    linux["readonlyPaths"] += ["/data/below"]
    return spec


def bind(bundle: str, at: str, source: str, options: list[str]) -> dict[str, Any]:
    return {"destination": at, "type": "none", "source": f"{bundle}/{source}", "options": options}


def tmpfs(at: str, *options: str) -> dict[str, Any]:
    return {"destination": at, "type": "tmpfs", "source": "tmpfs", "options": list(options)}


def shared_namespaces(spec: Spec) -> Spec:
    """Without namespaces that a container can do without, and without the mounts that need them."""
    linux = spec["linux"]
    own = ("pid", "mount", "user")
    linux["namespaces"] = [entry for entry in linux["namespaces"] if entry["type"] in own]
    spec["mounts"] = [m for m in spec["mounts"] if m["type"] != "mqueue" and not m["destination"].startswith("/sys")]
    for part in ("devices", "class"):
        whole = {"destination": f"/sys/{part}", "type": "bind", "source": f"/sys/{part}", "options": ["rbind", "ro"]}
        spec["mounts"].append(whole)
    spec.pop("hostname", None)
    return spec


def as_oneself(spec: Spec) -> Spec:
    """The user has the same ids inside as outside."""
    same = [{"containerID": 1000, "hostID": 1000, "size": 1}]
    spec["linux"] |= {"uidMappings": same, "gidMappings": same}
    spec["process"]["user"] |= {"uid": 1000, "gid": 1000}
    return spec


def with_own_and_ranges(spec: Spec) -> Spec:
    """As Podman's keep-id has it: bob has his own ids inside, too, and those of /etc/subuid stand around them."""
    around = [(0, 200000, 1001), (1001, 1001, 1), (1002, 201001, 4000)]
    rows = [{"containerID": inside, "hostID": outside, "size": size} for inside, outside, size in around]
    spec["linux"] |= {"uidMappings": rows, "gidMappings": rows}
    spec["process"]["user"] |= {"uid": 1001, "gid": 1001}
    return spec


def with_ranges(spec: Spec) -> Spec:
    """bob's ids: his own is 0 inside, then come those of /etc/subuid; the process has groups of them."""
    ranges = [{"containerID": 0, "hostID": 1001, "size": 1}, {"containerID": 1, "hostID": 200000, "size": 5000}]
    spec["linux"] |= {"uidMappings": ranges, "gidMappings": ranges}
    spec["process"]["user"] |= {"uid": 0, "gid": 44, "additionalGids": [5, 77]}
    return spec


def with_mapped_root(spec: Spec) -> Spec:
    """Root's container with ids of its own, none of them root's outside; the process has groups of them."""
    ranges = [{"containerID": 0, "hostID": 300000, "size": 5000}]
    spec["linux"] |= {"uidMappings": ranges, "gidMappings": ranges}
    spec["linux"]["namespaces"].append({"type": "user"})
    spec["root"]["path"] = MAPPED
    spec["process"]["user"] |= {"uid": 0, "gid": 44, "additionalGids": [5, 77]}
    return spec
