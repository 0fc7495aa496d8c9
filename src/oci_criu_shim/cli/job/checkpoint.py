"""`job checkpoint`: have the containers of a running job checkpointed now; they run on."""

from __future__ import annotations

import json
import os
import sys
import time

from oci_criu_shim import files
from oci_criu_shim.cli.job.place import is_name, job_number
from oci_criu_shim.container import ownership
from oci_criu_shim.container.jobs import asked
from oci_criu_shim.container.record import ANSWER, REQUEST
from oci_criu_shim.errors import ShimError
from oci_criu_shim.host import process
from oci_criu_shim.host.signals import CHECKPOINT
from oci_criu_shim.slurm import controller
from oci_criu_shim.slurm.tasks import RUN_DIRECTORY

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from oci_criu_shim.cli.invocation import Invocation
    from oci_criu_shim.container.record import Container

START = "start one with --checkpoint"
POLL_SECONDS = 0.05
PROGRESS_SECONDS = 2.0


def checkpoint(call: Invocation) -> int:
    """On the job's nodes, by a step of its; --here: on this one."""
    as_json = call.flag("json")
    if call.flag("here"):
        return _here(job_number(call.container), as_json)
    name = call.container if is_name(call.container) else str(job_number(call.container))
    found: list[str] = []

    def hear(line: str) -> None:
        try:
            fields = json.loads(line)
            found.extend([fields["container"]] if fields["container"] else [])
            _tell(fields, as_json)
        except (KeyError, TypeError, ValueError):
            print(line, file=sys.stderr, flush=True)  # a task prolog's

    words = [os.path.abspath(sys.argv[0]), "job", "checkpoint", "--here", "--json"]
    status = process.exit_status(controller.run_on_nodes(name, words, hear))
    if status == 0 and not found:
        raise ShimError(f"job {name} has no container to be checkpointed", START)
    return status


def _here(job: int, as_json: bool) -> int:
    """With --json it is no failure that there are none: another node of the job may have some."""
    node, root = os.uname().nodename, os.path.join(RUN_DIRECTORY, str(job))
    ownership.require_own(root)
    if os.path.isdir(root) and not os.access(root, os.R_OK | os.X_OK):
        raise ShimError(f"job {job} belongs to somebody else", "it is for its owner alone")
    containers = list(asked(root))
    if not containers:
        said = f"job {job} has no container on {node} to be checkpointed"
        if not as_json:
            raise ShimError(said, START)
        _tell({"job": job, "node": node, "container": None, "taken": False, "said": said}, as_json)
    for container in containers:
        _request(container)
    failed = False
    for container in containers:
        status, text = _answer(container)
        failed |= status != 0
        _tell({"job": job, "node": node, "container": container.name, "taken": status == 0, "said": text}, as_json)
    return int(failed)


def _tell(fields: dict[str, Any], as_json: bool) -> None:
    print(json.dumps(fields) if as_json else f"{fields['node']}: {fields['said']}", flush=True)


def _request(container: Container) -> None:
    try:
        os.close(os.open(container.path(REQUEST), os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
    except FileExistsError:
        container.signal("supervisor", CHECKPOINT)  # who asked may have been killed before
        raise ShimError(f"container {container.name} is being checkpointed already", "wait for its end") from None
    except FileNotFoundError:
        return  # it has ended meanwhile
    files.remove_if_there(container.path(ANSWER))
    container.signal("supervisor", CHECKPOINT)


def _answer(container: Container) -> tuple[int, str]:
    """What came of it: 0 and a line, or another number and why not."""
    said = time.monotonic() + PROGRESS_SECONDS
    while os.path.exists(container.path(REQUEST)) and container.alive("supervisor"):
        if time.monotonic() > said:
            print(f"checkpointing {container.name} ...", file=sys.stderr, flush=True)
            said += 10 * PROGRESS_SECONDS
        time.sleep(POLL_SECONDS)
    try:
        with open(container.path(ANSWER), encoding="utf-8") as stream:
            status, _, text = stream.read().partition(" ")
        files.remove_if_there(container.path(ANSWER))
        return int(status), text
    except FileNotFoundError:
        ended = container.alive("supervisor") is None
        return 1, f"container {container.name} {'has ended' if ended else 'was not checkpointed: what did that died'}"
