"""`job receive`: take a checkpoint of another job into this node's memory; `job migrate` has this done on a node.

What it does is told a line of JSON each on standard output.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import time

from oci_criu_shim.checkpoints import committed
from oci_criu_shim.checkpoints.store import Store
from oci_criu_shim.cli.jobs import job_number, run_directory
from oci_criu_shim.container import node_fit
from oci_criu_shim.errors import ShimError
from oci_criu_shim.slurm import controller
from oci_criu_shim.slurm.rundir import RunDirectory
from oci_criu_shim.transfer import holding, received
from oci_criu_shim.transfer.receiver import Receiver

TYPE_CHECKING = False
if TYPE_CHECKING:
    from oci_criu_shim.cli.invocation import Invocation
    from oci_criu_shim.transfer.stream import Hello

PERIOD = 0.2  # seconds between looks
PATIENCE = 60.0  # seconds for the job to be requeued
DONE = ("COMPLETED", "CANCELLED")  # of the states of a job that has ended, those of one that never goes on
# Why a job waits that does not begin as soon as this one has ended: what it goes on from must be kept by then.
LATER = ("Priority", "JobHeldUser", "JobHeldAdmin", "JobHoldMaxRequeue", "Dependency")


def receive(call: Invocation) -> int:
    """Receive a checkpoint of another job; `job migrate` calls it. Or keep one that the job has not taken over."""
    number = job_number(call.operands[0])
    if base := call.value("keep"):
        return _keep(number, base)
    node = os.environ.get("SLURMD_NODENAME", os.uname().nodename)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    receiver = Receiver(lambda hello: _accept(number, hello), _note)
    _tell("listening", node=node, addresses=controller.addresses(node), port=receiver.port, token=receiver.token)
    over = threading.Event()
    threading.Thread(target=_tell_of_progress, args=(receiver, over), daemon=True).start()
    try:
        path, hello = receiver.receive()
    except ShimError as error:
        _tell("failed", error=str(error), hint=error.hint)
        return 1
    finally:
        over.set()
    _tell("received", path=path, bytes=receiver.bytes)
    _hand_over(number, path, hello)
    return 0


def _keep(number: int, base: str) -> int:
    """Copy the checkpoint in the directory `base` to the job's others, if the job is still to go on from it."""
    if _state(number)[0] not in ("RUNNING", *DONE):
        holding.keep(holding.read(base), holding.store_of(base))
    return 0


def _tell(event: str, **facts: object) -> None:
    print(json.dumps({"event": event, **facts}), flush=True)


def _tell_of_progress(receiver: Receiver, over: threading.Event) -> None:
    while not over.wait(PERIOD):
        _tell("receiving", bytes=receiver.bytes)


def _accept(number: int, hello: Hello) -> None:
    """Raise ShimError if it is another job's, or Misfit if this node could not restore it."""
    if hello["task"].partition("/")[0] != str(number):
        raise ShimError(f"this is for job {number}, not for {hello['task']}")
    if not os.path.isdir(path := os.path.join(hello["directory"], str(number))):
        hint = "a job can only migrate between nodes that share its --checkpoint-dir"
        raise ShimError(f"there is no {path} on {os.uname().nodename}", hint)
    node_fit.check(hello)


def _note(path: str) -> None:
    """Have this job's epilog remove the directory `path`, if nobody has taken it over then."""
    own = os.environ.get("SLURM_JOB_ID", "")
    if own.isdecimal():
        RunDirectory(run_directory(int(own))).note_received(path)


def _hand_over(number: int, path: str, hello: Hello) -> None:
    """Wait until the job has taken the checkpoint over, or can do so once this one's node is free.

    If it will not begin then, copy the checkpoint to the job's others, unless nobody needs it any more: the job can go
    on on any node then.
    """
    end = time.monotonic() + PATIENCE
    while received.is_waiting(path):
        state, reason = _state(number)
        if state == "PENDING" and reason not in LATER:
            return
        if state in DONE:
            return received.remove(path)
        if state not in ("", "COMPLETING", "RUNNING") or time.monotonic() > end:
            store = Store(hello["directory"], hello["task"])
            _tell("kept", path=holding.keep(committed.read(path), store).path)
            if state == "PENDING":
                controller.require(number, hello["required"])
            return received.remove(path)
        time.sleep(PERIOD)


def _state(number: int) -> tuple[str, str]:
    """Return a job's state, and why it waits; empty ones if Slurm doesn't say."""
    try:
        return controller.state_of(number)
    except ShimError:
        return "", ""
