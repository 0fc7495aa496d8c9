"""Start a container from a checkpoint, without any privilege.

CRIU needs privilege to rebuild some things, so they are made before it starts (sandbox.py): user, network, UTS, control
group and time namespaces, the last with offsets by which the clocks go on. CRIU then restores inside of them, and takes
them for its own, by the images' inventory.
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
from oci_criu_shim.container import backends, batch_script, hooks, node_fit
from oci_criu_shim.container.backends import Backend
from oci_criu_shim.container.bundle import ROOTFS
from oci_criu_shim.container.record import STAGE, STAGE_LINK
from oci_criu_shim.errors import Killed, Misfit, NotRestored, ShimError, Stopped
from oci_criu_shim.host import cgroups, criu, linux, netlock, own_mounts, process, threads
from oci_criu_shim.host.progress import Progress
from oci_criu_shim.restore import adopt, rootfs, sandbox
from oci_criu_shim.restore.plan import Asked, RestorePlan, own_cgroup_path
from oci_criu_shim.restore.rollback import Rollback
from oci_criu_shim.transfer import received

TYPE_CHECKING = False
if TYPE_CHECKING:
    import socket
    from collections.abc import Mapping

    from oci_criu_shim.checkpoints.committed import Checkpoint
    from oci_criu_shim.checkpoints.manifest import Manifest
    from oci_criu_shim.container.bundle import Bundle
    from oci_criu_shim.container.plan import Plan
    from oci_criu_shim.container.record import Container
    from oci_criu_shim.container.stdio import Stdio
    from oci_criu_shim.log import Log
    from oci_criu_shim.restore.seccomp import Seccomp
    from oci_criu_shim.restore.streams import CallersStreams

    Streams = Stdio | CallersStreams
    Started = tuple[int, int | None]  # the pid of the init, and the master of its terminal, if it has one

# CRIU's events at which hooks are run. At the first, the container's namespaces exist and have the node's mounts in
# them, as before pivot_root; at the second, all processes are restored and do not run yet.
AT_NAMESPACES, AT_RESTORED = "setup-namespaces", "post-restore"


def pending_input(checkpoint: Checkpoint) -> bytes:
    """Return the part of its standard input that the container had not read. Raise ShimError if it is no base64."""
    try:
        return base64.b64decode(checkpoint.manifest["input"], validate=True)
    except ValueError as error:
        raise ShimError(f"{checkpoint.path}: {committed.MANIFEST}: input: {error}") from None


class Restore:
    """The restore of the container of `plan`, whose id is reserved, from `checkpoint`; `backend` will look after it.

    If `cut` is a directory, files that have grown since the checkpoint are cut back, and the cut parts are kept there.
    """

    def __init__(
        self, plan: Plan, checkpoint: Checkpoint, log: Log, asked: Asked | None = None, cut: str | None = None
    ) -> None:
        self.plan = plan
        self.container = plan.container
        self.bundle = plan.bundle
        self.checkpoint = checkpoint
        self.log = log
        self.asked = asked or Asked()
        self.cut = cut
        self.backend = plan.backend
        if self.backend.dialect != backends.DEFAULT:  # adopt.py can only write crun's files
            self.backend = Backend(backends.DEFAULT, plan.container.root, plan.backend.globals, log)
        self.streams: Streams  # from start() on
        self.group = own_cgroup_path(self.container, self.bundle, checkpoint)

    def start(self, streams: Streams) -> int:
        """Restore the container, and return the pid of its init, a child of ours.

        Raise ShimError, with CRIU's own words, or Misfit if only this node can't restore it. Nothing of it runs then,
        and nothing is left but its directory.
        """
        self.streams = streams
        try:
            pid, terminal = committed.steadily(self.checkpoint, self._attempt)
        except (ShimError, OSError):
            self._undo()
            raise
        try:
            if terminal is not None:
                streams.attach(terminal)
            for warning in hooks.warnings(self.bundle.hooks, "poststart", self.container.state("running", pid)):
                self.log.error(warning)
            adopt.adopt(self.plan, self.backend, self.checkpoint, pid, self.group)
        except (ShimError, OSError):
            self.end(pid)
            raise
        return pid

    def end(self, pid: int) -> None:
        """Undo start(), if the container could not be recorded: nobody would know that it runs."""
        os.kill(pid, signal.SIGKILL)
        if self.backend.knows(self.container):
            self.backend.output("delete", "--force", self.container.name)
        self._undo()

    def _attempt(self, found: Checkpoint) -> Started:
        verification = Verification(found)
        node_fit.check_bundle(self.bundle)
        node_fit.check(found.manifest)
        for difference in node_fit.differences(found.manifest, self.bundle):
            self.log.event(f"{found.path} is tried all the same: {difference}")
        if os.path.exists(self.container.path(STAGE)):
            self._undo()  # an attempt before
        link = self.container.path(f"{STAGE_LINK}{os.getpid()}")
        with Unpacked(verification, link) as raw, joined(raw) as whole:
            os.mkdir(self.container.path(STAGE), 0o700)
            plan = RestorePlan(self.container, self.bundle, whole, self.asked)  # or refused, before anything is made
            linux.become_subreaper()
            if ROOTFS not in self.bundle.annotations:  # root must make nothing in a job's
                plan.make_points()
            rollback = Rollback(found, self.cut, plan.bases, self.log) if self.cut else None
            moments = _Moments(self.container, self.bundle, verification, rollback, self.log)
            others = set(process.children(os.getpid()))
            try:
                started = _carry_out(plan, verification, moments, self.streams, others)
            except (ShimError, OSError):
                _end_all(others)
                moments.undone()
                raise
            finally:
                moments.release()
                plan.closed.inner.close()
        scripts = (batch_script.point(self.bundle), *plan.script)  # Slurm's copy, or ours
        changed = _changed(found.manifest, {point: base for point, base in plan.bases.items() if point not in scripts})
        if changed := [path for path in changed if path not in scripts]:
            names = f"{' '.join(changed[:4])}{' …' if changed[4:] else ''}"
            self.log.event(f"files that it only reads have changed since {found.path}: {names}")
        if plan.closed.number:
            self.log.event(plan.closed.line())
        for path in sorted(set(plan.unwatched)):
            self.log.event(f"{path} is missing on this node: who watched it is told that it is gone")
        if verification.gap and not received.holds(found.path):
            self.log.event(f"{found.path} was not verified: {verification.gap}")
        return started

    def _undo(self) -> None:
        """Remove a failed attempt's control group, and its files in the container's directory, except CRIU's log."""
        for name in os.listdir(self.container.directory):
            if name.endswith(".img"):  # Edits.paths
                files.remove_if_there(self.container.path(name))
        try:
            os.rmdir(self.container.path(STAGE))
        except FileNotFoundError:
            pass
        if self.group:
            cgroups.remove(self.group)


def _changed(manifest: Manifest, bases: Mapping[str, str]) -> list[str]:
    """Return the paths in the container of files that it reads, and that have changed since; CRIU found their lengths.

    `bases` are the sources of its mounts. If a copy has another time on each node, that looks like a change.
    """
    found = []
    for row in manifest.get("read", []):
        path = os.path.join(bases[row["mount"]], row["name"]).rstrip("/") if row["mount"] in bases else ""
        try:
            if path and os.lstat(path).st_mtime_ns != row["modified_ns"]:
                found.append(os.path.join(row["mount"], row["name"]).rstrip("/"))
        except OSError:
            pass  # it is mapped no more, or CRIU has named it
    return found


def _carry_out(
    plan: RestorePlan, verification: Verification, moments: _Moments, streams: Streams, others: set[int]
) -> Started:
    """Have CRIU restore the container; `others` are the children that we have besides."""
    swrk = sandbox.start(plan, streams)
    # CRIU's processes and the container's, for which we are the subreaper.
    progress = Progress(lambda: _descendants(others), _size(plan), lambda: os.stat(plan.log).st_size)
    try:
        verification.start()
        plan.closed.inner.serve()
        moments.seccomp, moments.holds_tcp = plan.seccomp, plan.holds_tcp
        response = swrk.request("RESTORE", plan.options(), moments.notified, progress)
        if not response.success and not moments.refused:
            verification.require()  # it tells more than CRIU does
    except Stopped as error:
        raise _failure(plan, criu.last_words(error, plan.log)) from None
    except Killed as error:
        raise NotRestored(f"CRIU could not restore {plan.container.name}: {error}", error.hint) from None
    finally:
        verification.stop()
        swrk.close()
    if moments.refused:
        raise moments.refused
    if not response.success:
        said = criu.summary(criu.errors(plan.log)) or response.cr_errmsg or f"error {response.cr_errno}"
        raise _failure(plan, said)
    plan.seccomp.require_set()
    return int(response.restore.pid), swrk.terminal


def _size(plan: RestorePlan) -> int:
    return sum(plan.manifest["files"].values())


def _descendants(others: set[int]) -> list[int]:
    """Return the pids of our descendants, without our children `others` and theirs."""
    found = set(process.children(os.getpid())) - others
    return [pid for child in sorted(found) for pid in process.tree(child)]


def _end_all(others: set[int]) -> None:
    """Kill our children, except `others`, and what becomes a child of ours by that; wait until they have ended.

    CRIU that is killed leaves the processes that it was restoring. With its init, a pid namespace ends.
    """
    left: set[int] = set()  # they can't be ended
    while found := set(process.children(os.getpid())) - others - left:
        for pid in found:
            os.kill(pid, signal.SIGKILL)
        for pid in found:
            if process.ends_within(pid, criu.END_SECONDS):
                process.wait(pid)
            else:
                left.add(pid)


class _Moments:
    """Answers CRIU's events: runs a start's hooks when they are due, and lets no process run with damaged memory."""

    def __init__(
        self, container: Container, bundle: Bundle, verification: Verification, rollback: Rollback | None, log: Log
    ) -> None:
        self.container = container
        self.bundle = bundle
        self.hooks = bundle.hooks
        self.verification = verification
        self.rollback = rollback
        self.log = log
        self.has_layer = LAYER in verification.checkpoint.manifest["files"]
        self.seccomp: Seccomp | None = None
        self.holds_tcp = False
        self.held: socket.socket | None = None
        self.refused: ShimError | None = None
        self.begun = False  # whether any hook was run

    def notified(self, event: str, pid: int) -> bool:
        """Answer CRIU's event; return whether it may go on. If not, CRIU ends all processes that it has restored."""
        try:
            if self.seccomp:
                self.seccomp.require_loaded()
            if event == AT_RESTORED or (event == AT_NAMESPACES and (self.hooks or self.rollback or self.has_layer)):
                self.verification.require()
            if event == AT_NAMESPACES:
                self._hold(pid)
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
                for line in threads.give_back(pid, self.verification.checkpoint.manifest.get("threads", {})):
                    self.log.event(line)
                state = self.container.state("created", pid)
                hooks.run(self.hooks, "startContainer", state, inside=pid)
                if self.bundle.is_bare:
                    own_mounts.finish(pid, self.container.path(STAGE))
                self.release()
        except ShimError as error:
            self.refused = error
            return False
        return True

    def _hold(self, pid: int) -> None:
        """Hold up TCP in the network of the init `pid`: a connection's first end would be refused by the other."""
        if self.holds_tcp:
            try:
                self.held = netlock.hold(pid)
            except OSError as error:
                said = f"TCP connections can't be held up until all are restored: {error.strerror}"
                raise Misfit(said, netlock.HINT) from None

    def release(self) -> None:
        """Let TCP go on, if it is held up."""
        if self.held:
            self.held.close()
            self.held = None

    def undone(self) -> None:
        """Run the poststop hooks of a container that is gone again, if others were run for it (runtime.md, Lifecycle).

        These are its steps 4 to 7 and 13.
        """
        for warning in hooks.warnings(self.hooks, "poststop", self.container.state("stopped", 0)) if self.begun else []:
            self.log.error(warning)


def _failure(plan: RestorePlan, said: str) -> ShimError:
    lines = criu.errors(plan.log)
    hint = criu.meaning(lines) or node_fit.changed(plan.manifest, plan.bundle)
    kind = ShimError if criu.fails_everywhere(lines) else NotRestored
    return kind(f"CRIU could not restore {plan.container.name}: {said}", hint)
