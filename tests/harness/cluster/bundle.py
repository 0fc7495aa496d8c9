"""OCI bundles with a small Debian inside: bash, coreutils, procps and Python with its standard library; and MPI."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from .process import run
from .rootfs import CONTAINED, NODE, Progress, Recipe, ensure
from .settings import write_json
from .suite import SUITE

BUNDLE = Recipe(
    name="bundle",
    # The packages are unpacked, not configured: less to run, and nothing in it that belongs to the host.
    variant="extract",
    packages=(
        *("base-files", "bash", "coreutils", "dash", "findutils", "grep", "hostname", "libc-bin", "procps", "sed"),
        *("python3", "python3-minimal", f"python{SUITE.python}", "util-linux"),
    ),
    unwanted=("/usr/share/*", "/usr/lib/python3*/test/*", "/usr/lib/python3*/idlelib/*", "/usr/lib/*/gconv/*"),
    script="""
        set -e
        for user in root:0 alice:1000 bob:1001; do
            id=${user#*:}
            echo "${user%:*}:x:$id:$id::/:/bin/bash" >>"$1/etc/passwd"
            echo "${user%:*}:x:$id:" >>"$1/etc/group"
        done
        ln -s /run "$1/var/run"
        chroot "$1" ldconfig
    """
    f"""    chroot "$1" python3 -m compileall -q /usr/lib/python{SUITE.python}
    """,
)

# What is for GPUs only, and a Perl that nothing runs, are two thirds of MPI.
HEAVY = tuple(f"/usr/lib/*/{name}*" for name in ("libLLVM", "libamd", "libz3", "libhs", "perl", "ucx/libuct_rocm"))
MPI = replace(
    BUNDLE,
    name="mpi",
    packages=(*BUNDLE.packages, "openmpi-bin", "mpich"),
    unwanted=(*BUNDLE.unwanted, *HEAVY),
)


def unpacked(packages: Sequence[str]) -> Recipe:
    """Return the recipe of a root that has these packages, too, and what they need in /usr/share."""
    unwanted = (*NODE.unwanted, *(pattern for pattern in BUNDLE.unwanted if pattern != "/usr/share/*"), *HEAVY)
    script = f'{BUNDLE.script}mkdir "$1/var/run/slurm"\n'  # Slurm can't, if the root is read-only
    return replace(BUNDLE, name="unpacked", packages=(*BUNDLE.packages, *packages), unwanted=unwanted, script=script)


# A tmpfs keeps the cached root as it is. $1 root, $2 uid, $3 gid.
SPEC = """
set -e
mount -t tmpfs tmpfs "$1/tmp"
mount -t proc proc "$1/proc"
mount --rbind /sys "$1/sys"
cd "$1/tmp"
chown "$2:$3" .
chroot "$1" setpriv --reuid="$2" --regid="$3" --clear-groups sh -c 'cd /tmp && crun spec --rootless'
cat config.json
"""


def quiet(_: str) -> None:
    """Progress of no interest."""


def make_bundle(dest: Path, uid: int, gid: int, progress: Progress = quiet, recipe: Recipe = BUNDLE) -> Path:
    """Make a bundle for rootless use at dest, which must not exist, owned by uid:gid; return dest.

    The configuration is that of `crun spec --rootless`, except that the root is writable (Slurm mounts its spool
    directory at a path that it makes there) and no terminal is asked for.
    """
    cached = ensure(recipe, progress)
    dest.mkdir(parents=True)
    run(["cp", "--archive", "--reflink=auto", str(cached), str(dest / "rootfs")])
    write_json(dest / "config.json", rootless_spec(uid, gid, progress))
    run(["chown", "--recursive", "--no-dereference", f"{uid}:{gid}", str(dest)])
    return dest


def rootless_spec(uid: int, gid: int, progress: Progress = quiet) -> dict[str, Any]:
    """What `crun spec --rootless` of the nodes' crun says for a user."""
    root = ensure(NODE, progress)
    done = run([*CONTAINED, "/bin/sh", "-c", SPEC, "crun-spec", str(root), str(uid), str(gid)])
    spec: dict[str, Any] = json.loads(done.stdout)
    spec["root"]["readonly"] = False
    spec["process"]["terminal"] = False
    return spec
