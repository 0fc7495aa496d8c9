"""`oci-criu-shim job`: what becomes of a job that asked for checkpoints."""

from __future__ import annotations

from oci_criu_shim.cli.job import checkpoint, foresee, status
from oci_criu_shim.cli.verbs import Option, Verb

STATUS = (
    Option("--json", "", "as JSON"),
    Option("--timeline", "FILE", "draw a job's runs, checkpoints and waits: FILE.svg or FILE.png"),
    Option("--checkpoint-dir", "DIR", "the one that --checkpoint-dir named; the site's by default"),
)

CHECKPOINT = (
    Option("--here", "", "those on this node only; by default a step of the job reaches all of its nodes"),
    Option("--json", "", "a JSON object {job, node, container, taken, said} a line"),
)

FORESEE = (
    *(Option(f"--{name}", "VALUE", "as in the help of sbatch") for name in ("partition", "qos", *foresee.OPTIONS)),
    *(Option(f"--{name}", "VALUE", "the same") for name in ("checkpoint", "checkpoint-interval", "checkpoint-dir")),
)

VERBS = {
    "checkpoint": Verb(checkpoint.checkpoint, "JOBID", "checkpoint a running job's containers now", CHECKPOINT),
    "foresee": Verb(foresee.foresee, "", "say if a job's grace time would be too short for a checkpoint", FORESEE),
    "status": Verb(status.status, "[JOBID]", "show a job's runs, checkpoints and restores, or list the jobs", STATUS),
}
