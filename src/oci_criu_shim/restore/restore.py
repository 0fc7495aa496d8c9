"""Starting a container from a checkpoint, without any privilege.

What CRIU could only rebuild with privilege is made before it starts (builder.py): user, network, UTS,
control group and time namespaces, the last with offsets so that the clocks go on. CRIU then restores
inside of them, and the images' inventory is told that they are its own.
"""

from __future__ import annotations

import base64
import os
import signal

from oci_criu_shim import files
from oci_criu_shim.checkpoints import committed
from oci_criu_shim.checkpoints.committed import LAYER
from oci_criu_shim.checkpoints.directory import joined
from oci_criu_shim.checkpoints.integrity import Verification
from oci_criu_shim.checkpoints.unpacking import Unpacked
from oci_criu_shim.container import hooks
from oci_criu_shim.container.bundle import ROOTFS, check_restorable
from oci_criu_shim.dump import rootfs
from oci_criu_shim.dump.open_files import Rollback
from oci_criu_shim.errors import NotRestored, ShimError
from oci_criu_shim.host import cgroups, criu, linux, mounts
from oci_criu_shim.log import Log
from oci_criu_shim.restore import node_fit, sandbox
from oci_criu_shim.restore.plan import Asked, Plan, cgroup

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from oci_criu_shim.checkpoints.committed import Checkpoint
    from oci_criu_shim.container.bundle import Bundle
    from oci_criu_shim.container.record import Container
    from oci_criu_shim.container.stdio import Stdio
    from oci_criu_shim.supervisor.detached import Streams

# When CRIU says so, which hooks are run. The first finds the container's namespaces with the node's
# mounts in them, as before pivot_root; the second all processes restored and not yet running.
AT_NAMESPACES, AT_RESTORED = "setup-namespaces", "post-restore"


def pending_input(checkpoint: Checkpoint) -> bytes:
    """What the container had not read yet of its standard input; ShimError where the manifest garbles it."""
    try:
        return base64.b64decode(checkpoint.manifest["input"], validate=True)
    except ValueError as error:
        raise ShimError(f"{checkpoint.path}: manifest.json: input: {error}") from None


def start(
    container: Container,
    bundle: Bundle,
    checkpoint: Checkpoint,
    stdio: Stdio | Streams,
    log: Log | None = None,
    asked: Asked | None = None,
    cut: str | None = None,
) -> int:
    """Restore `checkpoint` as `container`: the pid of its init, a child of ours. Files that have grown since are cut
    back where `cut` is a directory for what is cut off.

    Raises ShimError, with CRIU's own words, where that fails; nothing of it is running then. Misfit: it is this node
    that can't.
    """
    log = log or Log()

    def attempt(found: Checkpoint) -> tuple[int, int | None]:
        verification = Verification(found)
        check_restorable(bundle)
        node_fit.check(found.manifest, bundle)
        for difference in node_fit.differences(found.manifest, bundle):
            log.event(f"{found.path} is tried all the same: {difference}")
        if os.path.exists(container.path("stage")):
            undo(container, cgroup(container, bundle, found))  # an attempt before
        with Unpacked(found, container.path(f"stage.{os.getpid()}")) as raw, joined(raw) as whole:
            os.mkdir(container.path("stage"), 0o700)
            return _restore(Plan(container, bundle, whole, asked or Asked()), verification, cut, stdio, log)

    pid, terminal = committed.steadily(checkpoint, attempt)
    if terminal is not None:
        _attach(stdio, terminal, pid)
    for warning in hooks.warnings(bundle.hooks, "poststart", container.state("running", pid)):
        log.error(warning)
    return pid


def _restore(
    plan: Plan, verification: Verification, cut: str | None, stdio: Stdio | Streams, log: Log
) -> tuple[int, int | None]:
    """The pid of the init, and the master of its terminal, if it has one."""
    linux.become_subreaper()
    if ROOTFS not in plan.bundle.annotations:  # a job's, where root is to make nothing: all that is mounted has a place
        mounts.make_points(plan.bundle.mounts, plan.bundle.path, plan.bundle.rootfs)
    rollback = Rollback(verification.checkpoint, cut, plan.bases, log) if cut else None
    steps = _Steps(plan.container, plan.bundle, verification, rollback)
    try:
        pid, terminal = _carry_out(plan, verification, steps, stdio)
    except (ShimError, OSError):
        steps.undone(log)
        raise
    if not verification.complete:
        log.event(f"{verification.checkpoint.path} was not verified: it has no checksums of its memory")
    return pid, terminal


def _carry_out(plan: Plan, verification: Verification, steps: _Steps, stdio: Stdio | Streams) -> tuple[int, int | None]:
    swrk = sandbox.start(plan, stdio)
    try:
        verification.start()
        response = swrk.request("RESTORE", plan.options(), steps.notified)
        if not response.success and not steps.refused:
            verification.require()  # it tells more than CRIU does
    finally:
        verification.stop()
        swrk.close()
    if steps.refused:
        raise steps.refused
    if not response.success:
        raise _failure(plan, response)
    return int(response.restore.pid), swrk.terminal


def _attach(stdio: Stdio | Streams, terminal: int, pid: int) -> None:
    """Give a terminal to whoever copies it; without one, the container is ended."""
    try:
        stdio.attach(terminal)
    except (ShimError, OSError):
        os.kill(pid, signal.SIGKILL)
        raise


class _Steps:
    """Runs the hooks of a start at the moments of the restore that are theirs, and lets no process run whose memory is
    not what was dumped."""

    def __init__(
        self, container: Container, bundle: Bundle, verification: Verification, rollback: Rollback | None
    ) -> None:
        self.container = container
        self.bundle = bundle
        self.hooks = bundle.hooks
        self.verification = verification
        self.rollback = rollback
        self.has_layer = LAYER in verification.checkpoint.manifest["files"]
        self.refused: ShimError | None = None
        self.begun = False  # whether any hook was run

    def notified(self, event: str, pid: int) -> bool:
        """Answer CRIU's event; where it is refused, CRIU ends all that it has restored."""
        try:
            if event == AT_RESTORED or (event == AT_NAMESPACES and (self.hooks or self.rollback or self.has_layer)):
                self.verification.require()
            if event == AT_NAMESPACES:
                self.begun = True
                state = self.container.state("creating", pid)
                hooks.run(self.hooks, "prestart", state)
                hooks.run(self.hooks, "createRuntime", state)
                hooks.run(self.hooks, "createContainer", state, inside=pid)
                # No file of the container's has been opened yet.
                if self.has_layer:
                    rootfs.put_back(self.verification.checkpoint, self.container, self.bundle)
                if self.rollback:
                    self.rollback.run()
            elif event == AT_RESTORED:
                state = self.container.state("created", pid)
                hooks.run(self.hooks, "startContainer", state, inside=pid)
        except ShimError as error:
            self.refused = error
            return False
        return True

    def undone(self, log: Log) -> None:
        """The container is gone again, and who prepared for it is told (runtime.md, Lifecycle, 4 to 7 and 13)."""
        for warning in hooks.warnings(self.hooks, "poststop", self.container.state("stopped", 0)) if self.begun else []:
            log.error(warning)


def seccomp(bundle: Bundle, checkpoint: Checkpoint) -> bytes:
    """The filter that config.json's seccomp is for the kernel, as the init had it; empty where it has none.

    It is the oldest of the init's: the backend set it before the program could add any.
    """
    if not bundle.config.get("linux", {}).get("seccomp"):
        return b""
    core = criu.load_image(os.path.join(checkpoint.images, "core-1.img"))["entries"][0]
    number = core["thread_core"].get("seccomp_filter")
    if number is None:
        return b""
    filters = criu.load_image(os.path.join(checkpoint.images, "seccomp.img"))["entries"][0]["seccomp_filters"]
    while "prev" in filters[number]:
        number = filters[number]["prev"]
    return base64.b64decode(filters[number]["filter"])


def _failure(plan: Plan, response: Any) -> ShimError:
    lines = criu.errors(plan.log)
    said = " | ".join(lines) or response.cr_errmsg or f"error {response.cr_errno}"
    hint = criu.meaning(lines) or node_fit.changed(plan.manifest, plan.bundle)
    return NotRestored(f"CRIU could not restore {plan.container.name}: {said}", hint)


def undo(container: Container, group: str) -> None:
    """Remove what a failed start() left in the container's directory, but for CRIU's log, and its control group."""
    files.remove_if_there(container.path(sandbox.INVENTORY))
    try:
        os.rmdir(container.path("stage"))
    except FileNotFoundError:
        pass
    if group:
        cgroups.remove(group)
