"""Debian root file systems, built once by mmdebstrap and kept in a cache."""

from __future__ import annotations

import hashlib
import os
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import astuple, dataclass, replace
from pathlib import Path

from .errors import ClusterError
from .lock import locked
from .process import DIE_WITH_PARENT, run
from .suite import CRIU, DEFAULT, SUITE

Progress = Callable[[str], None]
MIRROR = "OCI_CRIU_SHIM_MIRROR"
PAUSE = 0.1  # seconds between looks at whether somebody has built it

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
        *("python3-zstandard", "python3-lz4", "python3-numpy", "charliecloud-runtime"),
        *("iproute2", "nftables", "procps", "gcc", "libc6-dev", "make", "util-linux", "valgrind", "gdb", "strace"),
        *("tini", "libcap2-bin", "uidmap", "kmod", "less"),
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


def cache_dir() -> Path:
    return Path(os.environ.get("OCI_CRIU_SHIM_CACHE", "/var/cache/oci-criu-shim"))


@contextmanager
def kept(root: Path) -> Iterator[Path]:
    """Keep a cached root from being removed as an older one while it is in use."""
    with locked(_lock_of(root), shared=True):
        if not root.is_dir():
            raise ClusterError(f"{root}: the root file system is gone", "start again: it will be built anew")
        yield root


def ensure(recipe: Recipe, progress: Progress) -> Path:
    """Return the cached root of a recipe; build it if it is missing (about a minute)."""
    root = cache_dir() / recipe.key()
    if not root.is_dir():
        _build_once(recipe, root, progress)
        _remove_older(root)
    return root


def _build_once(recipe: Recipe, root: Path, progress: Progress) -> None:
    """Build a root, or wait for whoever does; not for the lock, which users of the root hold as long as they run."""
    while not root.is_dir():
        try:
            with locked(_lock_of(root), wait=False):
                if not root.is_dir():
                    _build(recipe, root, progress)
        except BlockingIOError:
            time.sleep(PAUSE)


def _lock_of(root: Path) -> Path:
    return root.with_name(root.name + ".lock")


def _partial_of(root: Path) -> Path:
    """Return where a root is built. A killed build leaves it behind, and the next build removes it."""
    return root.with_name(root.name + ".partial")


def _build(recipe: Recipe, root: Path, progress: Progress) -> None:
    _require_mmdebstrap(progress)
    progress(f"building {root} (once, takes about a minute)")
    partial = _partial_of(root)
    shutil.rmtree(partial, ignore_errors=True)
    try:
        target, scratch = partial / "root", partial / "tmp"
        scratch.mkdir(parents=True)
        command = _mmdebstrap(recipe, target, scratch, _mirror())
        run([*CONTAINED, "env", f"TMPDIR={scratch}", *command])
        run([*CONTAINED, "/bin/sh", "-c", recipe.script, recipe.name, str(target)])
        # The mirror is this machine's affair and has no place in a root.
        (target / "etc/apt/sources.list").unlink(missing_ok=True)
        target.rename(root)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


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
        *(SUITE.name, str(target)),
        *(f"deb {mirror} {SUITE.name} main", f"deb [check-valid-until=no] {mirror} sid main"),
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
    with locked(cache_dir() / "mmdebstrap.lock"):  # other roots may be built at this time
        if not shutil.which("mmdebstrap"):
            progress("installing mmdebstrap")
            run(["apt-get", "update"])
            run(["apt-get", "--yes", "install", "mmdebstrap", "debian-archive-keyring"])


def _remove_older(root: Path) -> None:
    """Remove the roots of older recipes of the same name that no instance uses."""
    prefix = root.name.rpartition("-")[0]
    for lock in root.parent.glob(f"{prefix}-????????????.lock"):
        older = lock.with_suffix("")
        if older == root:
            continue
        try:
            with locked(lock, wait=False):
                for directory in (older, _partial_of(older)):
                    shutil.rmtree(directory, ignore_errors=True)
                lock.unlink()
        except BlockingIOError:
            continue
