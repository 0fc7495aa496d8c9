"""Say in a job's output, shortly before it must end, how far its checkpoint is, if that is not done by then."""

from __future__ import annotations

import os
import signal
import time
from contextlib import contextmanager

from oci_criu_shim import units
from oci_criu_shim.checkpoints.committed import LAYER, NOTABLE_LAYER
from oci_criu_shim.container.record import STAGE_LINK
from oci_criu_shim.host import linux, process
from oci_criu_shim.task import schedule

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from oci_criu_shim.task.policy import Policy

LEAD_SECONDS = 5.0  # before the end; if there is less than twice that time, half of it


@contextmanager
def watched(policy: Policy, why: str, end: float) -> Iterator[None]:
    """Say how far the checkpoint is that is taken in the block, because of `why`, shortly before `end`.

    That is in seconds since the epoch; 0 if it is not known. A child does it: this process may be in one long flush.
    """
    begun, left = time.time(), end - time.time()
    link = policy.container.path(f"{STAGE_LINK}{os.getpid()}")

    def tell() -> int:
        linux.end_with_parent()
        time.sleep(max(left - LEAD_SECONDS, left / 2))
        said = _unfinished(policy, why, link, time.time() - begun, end - time.time())
        policy.log.error(said, "checkpoint-late", reason=said)
        return 0

    child = _started(policy, tell) if left > 0 else None
    try:
        yield
    finally:
        if child:
            os.kill(child, signal.SIGKILL)
            process.wait(child)


def _started(policy: Policy, tell: Callable[[], int]) -> int | None:
    try:
        return process.fork(tell)
    except OSError as error:
        policy.log.debug(f"nobody tells if the checkpoint takes too long: {error}")
        return None


def _unfinished(policy: Policy, why: str, link: str, seconds: float, left: float) -> str:
    init = policy.container.alive("init")
    sizes = _sizes(os.path.realpath(link))
    layer = sizes.get(LAYER, 0)
    changes = f", {units.size(layer)} of them changes to the root file system" if layer >= NOTABLE_LAYER else ""
    written = f"{units.size(sum(sizes.values()))} are written after {seconds:.0f} s{changes}"
    memory = f"; it has {units.size(process.memory(init))} of memory" if init else ""
    what, end = ("grace time", "a longer GraceTime") if why == schedule.PREEMPT else ("time limit", "a larger margin")
    advice = [f"{end} of the site's", *([] if policy.when.interval else ["--checkpoint-interval"])]
    advice += ["a bind mount for what it writes to its root file system"] if changes else []
    older = max(policy.store.numbers(), default=0)
    follows = f"then it goes on from checkpoint {older}" if older else "then there is no checkpoint to go on from"
    said = f"the checkpoint of {policy.task.describe()} is not done: {written}{memory}"
    helps = " or ".join(advice)
    return f"{said}; it ends with the job's {what} in {max(left, 0):.0f} s, {follows} (hint: {helps} would help)"


def _sizes(directory: str) -> dict[str, int]:
    """Return {name: bytes} of the files in a checkpoint that is being written."""
    found = {}
    for place, _, names in os.walk(directory):
        for name in names:
            try:
                found[os.path.relpath(os.path.join(place, name), directory)] = os.lstat(f"{place}/{name}").st_size
            except OSError:
                pass  # it was renamed, or removed
    return found
