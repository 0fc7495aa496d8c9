"""Debian root file systems, built once by mmdebstrap and kept in a cache."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Callable, Sequence
from dataclasses import astuple, dataclass, replace
from pathlib import Path

from . import cache
from .errors import ClusterError
from .lock import locked
from .process import DIE_WITH_PARENT, run
from .suite import CRIU, DEFAULT, SUITE

Progress = Callable[[str], None]
MIRROR = "OCI_CRIU_SHIM_MIRROR"

# Unmounts and leftover processes of a killed build are the kernel's business: both live in namespaces of their own.
CONTAINED = (*DIE_WITH_PARENT, "unshare", "--mount", "--pid", "--fork", "--kill-child=KILL", "--mount-proc", "--")

# dpkg would use TMPDIR inside the chroot, and the host's does not exist there.
SID_INSTALL = (
    "APT_CONFIG=$MMDEBSTRAP_APT_CONFIG apt-get -o Dir::Bin::dpkg=env -o DPkg::Options::=--unset=TMPDIR"
    ' -o DPkg::Options::=dpkg -o DPkg::Chroot-Directory="$1" --yes -t sid install'
)
SID_PREFERENCES = "Package: *\nPin: release n=sid\nPin-Priority: 100\n"


@dataclass(frozen=True)
class Recipe:
    """What a root is made of; its hash names the root in the cache."""

    name: str
    variant: str
    packages: tuple[str, ...]
    sid_packages: tuple[str, ...] = ()
    unwanted: tuple[str, ...] = ("/usr/share/doc/*", "/usr/share/man/*", "/usr/share/locale/*", "/usr/share/info/*")
    script: str = ""
    """Shell commands run on the host at the end; "$1" is the root."""

    def key(self) -> str:
        parts = (astuple(self), SID_INSTALL, SID_PREFERENCES)
        suite = "" if SUITE.name == DEFAULT else f"{SUITE.name}-"
        return f"{suite}{self.name}-{hashlib.sha256(repr(parts).encode()).hexdigest()[:12]}"


NODE = Recipe(
    name="rootfs",
    variant="minbase",
    packages=(
        *("ca-certificates", "slurmctld", "slurmd", "slurm-client", "slurm-wlm-basic-plugins-dev", "libslurm-dev"),
        *("munge", "crun", "runc", "python3", "python3-pyroute2", "python3-jsonschema", "python3-protobuf"),
        *("python3-zstandard", "python3-lz4", "python3-xxhash", "python3-numpy", "charliecloud-runtime"),
        *("iproute2", "nftables", "procps", "gcc", "libc6-dev", "make", "util-linux", "valgrind", "gdb", "strace"),
        *("tini", "libcap2-bin", "uidmap", "kmod", "less", "bindfs"),
        *("podman", "netavark", "passt", "fuse-overlayfs", "docker.io", "docker-cli", "iptables", "liblua5.4-0"),
        *(name for name in CRIU if name not in SUITE.from_sid),
    ),
    sid_packages=SUITE.from_sid,
    script="""
        set -e
        chroot "$1" useradd --uid 1000 --create-home --shell /bin/bash alice
        chroot "$1" useradd --uid 1001 --create-home --shell /bin/bash bob
        chmod 700 "$1/home/alice" "$1/home/bob"
        : >"$1/etc/subuid"
        : >"$1/etc/subgid"
        test -s "$1/etc/munge/munge.key" || chroot "$1" setpriv --reuid=munge --regid=munge --clear-groups mungekey
    """,
)


def with_packages(recipe: Recipe, packages: Sequence[str]) -> Recipe:
    """Return a recipe with more packages; another name keeps both roots in the cache."""
    more = tuple(name for name in packages if name not in recipe.packages)
    if not more:
        return recipe
    # Some packages, as OpenJDK's, can't be configured without the directories of their manual pages.
    return replace(recipe, name=f"{recipe.name}-more", packages=(*recipe.packages, *more), unwanted=())


def ensure(recipe: Recipe, progress: Progress) -> Path:
    """Return the cached root of a recipe; build it if it is missing (about a minute)."""
    return cache.ensure(recipe.key(), lambda scratch: _build(recipe, scratch, progress))


def _build(recipe: Recipe, scratch: Path, progress: Progress) -> Path:
    _require_mmdebstrap(progress)
    progress(f"building {recipe.key()} in {cache.cache_dir()} (once, takes about a minute)")
    target, temporary = scratch / "root", scratch / "tmp"
    temporary.mkdir()
    command = _mmdebstrap(recipe, target, temporary, _mirror())
    run([*CONTAINED, "env", f"TMPDIR={temporary}", *command])
    run([*CONTAINED, "/bin/sh", "-c", recipe.script, recipe.name, str(target)])
    # The mirror is this machine's affair and has no place in a root.
    (target / "etc/apt/sources.list").unlink(missing_ok=True)
    return target


def _mmdebstrap(recipe: Recipe, target: Path, scratch: Path, mirror: str) -> list[str]:
    preferences = scratch / "sid"
    preferences.write_text(SID_PREFERENCES)
    preferences.chmod(0o644)
    hooks = [f'--setup-hook=mkdir -p "$1/etc/apt/preferences.d"; cp {preferences} "$1/etc/apt/preferences.d/sid"']
    if recipe.sid_packages:
        hooks.append(f"--customize-hook={SID_INSTALL} {' '.join(recipe.sid_packages)}")
    return [
        *("mmdebstrap", "--mode=root", f"--variant={recipe.variant}"),
        '--aptopt=Acquire::Check-Valid-Until "false"',
        *(f"--dpkgopt=path-exclude={pattern}" for pattern in recipe.unwanted),
        *hooks,
        f"--include={','.join(recipe.packages)}",
        *(SUITE.release, str(target)),
        *(f"deb {mirror} {SUITE.release} main", f"deb [check-valid-until=no] {mirror} sid main"),
    ]


def _mirror() -> str:
    """Return the URI of a Debian mirror: the one that MIRROR names, or that apt has been told of on this machine."""
    if mirror := os.environ.get(MIRROR) or _mirror_of_apt():
        return mirror
    raise ClusterError("apt knows no Debian mirror on this machine", f"name one in the environment variable {MIRROR}")


def _mirror_of_apt() -> str | None:
    if not shutil.which("apt-get"):
        return None
    argv = ["apt-get", "indextargets", "--format", "$(REPO_URI)", "Created-By: Packages", "Label: Debian"]
    found = run(argv, check=False).stdout.split()
    if not found:  # labels are in the lists, which a fresh machine has to fetch first
        run(["apt-get", "update"])
        found = run(argv, check=False).stdout.split()
    return min(found, default=None)


def _require_mmdebstrap(progress: Progress) -> None:
    if shutil.which("mmdebstrap"):
        return
    if not shutil.which("apt-get"):
        raise ClusterError("mmdebstrap is missing", "install mmdebstrap by this machine's package manager")
    with locked(cache.cache_dir() / "mmdebstrap.lock"):  # other roots may be built at this time
        if not shutil.which("mmdebstrap"):
            progress("installing mmdebstrap")
            run(["apt-get", "update"])
            run(["apt-get", "--yes", "install", "mmdebstrap", "debian-archive-keyring"])
