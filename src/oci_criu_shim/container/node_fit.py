"""Note before a dump what a restore will need of its node, and compare it before the restore."""

from __future__ import annotations

import json
import os
import re

from oci_criu_shim import files
from oci_criu_shim.container import limits
from oci_criu_shim.errors import Misfit, ShimError
from oci_criu_shim.host import cgroups, criu, process

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping
    from typing import Any

    from oci_criu_shim.checkpoints.manifest import Needs
    from oci_criu_shim.container.bundle import Bundle

# Namespaces that CRIU can't leave out of a checkpoint, and "time", which a restore has to make with other clocks.
NEVER_JOINED = ("ipc", "mount", "time", "user")
PAGE = os.sysconf("SC_PAGE_SIZE")
CPUINFO = "/proc/cpuinfo"
FLAGS = re.compile(r"(flags|[Ff]eatures)\s*: (.*)")
DIGEST = "org.opencontainers.image.digest"
ALIKE = "have the site set `feature` in config.toml to one that such nodes share, or ask for it with --constraint"
TASKS = ("process", "mounts", "root", "annotations")  # parts of config.json that Slurm changes for each task
# The x86 flags that programs see: libraries choose their code by them when a program starts. The others concern only
# the kernel and the hypervisor, and change from one kernel to another.
SEEN = re.compile(
    r"""(3dnow|amx_|avx|bmi|fma|movdir|sha|sse)\w*
    |abm|adx|aes|cldemote|clflush|clflushopt|clwb|clzero|cmov|cmpccxadd|cx16|cx8|enqcmd|erms|f16c|fpu|fsgsbase|fsrm
    |fxsr|fxsr_opt|gfni|hle|lahf_lm|lm|lwp|misalignsse|mmx|mmxext|monitorx|movbe|mpx|ospke|pclmulqdq|pconfig|pni|popcnt
    |prefetchwt1|ptwrite|rdpid|rdrand|rdseed|rdtscp|rtm|serialize|ssse3|syscall|tbm|tsc|tsxldtrk|user_shstk|vaes
    |vpclmulqdq|waitpkg|wbnoinvd|xgetbv1|xop|xsave|xsavec|xsaveopt""",
    re.VERBOSE,
)


def needs(bundle: Bundle, pids: Iterable[int]) -> Needs:
    """Return what a manifest notes under `needs` for a container of `bundle` on this node with the processes `pids`."""
    return {
        "machine": os.uname().machine,
        "cpu": sorted(cpu()),
        "cgroup": cgroup_version(),
        "image": image(bundle),
        "page": PAGE,
        "limits": limits.highest(pids),
    }


def cpu(path: str = CPUINFO) -> set[str]:
    """Return the features of this node's first processor that matter to programs, as /proc/cpuinfo names them.

    If there are many processors, the kernel takes long to tell of all.
    """
    with open(path, encoding="ascii", errors="replace") as stream:
        for line in stream:
            if found := FLAGS.match(line):
                words = found[2].split()
                return set(words) if found[1] != "flags" else set(filter(SEEN.fullmatch, words))
    return set()


def cgroup_version() -> int:
    """Return 1 if any controller is in a version 1 hierarchy, else 2."""
    return 2 if set(cgroups.of("self")) == {""} else 1


def image(bundle: Bundle) -> str:
    """Return the image's digest if the bundle names it, else one of the parts of config.json that all tasks share."""
    named = bundle.config.get("annotations", {}).get(DIGEST)
    if named:
        return str(named)
    lasting = {key: value for key, value in bundle.config.items() if key not in TASKS}
    text = json.dumps([os.path.realpath(bundle.rootfs), lasting], sort_keys=True)
    return "config.json:" + files.digest(text)


def check_bundle(bundle: Bundle) -> None:
    """Raise ShimError if a container of this bundle would join a namespace that the checkpoint brings along."""
    for kind in ("pid", *NEVER_JOINED):
        if bundle.namespaces.get(kind):
            raise ShimError(
                f"{bundle.file} joins a namespace of type {kind}, and the checkpoint has one of its own",
                "name no path for it in linux.namespaces; of a pod: do not --share it",
            )


def check(manifest: Mapping[str, Any]) -> None:
    """Raise Misfit if this node lacks what the checkpoint needs. Mounts have their own check in RestorePlan.

    Of the manifest, `needs`, `node` and `criu` are enough.
    """
    needed = manifest.get("needs")
    if not needed:
        return  # another runtime's checkpoint, or one from before needs were noted
    _check_criu(manifest["criu"])
    made = f"the checkpoint was made on {manifest['node']}"
    if needed["machine"] != os.uname().machine:
        raise Misfit(f"{made}, a {needed['machine']}, and this node is a {os.uname().machine}", ALIKE)
    if needed.get("page", PAGE) != PAGE:
        raise Misfit(f"{made}, with pages of {needed['page']} bytes, and this node's have {PAGE}", ALIKE)
    if missing := sorted(set(needed["cpu"]) - cpu()):
        raise Misfit(f"this node's processor lacks {' '.join(missing[:8])}, and {made}, which has them", ALIKE)
    if needed["cgroup"] != cgroup_version():
        said = f"{made}, with cgroup v{needed['cgroup']}, and this node has v{cgroup_version()}"
        raise Misfit(said, "have all nodes boot with the same version of control groups")
    limits.check(needed)


def differences(manifest: Mapping[str, Any], bundle: Bundle) -> Iterator[str]:
    """Yield in words how this node, and a job's bundle, differ from what they were; it may not matter."""
    made, here = manifest.get("kernel", ""), os.uname().release
    if _release(here) < _release(made):
        yield f"it was made on Linux {made}, and this node has {here}, which is older"
    yield from limits.differences(manifest.get("needs", {}))
    if "SLURM_CONTAINER" in bundle.environment() and not bundle.is_an_engines:
        yield from filter(None, [changed(manifest, bundle)])


def _release(text: str) -> tuple[int, ...]:
    """Return x and y of a version that begins with x.y."""
    return tuple(int(part) for part in re.findall(r"\d+", text)[:2])


def _check_criu(made: str) -> None:
    """Raise Misfit if this node's CRIU is older: it may not know all of the images, whose form is fixed within x.y."""
    found = criu.version(process.ENVIRONMENT)
    if found[:2] < _release(made):
        said = f"the checkpoint was made by CRIU {made}, and this node has {'.'.join(map(str, found))}"
        raise Misfit(said, "install the same CRIU on all nodes")
    criu.require_bindings(_release(made))


def changed(manifest: Mapping[str, Any], bundle: Bundle) -> str:
    """Return a sentence that says that the bundle has changed; empty if it has not."""
    then = manifest.get("needs", {}).get("image")
    return f"the bundle is not what it was at the checkpoint ({then})" if then and then != image(bundle) else ""
