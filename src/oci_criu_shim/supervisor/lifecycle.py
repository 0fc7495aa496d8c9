"""Create and run containers, for the verbs of the command line.

A container that can be checkpointed has a supervisor: this process under `run`, a background process after `create`.
The backend alone sees to any other container.
"""

from __future__ import annotations

from oci_criu_shim.container import registry
from oci_criu_shim.errors import ShimError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from oci_criu_shim.checkpoints.committed import Checkpoint
    from oci_criu_shim.container.plan import Plan
    from oci_criu_shim.restore.plan import Asked


def run(plan: Plan, keep: bool = False) -> int:
    """Run the container in the foreground; return its exit status. With `keep` it stays as a stopped container."""
    if not plan.supervised:
        # There is no record of ours: nobody could remove it when the container has ended.
        registry.require_free(plan.container)
        plan.backend.become("run", *(["--keep"] if keep else []), *plan.pid_option, *plan.options)
    registry.reserve(plan.container)
    from oci_criu_shim.supervisor.launch import Launch

    return Launch(plan).run(keep)


def run_detached(plan: Plan) -> int:
    """Create and start the container; return the exit status."""
    if plan.task is not None and plan.supervised:
        from oci_criu_shim.container import acts

        return create(plan) or acts.start(plan.container, plan.backend)
    return _have_created(plan, "run", "--detach")


def create(plan: Plan) -> int:
    """Create the container and leave it to `start`; return the exit status."""
    if plan.task is not None and (plan.supervised or plan.proxy):
        registry.reserve(plan.container)
        from oci_criu_shim.supervisor.launch import Launch

        return Launch(plan).create_in_background()
    return _have_created(plan, "create")


def _have_created(plan: Plan, verb: str, *words: str) -> int:
    """Have the backend create the container on our own streams; forget it if that fails."""
    from oci_criu_shim.container.plan import stream

    plan.backend.argv(verb)  # if it is not installed, no id is taken
    registry.reserve(plan.container)
    streams = ["" if plan.bundle.terminal else stream(number) for number in range(3)]
    plan.container.save({**plan.record(), "stdio": {"streams": streams}})
    status = plan.backend.call(verb, *words, *plan.pid_option, *plan.options)
    if status:
        plan.container.release()
    return status


def restore(plan: Plan, checkpoint: Checkpoint, asked: Asked) -> int:
    """Run `checkpoint` as the container in the foreground; return its exit status."""
    registry.reserve(plan.container)
    from oci_criu_shim.supervisor.launch import Launch

    return Launch(plan).restore(checkpoint, asked)


def restore_detached(plan: Plan, checkpoint: Checkpoint, asked: Asked, console: str | None) -> int:
    """Restore `checkpoint` as the container and leave it to the caller; return the exit status.

    The caller takes the container's terminal at the socket `console`.
    """
    from oci_criu_shim.restore.restore import pending_input
    from oci_criu_shim.restore.streams import CallersStreams
    from oci_criu_shim.supervisor import detached

    if plan.bundle.terminal and not console:
        raise ShimError("the container has a terminal, which somebody must take", "name a --console-socket")
    streams = CallersStreams(console, checkpoint.manifest["streams"], pending_input(checkpoint))
    registry.reserve(plan.container)
    if streams.lost:
        plan.log.error(f"{streams.lost} bytes of standard input that {plan.container.name} had not read are lost")
    return detached.start(plan, checkpoint, asked, streams)
