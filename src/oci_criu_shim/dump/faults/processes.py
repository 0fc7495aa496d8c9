"""Processes that can't be dumped."""

from __future__ import annotations

import errno
import os
import time

from oci_criu_shim.dump.proc import Process, Status, read
from oci_criu_shim.errors import ShimError
from oci_criu_shim.host import cgroups, process

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from oci_criu_shim.dump.survey import Survey

WAIT_SECONDS, PAUSE_SECONDS = 5.0, 0.05
APPARMOR = "/sys/kernel/security/apparmor"  # where CRIU looks for it (kerndat_lsm() in criu/lsm.c)
POLICIES = (os.SCHED_OTHER, os.SCHED_FIFO, os.SCHED_RR, os.SCHED_BATCH, os.SCHED_IDLE)
MOUNT_SECURITYFS = "mount -t securityfs securityfs /sys/kernel/security, and remove /run/criu.kdat, where CRIU notes it"
# Of these CRIU keeps one for all. It takes several of "net", but a restore of ours then fails.
NESTED = ("user", "pid", "ipc", "uts", "cgroup", "time", "time_for_children", "net")
WORDS = {"mnt": "mount", "net": "network"}
BACKGROUND = {"21": "(SIGTTIN), since it read from", "22": "(SIGTTOU), since it wrote to"}
CAP_SYS_ADMIN = 21
VFORK = "kernel_clone"  # the kernel's function in which a parent waits for a child of vfork(2)
ENDED = ("Z", "X")  # states of processes that nobody has waited for, whose files in /proc are root's


def paused(survey: Survey) -> Iterator[ShimError]:
    """Yield a fault if a control group keeps the processes frozen: CRIU would wait for ever.

    Only root may have CRIU thaw them.
    """
    if survey.is_users and cgroups.frozen(survey.pid):
        yield ShimError("the container is paused", "resume it first")


def unstoppable(survey: Survey) -> Iterator[ShimError]:
    """Yield threads that wait uninterruptibly (state D): CRIU could not stop them, and gives up after 10 s.

    Such a wait mostly ends soon. It is given some time, in which the container runs on.
    """
    waiting = {path: since for each in survey.processes for path in _threads(each) if (since := _waits(path))}
    if waiting and cgroups.frozen(survey.pid):
        return  # by a control group of version 1: CRIU thaws it
    limit = time.monotonic() + WAIT_SECONDS
    while waiting and time.monotonic() < limit:
        time.sleep(PAUSE_SECONDS)
        waiting = {path: since for path, since in waiting.items() if _waits(path) == since}
    for path in waiting:
        name, place = read(f"{path}/comm").strip(), process.waits_in(path)
        said = f"process {path.split('/')[2]} ({name}) can't be stopped: it waits"
        if VFORK in place:
            yield ShimError(
                f"{said} for a child that it has made by vfork(2)",
                "a checkpoint can be taken once the child has started a program or ended",
            )
        else:
            yield ShimError(
                f"{said} in the kernel{place}",
                "a file system or a device does not answer; a checkpoint can be taken once it does",
            )


def _threads(process: Process) -> list[str]:
    """Return the directories in /proc of a process's threads that may wait uninterruptibly."""
    status = process.status
    if status.get("Threads", ["1"]) == ["1"]:
        return [process.path] if status.get("State", [""])[0] == "D" else []
    try:
        return [f"{process.path}/task/{thread}" for thread in os.listdir(f"{process.path}/task")]
    except FileNotFoundError:
        return []


def _waits(path: str) -> str:
    """Return what stays the same for as long as the thread waits uninterruptibly; nothing if it does not."""
    lines = read(f"{path}/status").splitlines()
    waits = any(line.startswith("State:\tD") for line in lines)
    return "".join(line for line in lines if waits and line.startswith("voluntary_ctxt_switches"))


def profiles(survey: Survey) -> Iterator[ShimError]:
    """Yield AppArmor profiles that CRIU does not see, without AppArmor's directory: a restore would leave them out."""
    for each in survey.processes if not os.path.exists(APPARMOR) else ():
        profile = _profile(each)
        if profile not in ("", "unconfined"):
            yield ShimError(f"it has the AppArmor profile {profile}, which CRIU can't see here", MOUNT_SECURITYFS)


def _profile(process: Process) -> str:
    """Return the AppArmor profile of a process; an empty string if there is no AppArmor."""
    try:
        return read(f"{process.path}/attr/apparmor/current").rstrip("\0\n")
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
        return ""  # it is turned off


def unlimited(survey: Survey) -> Iterator[ShimError]:
    """Yield processes whose limits CRIU may not ask for: another user's, without CAP_SYS_RESOURCE (prlimit(2))."""
    import resource

    for each in () if survey.is_users else survey.processes:
        try:
            resource.prlimit(each.pid, resource.RLIMIT_CPU)
        except ProcessLookupError:
            pass  # it has ended
        except PermissionError:
            yield ShimError(
                f"process {each.pid} runs as another user, whose limits this root may not ask for",
                "give it CAP_SYS_RESOURCE",
            )


def personalities(survey: Survey) -> Iterator[ShimError]:
    """Yield personalities other than the init's: CRIU restores none, and is started with that one (restore/plan.py)."""
    own = _personality(survey.init)
    living = [each for each in survey.leaders if each.state not in ENDED]
    found = ((" ".join(each.status.get("Name", [])), _personality(each)) for each in living)
    for name, number in dict.fromkeys(found):
        if number not in ("", own):
            said = f"a process ({name}) has the personality {int(number, 16):#x}, and comes back with that of the init"
            yield ShimError(f"{said}, {int(own, 16):#x}", "start the container's program with it, by setarch")


def _personality(process: Process) -> str:
    """Return the personality of a process, in hexadecimal; an empty string if it is somebody else's."""
    try:
        return read(f"{process.path}/personality")
    except PermissionError:
        return ""


def schedulers(survey: Survey) -> Iterator[ShimError]:
    """Yield processes with a scheduling policy that CRIU dumps and does not restore (sched(7))."""
    for each in survey.processes:
        for thread in each.threads:
            try:
                policy = os.sched_getscheduler(thread) & ~os.SCHED_RESET_ON_FORK
            except ProcessLookupError:
                continue
            if policy not in POLICIES:
                yield ShimError(
                    f"process {each.pid} has the scheduling policy {policy}, with which CRIU restores nothing",
                    "have it take another policy: chrt --other --pid 0 PID",
                )


def of_others(survey: Survey) -> Iterator[ShimError]:
    """Yield processes with an id of /etc/subuid: their files in /proc can't be read without a DAC override."""
    for each in survey.processes if survey.is_users else ():
        ids = each.status.get("Uid", [])
        if set(ids) - {str(os.geteuid())}:
            yield ShimError(
                f"process {each.pid} runs as a user who is not you outside (ids {' '.join(ids)}):"
                " a dump has no right to its memory",
                "run it as user 0, which is you",
            )


def closed(survey: Survey) -> Iterator[ShimError]:
    """Yield processes whose program may not be read, or that were started by one of more rights: who may not trace
    them may not look at them (would_dump() in fs/exec.c)."""
    for each in survey.processes:
        if each.is_closed:
            yield ShimError(
                f"{each} runs a program that may not be read, or one with more rights: a dump may not look into it",
                "make the program's file readable",
            )


def traced(survey: Survey) -> Iterator[ShimError]:
    """Yield processes that another one traces already: a process has one tracer."""
    for each in survey.processes:
        tracer = int(each.status.get("TracerPid", ["0"])[0])
        if tracer:
            yield ShimError(f"{each} is traced by {_Named(tracer)}, and CRIU would have to trace it", "end the tracer")


def grouped(survey: Survey) -> Iterator[ShimError]:
    """Yield one of the processes that are in control groups below the container's: a restore makes that one only.

    Users can make none.
    """
    own = read(f"{survey.init.path}/cgroup") if not survey.is_users else ""
    living = (each for each in survey.processes if own and each.state not in ENDED)
    others = (each for each in living if read(f"{each.path}/cgroup") not in ("", own))
    for each in (each for each in others if not each.is_ending()):
        yield ShimError(
            f"{each} is in a control group that was made in the container, and comes back in the container's own",
            "have the program make it again",
        )
        return


def leaderless(survey: Survey) -> Iterator[ShimError]:
    """Yield processes whose first thread has ended, and others run on (collect_threads() in criu/seize.c, 4.2)."""
    for each in survey.processes:
        if each.state == "Z" and each.status.get("Threads", ["1"]) not in (["0"], ["1"]):
            yield ShimError(
                f"the first thread of {each} has ended, and others run on, which CRIU can't dump",
                "have it wait for the others (pthread_join)",
            )


class _Named:
    def __init__(self, pid: int) -> None:
        self.pid = pid

    def __str__(self) -> str:
        try:
            return f"process {self.pid} ({' '.join(process.status(self.pid)['Name'])})"
        except ProcessLookupError:
            return f"process {self.pid}"


def stopped(survey: Survey) -> Iterator[ShimError]:
    """Yield processes that were stopped for using their terminal in the background.

    CRIU keeps those that SIGSTOP or SIGTSTP has stopped (compel_wait_task() in compel/src/lib/infect.c). The kernel
    tells of the signal until the parent has waited for it (do_task_stat() in fs/proc/array.c); after that, CRIU does.
    """
    for each in survey.processes:
        if each.state == "T" and each.stat[49:50] and (how := BACKGROUND.get(each.stat[49])):
            yield ShimError(
                f"{each} is stopped {how} its terminal in the background",
                "continue it in the foreground (fg), or end it",
            )


def nested(survey: Survey) -> Iterator[ShimError]:
    """Yield processes in namespaces that are neither the container's nor the node's.

    Who may not make any makes a user namespace first. Mount namespaces are kept (mounts.elsewhere()).
    """
    may_make = int(survey.init.status.get("CapBnd", ["0"])[0], 16) >> CAP_SYS_ADMIN & 1
    kinds = NESTED[:1] if not may_make else NESTED
    allowed = {each.namespace(kind) for each in (survey.init, Process(os.getpid())) for kind in kinds}
    for each in survey.processes[1:]:
        for kind in kinds:
            name = each.namespace(kind)
            if name and name not in allowed:
                words = WORDS.get(kind, kind.removesuffix("_for_children"))
                yield ShimError(
                    f"{each} is in a namespace of its own ({words}), which can't be restored within the container's",
                    "run it without (unshare, bwrap, a browser's sandbox)",
                )


def chrooted(survey: Survey) -> Iterator[ShimError]:
    """Yield the init if it has another root directory than the container: CRIU finds files from there."""
    root = survey.init.places["root"]
    if root not in ("", "/"):
        yield ShimError(
            f"{survey.init}, the container's first, has changed its root directory to {root}, which CRIU can't dump",
            "have a child of it call chroot(2)",
        )


def shared_memory(survey: Survey) -> Iterator[ShimError]:
    """Yield processes with System V memory of the node's: CRIU keeps that of an ipc namespace of the container's."""
    node = Process(os.getpid()).namespace("ipc")
    for each in survey.leaders if survey.init.namespace("ipc") == node else ():
        if any(path.startswith("/SYSV") for _, path in each.mapped_oddly):
            yield ShimError(
                f"{each} has System V memory of the node's mapped, which others may use, too",
                'add {"type": "ipc"} to linux.namespaces',
            )


def added(survey: Survey) -> Iterator[ShimError]:
    """Yield programs that `exec` has started: they are no descendants of the init, which a dump begins with."""
    inside = {each.status.get("NSpid")[-1] for each in survey.processes if each.status.get("NSpid")}
    try:
        names = os.listdir(survey.path("/proc"))
    except OSError:
        return  # it has none, or something else is mounted there
    for name in names:
        if not name.isdigit() or name in inside:
            continue
        status = Status(read(survey.path(f"/proc/{name}/status")))
        if status.get("PPid") == ["0"]:
            yield ShimError(
                f"its process {name} ({' '.join(status.get('Name'))}), which was started by `exec`, is not in the"
                " checkpoint: only the container's own program is, and what that has started"
            )
