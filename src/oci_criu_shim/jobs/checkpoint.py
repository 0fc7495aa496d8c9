"""`job checkpoint`: have the containers of a running job checkpointed now; they run on."""

from __future__ import annotations

import json
import os
import sys
import time

from oci_criu_shim import files, preempt, process, slurm
from oci_criu_shim.checkpointer import ANSWER, REQUEST
from oci_criu_shim.errors import ShimError
from oci_criu_shim.job import RUN_DIRECTORY
from oci_criu_shim.jobs.place import is_name, job_number
from oci_criu_shim.signals import CHECKPOINT

TYPE_CHECKING = False
if TYPE_CHECKING:
    from oci_criu_shim.cli import Invocation
    from oci_criu_shim.container import Container

POLL_SECONDS = 0.05
PROGRESS_SECONDS = 2.0


def checkpoint(call: Invocation) -> int:
    """On the job's nodes, by a step of its; --here: on this one."""
    if call.flag("here"):
        return _here(job_number(call.container), call.flag("json"))
    name = call.container if is_name(call.container) else str(job_number(call.container))
    words = [os.path.abspath(sys.argv[0]), "job", "checkpoint", "--here", *(["--json"] if call.flag("json") else [])]
    return process.exit_status(slurm.run_on_nodes(name, words))


def _here(job: int, as_json: bool) -> int:
    node, root = os.uname().nodename, os.path.join(RUN_DIRECTORY, str(job))
    if os.path.isdir(root) and not os.access(root, os.R_OK | os.X_OK):
        raise ShimError(f"job {job} belongs to somebody else")
    containers = list(preempt.asked(root))
    if not containers:
        raise ShimError(f"job {job} has no container on {node} to be checkpointed", "start one with --checkpoint")
    for container in containers:
        _request(container)
    failed = False
    for container in containers:
        status, text = _answer(container)
        failed |= status != 0
        if as_json:
            fields = {"job": job, "node": node, "container": container.name, "taken": status == 0, "said": text}
            print(json.dumps(fields), flush=True)
        else:
            print(f"{node}: {text}", flush=True)
    return int(failed)


def _request(container: Container) -> None:
    files.remove_if_there(container.path(ANSWER))
    try:
        os.close(os.open(container.path(REQUEST), os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
    except FileExistsError:
        raise ShimError(f"container {container.name} is being checkpointed already", "wait for its end") from None
    supervisor = container.alive("supervisor")
    if supervisor:
        os.kill(supervisor, CHECKPOINT)


def _answer(container: Container) -> tuple[int, str]:
    """What came of it: 0 and a line, or another number and why not."""
    said = time.monotonic() + PROGRESS_SECONDS
    while True:
        over = container.alive("supervisor") is None
        try:
            with open(container.path(ANSWER), encoding="utf-8") as stream:
                status, _, text = stream.read().partition(" ")
            files.remove_if_there(container.path(ANSWER))
            return int(status), text
        except FileNotFoundError:
            pass
        if over:
            return 1, f"container {container.name} has ended"
        if time.monotonic() > said:
            print(f"checkpointing {container.name} ...", file=sys.stderr, flush=True)
            said += 10 * PROGRESS_SECONDS
        time.sleep(POLL_SECONDS)
