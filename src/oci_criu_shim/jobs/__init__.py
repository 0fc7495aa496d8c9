"""`oci-criu-shim job`: what becomes of a job that asked for checkpoints."""

from __future__ import annotations

from oci_criu_shim.jobs import checkpoint, status
from oci_criu_shim.verbs import Option, Verb

STATUS = (
    Option("--json", "", "as JSON"),
    Option("--timeline", "FILE", "draw a job's runs, checkpoints and waits: FILE.svg or FILE.png"),
    Option("--checkpoint-dir", "DIR", "the one that --checkpoint-dir named; the site's by default"),
)

CHECKPOINT = (
    Option("--here", "", "those on this node only; by default a step of the job reaches all of its nodes"),
    Option("--json", "", "a JSON object {job, node, container, taken, said} a line"),
)

VERBS = {
    "checkpoint": Verb(checkpoint.checkpoint, "JOBID", "checkpoint a running job's containers now", CHECKPOINT),
    "status": Verb(status.status, "[JOBID]", "show a job's runs, checkpoints and restores, or list the jobs", STATUS),
}
