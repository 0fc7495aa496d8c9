"""`oci-criu-shim job`: show the status of jobs' checkpoints, and take one now."""

from __future__ import annotations

from oci_criu_shim.cli.job import checkpoint, exec, foresee, logs, migrate, receive, status
from oci_criu_shim.cli.option import DIRECTORY, Option, Verb

STATUS = (
    Option("--json", "", "print JSON"),
    Option("--timeline", "FILE", "draw a job's runs, checkpoints and waits: FILE.svg, .png or .html"),
    DIRECTORY,
)
CHECKPOINT = (
    Option("--here", "", "only those on this node; by default a step of the job reaches all of its nodes"),
    Option("--json", "", "print JSON"),
    DIRECTORY,
)
EXEC = (
    Option("--step", "STEP", "the container of this step: `batch`, or a number"),
    Option("--task", "TASK", "the container of this task of the step, by its number"),
    Option("--node", "NODE", "the container on this node"),
    Option("--tty -t", "", "give the program a terminal; a shell that you do not name has one"),
    Option("--here", "", "the container is on this node; by default a step of the job goes to it"),
    Option("--lines", "", "with --here, print JSON objects {node, step, task} instead, one a line"),
    DIRECTORY,
)
MIGRATE = (
    Option("--to", "NODE", "the node to move it to; by default any that is free"),
    Option("--wait", "TIME", "how long to wait for a free node, and then for the job to begin there (60s)"),
    Option(
        "--precopy",
        "MODE",
        "`auto` sends memory while the program runs on, and then what it has written since, if that freezes it for less"
        " time; `off` sends all of it while the program is frozen (auto)",
    ),
    Option("--here", "", "for its own use: send the job's container on this node where standard input says"),
    Option("--look", "", "with --here, tell only how much memory it has"),
    Option("--json", "", "print JSON"),
)
RECEIVE = (Option("--keep", "PATH", "for the epilog: keep what was received there and not taken over"),)
FORESEE = (
    *(
        Option(f"--{name}", "VALUE", "as for sbatch")
        for name in (
            *("partition", "qos", *foresee.OPTIONS),
            *("checkpoint", "checkpoint-interval", "checkpoint-dir"),
        )
    ),
    Option("--quiet", "", "print nothing but a warning"),
)

VERBS = {
    "checkpoint": Verb(checkpoint.checkpoint, "JOBID", CHECKPOINT),
    "exec": Verb(exec.execute, "JOBID [COMMAND...]", EXEC),
    "foresee": Verb(foresee.foresee, "", FORESEE),
    "migrate": Verb(migrate.migrate, "JOBID", MIGRATE),
    "receive": Verb(receive.receive, "JOBID", RECEIVE),
    "logs": Verb(logs.logs, "JOBID", (Option("--json", "", "print JSON"), DIRECTORY)),
    "status": Verb(status.status, "[JOBID]", STATUS),
}
