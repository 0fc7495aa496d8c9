"""`oci-criu-shim job`: what becomes of a job that asked for checkpoints."""

from __future__ import annotations

from oci_criu_shim.jobs import status
from oci_criu_shim.verbs import Option, Verb

STATUS = (
    Option("--json", "", "as JSON"),
    Option("--timeline", "FILE", "draw a job's runs, checkpoints and waits: FILE.svg or FILE.png"),
    Option("--checkpoint-dir", "DIR", "the one that --checkpoint-dir named; the site's by default"),
)

VERBS = {
    "status": Verb(status.status, "[JOBID]", "show a job's runs, checkpoints and restores, or list the jobs", STATUS),
}
