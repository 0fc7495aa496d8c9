"""`job migrate`: move a running job to another node now, from memory to memory.

A job of the user's own, on the other node, receives the memory (receive.py); it ends when the job that migrates, which
Slurm requeues under its number, can begin there.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import time

from oci_criu_shim import config, files, units
from oci_criu_shim.checkpoints.store import Store
from oci_criu_shim.cli.job import checkpoint as asking
from oci_criu_shim.cli.job.exec import only_part
from oci_criu_shim.cli.jobs import is_name, job_number, run_directory
from oci_criu_shim.cli.report import ProgressLine, print_json
from oci_criu_shim.container import jobs
from oci_criu_shim.container.bundle import Bundle
from oci_criu_shim.container.record import ANSWER, MIGRATION
from oci_criu_shim.errors import USAGE, ShimError
from oci_criu_shim.host import process
from oci_criu_shim.host.signals import CHECKPOINT
from oci_criu_shim.slurm import controller, srun, tasks
from oci_criu_shim.task import own_steps, requeue

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from oci_criu_shim.cli.invocation import Invocation
    from oci_criu_shim.cli.job.documents import Migrated
    from oci_criu_shim.container.record import Container
    from oci_criu_shim.files import Document
    from oci_criu_shim.slurm.commands import Part
    from oci_criu_shim.slurm.job import Job
    from oci_criu_shim.slurm.srun import Srun
    from oci_criu_shim.slurm.tasks import Task

SPARE, SPARE_IN_ROUNDS = 1.1, 1.3  # times its memory now, a job's receiver has; the latter if it is sent in rounds
LEAST_IN_ROUNDS = 128 << 20  # bytes of memory that are; less is sent in a moment
SLACK = 256 << 20  # bytes, for the receiver itself
PERIOD = 0.1
ERROR = "oci-criu-shim: error: "  # how our own lines of it begin
PATIENCE = 30.0  # seconds for the end of the receiver
LAG = 5.0  # seconds in which a receiver says what has come, when the sender is gone
DEFAULT_WAIT = "60s"


def migrate(call: Invocation) -> int:
    """Move a running job to another node now."""
    word = call.operands[0]
    if call.flag("here"):
        return _here(job_number(word), call.flag("look"))
    begun, wait = time.monotonic(), _seconds(call.value("wait") or DEFAULT_WAIT)
    precopy = _precopy(call.value("precopy") or "auto")
    part = only_part(word, controller.running(word if is_name(word) else str(job_number(word))))
    job = controller.job(part["job"])
    node = call.value("to") or ""
    _check(job, part, node)
    memory, required = _look(part)
    _check_node(job, node, required)
    in_rounds = memory >= LEAST_IN_ROUNDS and precopy == "auto"
    receiving = _Receiving(job, node, int((SPARE_IN_ROUNDS if in_rounds else SPARE) * memory) + SLACK, wait)
    try:
        place = {**receiving.place(wait), "precopy": in_rounds}
        sent, seconds = _send(part, place, receiving, memory)
        _wait_until_it_runs(job, place["node"], wait, receiving)
    finally:
        receiving.end()
    found: Migrated = {
        "job": part["job"],
        "source": job.batch_host,
        "to": place["node"],
        "bytes": memory,
        "sent": sent,
        "transfer": seconds,
        "seconds": time.monotonic() - begun,
    }
    if call.flag("json"):
        print_json(found)
    else:
        print(_worded(found))
    return 0


def _seconds(text: str) -> int:
    try:
        return units.parse_time(text)
    except ValueError:
        raise ShimError(f"--wait is a time such as 60s or 5m, not {text!r}", status=USAGE) from None


def _precopy(text: str) -> str:
    if text not in ("auto", "off"):
        raise ShimError(f"--precopy is auto or off, not {text!r}", status=USAGE)
    return text


def _worded(found: Migrated) -> str:
    size, sent = units.size(found["bytes"]), units.size(found["sent"])
    times = f"{found['transfer']:.1f} s for {sent} of {size} memory, {found['seconds']:.1f} s in all"
    return f"job {found['job']} goes on on {found['to']} ({times})"


def _check(job: Job, part: Part, node: str) -> None:
    """Raise ShimError if the job can't migrate."""
    name = job.name
    if part["group"] is not None:
        raise ShimError(f"job {name} is a part of a heterogeneous job, and can't migrate by itself")
    if part["nodes"] > 1:
        raise ShimError(f"job {name} runs on {part['nodes']} nodes; only a job on one node can migrate")
    if not job.is_batch or not job.is_requeueable:
        why = "was submitted with --no-requeue, or the site requeues none" if job.is_batch else "has no batch script"
        raise ShimError(f"job {name} can't migrate: Slurm would not start it again, since it {why}")
    if job.is_preempted:
        raise ShimError(f"job {name} is being preempted, and goes on elsewhere by itself")
    if node == job.batch_host:
        raise ShimError(f"job {name} runs on {node} already", "--to names another node")
    if plugin := controller.private_memory():
        said = f"each job has a /dev/shm of its own on this cluster ({plugin}), so that no other job can give it memory"
        raise ShimError(
            said, f"`oci-criu-shim job checkpoint {name}`, then `scontrol requeue {name}`, move it by its disk"
        )


def _check_node(job: Job, node: str, required: str) -> None:
    """Raise ShimError if the job can't run on `node`, or on none but its user has `required`."""
    if required and not node:
        raise ShimError(f"job {job.name} can't migrate: it was submitted to run on {required}")
    if node and not controller.can_wait_for(job, node, required):
        raise ShimError(f"job {job.name} can't run on {node}", "`sinfo --Node` lists the nodes of its partition")


def _ourselves(*words: str) -> list[str]:
    return [os.path.abspath(sys.argv[0]), "job", *words]


def _look(part: Part) -> tuple[int, str]:
    """Return how much memory the job's container has, and on which nodes its user wants it.

    Raise ShimError if the job has no container, or several.
    """
    lines: list[Document] = []
    _hear(srun.step(part, _ourselves("migrate", "--here", "--look", str(part["job"])), ""), lines.append)
    return int(lines[-1]["bytes"]), str(lines[-1]["required"])


def _hear(step: Srun, hear: Callable[[Document], None]) -> None:
    """Call `hear` with each object that a step says. Raise ShimError if it fails, with what else it has said."""
    said: list[str] = []

    def take(line: str) -> None:
        try:
            document = json.loads(line)
        except ValueError:
            document = None
        if isinstance(document, dict):
            hear(document)
        else:
            said.append(line)

    pid = step.listen(take)
    if process.exit_status(process.wait(pid)):
        ours = [line.removeprefix(ERROR) for line in said if line.startswith(ERROR)]
        raise ShimError([*(said or ["srun failed, and does not say why"]), *ours][-1])


class _Receiving:
    """The job that receives on `node`, or if that is empty, on any other than now; it needs `memory` bytes."""

    def __init__(self, job: Job, node: str, memory: int, wait: int) -> None:
        excluded = [word for word in (job.batch_host, job.fields["excluded_nodes"]) if word]
        where = [f"--nodelist={node}"] if node else [f"--exclude={','.join(excluded)}"]
        words = srun.like(job.name, memory)
        limits = [f"--immediate={wait}", f"--job-name=migrate-{job.name}"]
        argv = _ourselves("receive", str(job.fields["job_id"]))
        self.step = srun.allocate([*words, *where, *limits], argv)
        self.said: dict[str, Document] = {}  # the last of each event
        self.failure = ""
        self.over = False
        self.answers: list[Document] = []  # of the node from which the job is sent
        self.thread = threading.Thread(target=self._listen, daemon=True)
        self.thread.start()

    def _listen(self) -> None:
        try:
            _hear(self.step, lambda document: self.said.update({str(document.get("event")): document}))
        except ShimError as error:
            self.failure = error.line()
        self.over = True

    def place(self, wait: int) -> Document:
        """Return where it listens. Raise ShimError if no node is free in time."""
        with ProgressLine(f"waiting for a node for {wait} s at most"):
            while "listening" not in self.said:
                if self.over:
                    raise ShimError(f"no node for the job is free now: {self.failure}", "--wait=10m waits longer")
                time.sleep(PERIOD)
        return self.said["listening"]

    def bytes(self) -> int:
        """Return how many bytes have come."""
        return int(self.said.get("receiving", {}).get("bytes", 0))

    def require_taken(self) -> None:
        """Raise ShimError if the job runs on where it is, even though all of it may have come."""
        if self._is_in_vain():
            raise ShimError(str(self.answers[-1]["said"]))

    def end(self) -> None:
        """End it, unless it has the job's only checkpoint: then it ends by itself, when that is safe."""
        if not self.over and (self._is_in_vain() or "received" not in self.said):
            os.kill(self.step.pid, signal.SIGTERM)
        self.thread.join(PATIENCE)

    def _is_in_vain(self) -> bool:
        """Whether the job's node says that it runs on there; if nobody there knows (None), what has come tells."""
        return any(answer["taken"] is False for answer in self.answers)


def _send(part: Part, place: Document, receiving: _Receiving, memory: int) -> tuple[int, float]:
    """Have the job send its container to `place`; return how many bytes were sent, and in how many seconds.

    Raise ShimError if that fails: the job runs on.
    """
    begun, words = time.monotonic(), _ourselves("migrate", "--here", str(part["job"]))
    failures: list[str] = []

    def ask() -> None:
        try:
            _hear(srun.step(part, words, json.dumps(place)), receiving.answers.append)
        except ShimError as error:
            if receiving.bytes():  # the step may have ended with the job, which has gone
                time.sleep(LAG)
            failures.append(str(receiving.answers[-1]["said"] if receiving.answers else error))

    asking_thread = threading.Thread(target=ask, daemon=True)
    asking_thread.start()
    with ProgressLine(f"sending to {place['node']}", memory, receiving.bytes):
        while True:
            # What has ended is looked at first: its last words may have come since.
            has_asked, has_ended = not asking_thread.is_alive(), receiving.over
            if "received" in receiving.said:
                break
            receiving.require_taken()
            if failures and has_asked:
                raise ShimError(f"job {part['job']} runs on: {failures[0]}")
            if "failed" in receiving.said:
                found = receiving.said["failed"]
                raise ShimError(f"job {part['job']} runs on: {found['error']}", str(found.get("hint", "")))
            if has_ended:
                raise ShimError(f"job {part['job']} runs on: what was to receive it has ended: {receiving.failure}")
            time.sleep(PERIOD)
    return int(receiving.said["received"]["bytes"]), time.monotonic() - begun


def _wait_until_it_runs(before: Job, node: str, wait: int, receiving: _Receiving) -> None:
    end = time.monotonic() + wait
    number = before.fields["job_id"]
    with ProgressLine(f"starting on {node}"):
        while not _goes_on(found := controller.job(number), before):
            receiving.require_taken()
            if time.monotonic() > end or found.ended_as:
                said = f"job {before.name} has left {before.batch_host}, and does not run on {node} yet"
                raise ShimError(said, f"`squeue --job={before.name}` says why; `oci-criu-shim job status` what it has")
            time.sleep(PERIOD)


def _goes_on(found: Job, before: Job) -> bool:
    return found.restarts > before.restarts and (found.runs or found.has_completed)


def _here(job: int, looks: bool) -> int:
    """Have the job's container on this node sent where standard input says, and print what came of it; or if it
    `looks`, print how much memory it has, and on which nodes its user wants it."""
    container = _container(job)
    init = container.alive("init")
    if looks:
        memory = process.memory(init) if init else 0
        required = requeue.required(_store(container).directory, controller.job(job))
        print(json.dumps({"bytes": memory, "required": required}), flush=True)
        return 0
    _request(container, sys.stdin.read())
    taken, said, _ = asking.outcome(container, MIGRATION)
    print(json.dumps({"taken": taken, "said": said}), flush=True)
    return int(not taken)


def _request(container: Container, place: str) -> None:
    """Have the container sent to `place`."""
    draft = container.path(f"{MIGRATION}.{os.getpid()}")
    files.write_atomically(draft, place.encode())
    try:
        os.link(draft, container.path(MIGRATION))
    except FileExistsError:
        container.signal("supervisor", CHECKPOINT)  # the process that asked may have been killed before it did this
        raise ShimError(f"container {container.name} is migrating already", "wait for its end") from None
    finally:
        os.unlink(draft)
    files.remove_if_there(container.path(ANSWER))
    container.signal("supervisor", CHECKPOINT)


def _task(container: Container) -> Task:
    record = container.load()
    task = tasks.of(Bundle(record["bundle"], record["config"]).environment())
    assert task  # as it is one of a job's
    return task


def _store(container: Container) -> Store:
    task = _task(container)
    return Store(task.directory or config.load().checkpoint_dir, task.key)


def _has_steps(container: Container) -> bool:
    """Whether it is a batch script whose steps are checkpointed by themselves."""
    return own_steps.are_there(container, _task(container), _store(container))


def _container(job: int) -> Container:
    """Return the job's only container here that is checkpointed itself."""
    found = [container for container in jobs.asked(run_directory(job)) if not _has_steps(container)]
    if not found:
        raise ShimError(f"job {job} has no container to be checkpointed", asking.START)
    if found[1:]:
        names = ", ".join(container.name for container in found)
        raise ShimError(f"job {job} has {len(found)} containers, and can't migrate with several: {names}")
    return found[0]
