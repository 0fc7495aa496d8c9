"""`oci-criu-shim ckpt`: list, check, move and remove checkpoints."""

from __future__ import annotations

from oci_criu_shim.cli.ckpt import change, look
from oci_criu_shim.cli.option import DIRECTORY, Option, Verb

ROOTFS = Option("--rootfs", "", "include the root file system, for podman on a host without the bundle")
JSON = Option("--json", "", "print JSON")
FORCE = Option("--force -f", "", "remove even those of jobs that may still need them")
KEEP = Option("--keep", "N", "leave the newest N of each task, at least 1")
OLDER = Option(
    "--older-than", "TIME", "only those older than TIME: 90m, 12h, 7d, …; the site's `keep-ended` by default"
)
COMPLETED = Option("--completed", "", "only those of jobs that ended with status 0, even recent ones")
DRY_RUN = Option("--dry-run -n", "", "only print what would be removed")

ONE = "JOBID[:SEQ]|PATH"

VERBS = {
    "list": Verb(look.listing, "[JOBID[:SEQ]|DIR]", (DIRECTORY, JSON)),
    "show": Verb(look.show, ONE, (DIRECTORY, JSON)),
    "verify": Verb(look.verify, f"[{ONE}]...", (DIRECTORY, JSON)),
    "diff": Verb(look.diff, f"{ONE} {ONE}", (DIRECTORY, JSON)),
    "export": Verb(change.export, f"{ONE} FILE", (DIRECTORY, ROOTFS, JSON)),
    "import": Verb(change.import_, "FILE DIR", (JSON,)),
    "drain": Verb(change.drain, "PATH", (JSON,)),
    "rm": Verb(change.remove, f"{ONE}...", (DIRECTORY, FORCE, JSON)),
    "prune": Verb(change.prune, "[JOBID|DIR]", (DIRECTORY, KEEP, OLDER, COMPLETED, DRY_RUN, JSON)),
}
