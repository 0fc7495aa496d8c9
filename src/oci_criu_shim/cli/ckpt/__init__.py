"""`oci-criu-shim ckpt`: looking at, checking, moving and removing checkpoints."""

from __future__ import annotations

from oci_criu_shim.cli.ckpt import change, look
from oci_criu_shim.cli.verbs import Option, Verb

ROOTFS = Option("--rootfs", "", "with the root file system, for podman where the bundle is not")
JSON = Option("--json", "", "as JSON")
FORCE = Option("--force -f", "", "even of jobs that may still need them")
KEEP = Option("--keep", "N", "leave the newest N of each task")
OLDER = Option("--older-than", "TIME", "leave those that are younger: 90m, 12h, 7d, …")
COMPLETED = Option("--completed", "", "of jobs that have ended with 0, even if Slurm still knows them; no others")
DRY_RUN = Option("--dry-run -n", "", "only say what would be removed")

VERBS = {
    "list": Verb(look.listing, "[DIR]", "list the checkpoints in DIR, or in the site's directory", (JSON,)),
    "show": Verb(look.show, "CHECKPOINT", "show the processes, memory, files, sockets and mounts in one", (JSON,)),
    "verify": Verb(
        look.verify, "[CHECKPOINT|DIR]...", "compare all bytes with their checksums, of all by default", (JSON,)
    ),
    "diff": Verb(look.diff, "CHECKPOINT CHECKPOINT", "show what changed from one to another", (JSON,)),
    "export": Verb(
        change.export, "CHECKPOINT FILE", "write one to FILE.tar, .tar.gz or .tar.zst, as podman does", (ROOTFS, JSON)
    ),
    "import": Verb(change.import_, "FILE DIR", "make what `export` wrote the newest checkpoint in DIR", (JSON,)),
    "rm": Verb(change.remove, "CHECKPOINT...", "remove checkpoints", (FORCE, JSON)),
    "prune": Verb(
        change.prune,
        "[DIR]",
        "remove the checkpoints of jobs that Slurm no longer knows",
        (KEEP, OLDER, COMPLETED, DRY_RUN, JSON),
    ),
}
