"""`job checkpoint`: checkpoint the containers of a running job now; they run on."""

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
    from oci_criu_shim.cli.invocation import Invocation
    from oci_criu_shim.cli.job.documents import Answer
    from oci_criu_shim.container.record import Container

START = "start one with --checkpoint"
POLL_SECONDS = 0.05
PROGRESS_SECONDS = 2.0


def checkpoint(call: Invocation) -> int:
    """Checkpoint a running job's containers now."""
    as_json, word = call.flag("json"), call.operands[0]
    if call.flag("here"):
        return _here(job_number(word), as_json)
    name = word if is_name(word) else str(job_number(word))
    found: list[str] = []

    def hear(line: str) -> None:
        try:
            answer: Answer = json.loads(line)
            found.extend([answer["container"]] if answer["container"] else [])
            _tell(answer, as_json)
        except (KeyError, TypeError, ValueError):
            print(line, file=sys.stderr, flush=True)  # from a task prolog

    words = [os.path.abspath(sys.argv[0]), "job", "checkpoint", "--here", "--json"]
    status = process.exit_status(controller.run_on_nodes(name, words, hear))
    if status == 0 and not found:
        raise ShimError(f"job {name} has no container to be checkpointed", START)
    return status


def _here(job: int, as_json: bool) -> int:
    """Checkpoint the job's containers on this node.

    With --json it is no failure if there are none: another node of the job may have some.
    """
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


def _tell(answer: Answer, as_json: bool) -> None:
    print(json.dumps(answer) if as_json else f"{answer['node']}: {answer['said']}", flush=True)


def _request(container: Container) -> None:
    try:
        os.close(os.open(container.path(REQUEST), os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
    except FileExistsError:
        container.signal("supervisor", CHECKPOINT)  # the process that asked may have been killed before it did this
        raise ShimError(f"container {container.name} is being checkpointed already", "wait for its end") from None
    except FileNotFoundError:
        return  # it has ended meanwhile
    files.remove_if_there(container.path(ANSWER))
    container.signal("supervisor", CHECKPOINT)


def _answer(container: Container) -> tuple[int, str]:
    """Wait for the checkpoint; return 0 and a line for the user, or another number and why there is none."""
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
        return (
            1,
            f"container {container.name} {'has ended' if ended else 'was not checkpointed: the process doing it died'}",
        )
