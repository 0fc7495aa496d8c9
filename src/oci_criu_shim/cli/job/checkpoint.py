"""`job checkpoint`: checkpoint the containers of a running job now; they run on."""

from __future__ import annotations

import json
import os
import sys
import time

from oci_criu_shim import files
from oci_criu_shim.cli.jobs import is_name, job_number, run_directory
from oci_criu_shim.cli.report import ProgressLine, print_json
from oci_criu_shim.container.jobs import asked
from oci_criu_shim.container.record import ANSWER, REQUEST, STAGE_LINK
from oci_criu_shim.errors import ShimError
from oci_criu_shim.host import process
from oci_criu_shim.host.signals import CHECKPOINT
from oci_criu_shim.slurm import controller, srun

TYPE_CHECKING = False
if TYPE_CHECKING:
    from oci_criu_shim.cli.invocation import Invocation
    from oci_criu_shim.cli.job.documents import Answer
    from oci_criu_shim.container.record import Container
    from oci_criu_shim.files import Document

START = "start one with --checkpoint"
POLL_SECONDS = 0.05


def checkpoint(call: Invocation) -> int:
    """Checkpoint a running job's containers now."""
    as_json, word = call.flag("json"), call.operands[0]
    if call.flag("here"):
        return _here(job_number(word), as_json)
    name = word if is_name(word) else str(job_number(word))
    answers: list[Answer] = []

    def hear(line: str) -> None:
        try:
            found: list[Answer] = json.loads(line)
            said = [f"{answer['node']}: {answer['said']}" for answer in found]
        except (KeyError, TypeError, ValueError):
            return print(line, file=sys.stderr, flush=True)  # from a task prolog
        answers.extend(found)
        if not as_json:
            print(*said, sep="\n", flush=True)

    words = [os.path.abspath(sys.argv[0]), "job", "checkpoint", "--here", "--json"]
    codes = [srun.run_on_nodes(part, [*words, str(part["job"])], hear) for part in controller.running(name)]
    status = process.exit_status(next(filter(None, codes), 0))
    if as_json:
        print_json(answers)
    if status == 0 and not any(answer["container"] for answer in answers):
        raise ShimError(f"job {name} has no container to be checkpointed", START)
    return status


def _here(job: int, as_json: bool) -> int:
    """Checkpoint the job's containers on this node.

    With --json it is no failure if there are none: another node of the job may have some. The document has one line,
    so that it can be told from other nodes'.
    """
    node = os.uname().nodename
    containers = list(asked(run_directory(job)))
    none = f"job {job} has no container on {node} to be checkpointed"
    if not containers and not as_json:
        raise ShimError(none, START)
    for container in containers:
        _request(container)
    answers: list[Answer] = []
    for container in containers:
        taken, said, checkpoint = outcome(container, REQUEST)
        answers.append(_document(job, node, container.name, bool(taken), said, checkpoint))
        if not as_json:
            print(f"{node}: {said}", flush=True)
    if as_json:
        print(json.dumps(answers or [_document(job, node, None, False, none, None)]), flush=True)
    return int(not all(answer["taken"] for answer in answers))


def _document(
    job: int, node: str, container: str | None, taken: bool, said: str, checkpoint: Document | None
) -> Answer:
    return {
        "job": job,
        "node": node,
        "container": container,
        "taken": taken,
        "said": said,
        "checkpoint": checkpoint,
    }


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


def outcome(container: Container, request: str) -> tuple[bool | None, str, Document | None]:
    """Wait for the checkpoint that the file `request` asks for; return whether it was taken, a line for the user, and
    the facts of it.

    Whether it was taken is None if nobody is there any more who could say: what ends the container may remove the
    answer before it is read.
    """
    init = container.alive("init")
    memory = process.memory(init) if init else 0
    with ProgressLine(f"checkpointing {container.name}", memory, lambda: _written(container)):
        while os.path.exists(container.path(request)) and container.alive("supervisor"):
            time.sleep(POLL_SECONDS)
    try:
        with open(container.path(ANSWER), encoding="utf-8") as stream:
            answer, _, facts = stream.read().partition("\n{")
    except FileNotFoundError:
        ended = container.alive("supervisor") is None
        how = "has ended" if ended else "was not checkpointed: the process doing it died"
        return None, f"container {container.name} {how}", None
    files.remove_if_there(container.path(ANSWER))
    status, _, said = answer.partition(" ")
    return status == "0", said, files.parse_json("{" + facts) if facts else None


def _written(container: Container) -> int:
    """Return how many bytes there are of a checkpoint that is being written."""
    try:
        links = [name for name in os.listdir(container.directory) if name.startswith(STAGE_LINK)]
    except OSError:
        return 0  # it has ended
    return sum(files.tree_size(os.path.realpath(container.path(name))) for name in links)
