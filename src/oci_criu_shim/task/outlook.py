"""Say shortly after a task's start what can be known of its checkpoints, rather than when one is needed."""

from __future__ import annotations

import os

from oci_criu_shim import units
from oci_criu_shim.checkpoints import owner
from oci_criu_shim.container.bundle import Bundle
from oci_criu_shim.dump import client
from oci_criu_shim.dump.faults import sockets
from oci_criu_shim.dump.survey import Survey
from oci_criu_shim.errors import ShimError
from oci_criu_shim.files import LIBDIR
from oci_criu_shim.host import criu, mounts, process
from oci_criu_shim.slurm import controller, grace
from oci_criu_shim.slurm.rundir import RunDirectory
from oci_criu_shim.task import where

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from oci_criu_shim.task.policy import Policy

# Without these there is no dump, or nobody who hears of a preemption.
INSTALLED = ("worker.py", "helper", "watcher", "criu_preload.so", "criu_restart.so")


def tell(policy: Policy) -> None:
    """Say what is wrong with the node, in its first task, and in the step's first task also what is with the job."""
    of_job = (_tell_of_job, _tell_of_directory, _tell_of_bundle)
    for look in (_tell_of_node, _tell_of_room, _tell_of_mpi, *(of_job if not policy.task.rank else ())):
        try:
            look(policy)
        except (ShimError, OSError) as error:
            policy.log.debug(str(error))


def _tell_of_node(policy: Policy) -> None:
    if found := [error.line() for error in faults(policy)]:
        policy.log.error(f"{policy.task.node} can't checkpoint {policy.task.describe()}: {'; '.join(found)}")


def faults(policy: Policy) -> Iterator[ShimError]:
    """Yield what keeps this node from checkpointing."""
    helper = RunDirectory(policy.container.root).helper_socket(policy.task)
    if missing := [name for name in INSTALLED if not os.path.exists(f"{LIBDIR}/{name}")]:
        yield ShimError(f"{LIBDIR} lacks {', '.join(missing)}", "`make install` on this node, or its packages again")
    if os.geteuid() == 0:
        yield ShimError(*client.NO_ROOT)
    elif not os.path.exists(helper):
        yield ShimError(*client.NO_HELPER)
    try:
        criu.require_version(criu.version(process.ENVIRONMENT))
        criu.bindings()
    except ShimError as error:
        yield error


def _tell_of_room(policy: Policy) -> None:
    """Say if there is no room for a checkpoint of all of the job's memory on this node: now, or later."""
    status, directory = os.statvfs(policy.store.path), policy.store.directory
    room, said = status.f_bavail * status.f_frsize, f"{directory} has only {{}} free"
    if policy.store.quota and policy.store.quota < room:
        room, said = policy.store.quota, f"the site's quota for {directory} is {{}}"
    used, most, said = policy.estimate.used(), policy.task.memory, said.format(units.size(room))
    if used > room:
        what = f"{policy.task.node} can't checkpoint job {policy.task.job}, which has {units.size(used)} of memory"
        policy.log.error(ShimError(f"{what}: {said}", "another --checkpoint-dir may have more").line())
    elif most > room:
        policy.log.event(f"job {policy.task.job} may have up to {units.size(most)} of memory, but {said}")


def _tell_of_mpi(policy: Policy) -> None:
    """Say if it has become a rank of MPI that Slurm has started: by the site's default, any program may."""
    record, init = policy.container.load(), policy.container.alive("init")
    if not policy.task.mpi or not init:
        return
    survey = Survey(init, Bundle(record["bundle"], record["config"]))
    if error := next(sockets.launched(survey), None):
        policy.log.error(f"{policy.task.describe()} can't be checkpointed: {error.line()}")


def _tell_of_job(policy: Policy) -> None:
    """Say that Slurm will not start the job again."""
    job, found = policy.task.job, controller.job(policy.task.job)
    if not found.is_batch:
        return  # its user waits for it, and knows
    obstacle = grace.if_preempted(found).obstacle if policy.when.preempt else ""
    if obstacle and (not found.is_requeueable or "CANCEL" in obstacle):
        goes_on = f"it ends with its checkpoint, and a job with --restart-dir={job} goes on from there"
        policy.log.event(f"job {job} will not be requeued if it is preempted ({obstacle}): {goes_on}")
    if policy.when.timeout and not found.is_requeueable:
        said = f"job {job} may not be requeued (--no-requeue): it ends at its time limit, without a checkpoint for that"
        policy.log.event(said)


def _tell_of_directory(policy: Policy) -> None:
    """Say, and note for other nodes, that they can't see the checkpoints."""
    task, directory = policy.task, policy.store.directory
    kind = where.own(directory, directory)
    if not kind:
        return
    where.note(task, directory)
    if not task.restarts:
        said = f"{directory} is on {kind}, {task.node}'s own{_doubt(kind, task.node)}"
        policy.log.event(ShimError(f"{said}: job {task.job} can go on on no other node", owner.HINT).line())


def _tell_of_bundle(policy: Policy) -> None:
    """Say that other nodes may not have the bundle, if it is a user's own: a site may have its own on each node."""
    record = policy.container.load()
    bundle = Bundle(record["bundle"], record["config"])
    places = (bundle.process["cwd"],) if bundle.is_bare else (os.path.dirname(bundle.file), bundle.rootfs)
    for path in places:
        kind = where.own(path, policy.store.directory) if os.stat(path).st_uid == os.geteuid() else ""
        if kind and not policy.task.restarts:
            said = f"{path} is on {kind}, {policy.task.node}'s own{_doubt(kind, policy.task.node)}"
            policy.log.event(f"{said}: without it on another node, Slurm can't start job {policy.task.job} there")
            return


def _doubt(kind: str, node: str) -> str:
    return "" if kind in mounts.IN_MEMORY or kind == "overlay" else f", unless {node} shares it"
