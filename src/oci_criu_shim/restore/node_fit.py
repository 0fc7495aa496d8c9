"""What a restore needs of its node: noted before the dump, compared before the restore."""

from __future__ import annotations

import hashlib
import json
import os
import re

from oci_criu_shim.errors import Misfit, ShimError
from oci_criu_shim.host import cgroups, criu, process

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from typing import Any

    from oci_criu_shim.container.bundle import Bundle

# Namespaces that CRIU could not leave out of a checkpoint, and the one that a restore has to make with other clocks.
NEVER_JOINED = ("ipc", "mount", "time", "user")
CPUINFO = "/proc/cpuinfo"
FLAGS = re.compile(r"(flags|[Ff]eatures)\s*: (.*)")
DIGEST = "org.opencontainers.image.digest"
ALIKE = "have the site set `feature` in config.toml to one that like nodes have, or ask for such with --constraint"
TASKS = ("process", "mounts", "root", "annotations")  # of config.json: what Slurm changes for each task
# Of x86's flags those that programs see: a library chooses its code by them when a program starts. The others are the
# kernel's and the hypervisor's business, and change from one kernel to another.
SEEN = re.compile(
    r"""(3dnow|amx_|avx|bmi|fma|movdir|sha|sse)\w*
    |abm|adx|aes|cldemote|clflush|clflushopt|clwb|clzero|cmov|cmpccxadd|cx16|cx8|enqcmd|erms|f16c|fpu|fsgsbase|fsrm
    |fxsr|fxsr_opt|gfni|hle|lahf_lm|lm|lwp|misalignsse|mmx|mmxext|monitorx|movbe|mpx|ospke|pclmulqdq|pconfig|pni|popcnt
    |prefetchwt1|ptwrite|rdpid|rdrand|rdseed|rdtscp|rtm|serialize|ssse3|syscall|tbm|tsc|tsxldtrk|user_shstk|vaes
    |vpclmulqdq|waitpkg|wbnoinvd|xgetbv1|xop|xsave|xsavec|xsaveopt""",
    re.VERBOSE,
)


def needs(bundle: Bundle) -> dict[str, Any]:
    """What a manifest says of a container of `bundle` on this node; the rest is known by other names."""
    return {"machine": os.uname().machine, "cpu": sorted(cpu()), "cgroup": cgroup_version(), "image": image(bundle)}


def cpu(path: str = CPUINFO) -> set[str]:
    """The features of this node's processors that matter to programs, as /proc/cpuinfo names them.

    Only the first processor's: with many, the kernel takes long to tell of all.
    """
    with open(path, encoding="ascii", errors="replace") as stream:
        for line in stream:
            if found := FLAGS.match(line):
                words = found[2].split()
                return set(words) if found[1] != "flags" else set(filter(SEEN.fullmatch, words))
    return set()


def cgroup_version() -> int:
    """1 where any controller is in a version 1 hierarchy."""
    return 2 if set(cgroups.of("self")) == {""} else 1


def image(bundle: Bundle) -> str:
    """The image's digest where the bundle names it, else one of what of config.json is the same for all tasks."""
    named = bundle.config.get("annotations", {}).get(DIGEST)
    if named:
        return str(named)
    lasting = {key: value for key, value in bundle.config.items() if key not in TASKS}
    text = json.dumps([os.path.realpath(bundle.rootfs), lasting], sort_keys=True)
    return "config.json:" + hashlib.sha256(text.encode()).hexdigest()


def check_bundle(bundle: Bundle) -> None:
    """Raise ShimError if a container of this bundle would share what a checkpoint brings along as its own."""
    for kind in ("pid", *NEVER_JOINED):
        if bundle.namespaces.get(kind):
            raise ShimError(
                f"{bundle.path}/config.json joins a namespace of type {kind}, and the checkpoint has one of its own",
                "name no path for it in linux.namespaces; of a pod: do not --share it",
            )


def check(manifest: Mapping[str, Any], bundle: Bundle) -> None:
    """Raise Misfit if this node lacks what the checkpoint needs. Mounts have their own check in RestorePlan."""
    needed = manifest.get("needs")
    if not needed:
        return  # another runtime's, or from before they were noted
    _check_criu(manifest["criu"])
    made = f"the checkpoint was made on {manifest['node']}"
    if needed["machine"] != os.uname().machine:
        raise Misfit(f"{made}, a {needed['machine']}, and this node is a {os.uname().machine}", ALIKE)
    if missing := sorted(set(needed["cpu"]) - cpu()):
        raise Misfit(f"this node's processor lacks {' '.join(missing[:8])}, and {made}, which has them", ALIKE)
    if needed["cgroup"] != cgroup_version():
        said = f"{made}, with cgroup v{needed['cgroup']}, and this node has v{cgroup_version()}"
        raise Misfit(said, "have all nodes boot with the same version of control groups")


def differences(manifest: Mapping[str, Any], bundle: Bundle) -> Iterator[str]:
    """What of this node, and of a job's bundle, is not what it was, and may not matter."""
    made, here = manifest.get("kernel", ""), os.uname().release
    if _release(here) < _release(made):
        yield f"it was made on Linux {made}, and this node has {here}, which is older"
    if "SLURM_CONTAINER" in bundle.environment() and not bundle.is_an_engines:
        yield from filter(None, [changed(manifest, bundle)])


def _release(text: str) -> tuple[int, ...]:
    """x and y of a version that begins with x.y."""
    return tuple(int(part) for part in re.findall(r"\d+", text)[:2])


def _check_criu(made: str) -> None:
    """An older CRIU may not know all of the images; their form does not change within x.y."""
    found = criu.version(process.ENVIRONMENT)
    if found[:2] < _release(made):
        said = f"the checkpoint was made by CRIU {made}, and this node has {'.'.join(map(str, found))}"
        raise Misfit(said, "install the same CRIU on all nodes")


def changed(manifest: Mapping[str, Any], bundle: Bundle) -> str:
    """That the bundle is not what it was; empty where it is."""
    then = manifest.get("needs", {}).get("image")
    return f"the bundle is not what it was at the checkpoint ({then})" if then and then != image(bundle) else ""
