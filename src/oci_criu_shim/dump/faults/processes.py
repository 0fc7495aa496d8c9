"""Processes that can't be dumped."""

from __future__ import annotations

import errno
import os
import time

from oci_criu_shim.dump.survey import read
from oci_criu_shim.errors import ShimError
from oci_criu_shim.host import cgroups

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from oci_criu_shim.dump.survey import Process, Survey

WAIT_SECONDS, PAUSE_SECONDS = 5.0, 0.05
APPARMOR = "/sys/kernel/security/apparmor"  # where CRIU looks for it (kerndat_lsm() in criu/lsm.c)
POLICIES = (os.SCHED_OTHER, os.SCHED_FIFO, os.SCHED_RR, os.SCHED_BATCH, os.SCHED_IDLE)
MOUNT_SECURITYFS = "mount -t securityfs securityfs /sys/kernel/security, and remove /run/criu.kdat, where CRIU notes it"


def paused(survey: Survey) -> Iterator[ShimError]:
    """CRIU waits for ever for processes that a control group keeps frozen; only root may have CRIU thaw them."""
    if survey.is_users and cgroups.frozen(survey.pid):
        yield ShimError("the container is paused", "resume it first")


def unstoppable(survey: Survey) -> Iterator[ShimError]:
    """CRIU could not stop a thread that waits uninterruptibly (state D): after 10 s of all being frozen it gives up.

    Such a wait mostly ends soon. It is given some time, in which the container runs on.
    """
    waiting = {path: since for each in survey.processes for path in _threads(each) if (since := _waits(path))}
    limit = time.monotonic() + WAIT_SECONDS
    while waiting and time.monotonic() < limit:
        time.sleep(PAUSE_SECONDS)
        waiting = {path: since for path, since in waiting.items() if _waits(path) == since}
    for path in waiting:
        name, place = read(f"{path}/comm").strip(), _place(path)
        yield ShimError(
            f"process {path.split('/')[2]} ({name}) can't be stopped: it waits in the kernel{place}",
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


def _place(path: str) -> str:
    """Return where in the kernel a thread waits, in words; nothing if that is hidden."""
    try:
        place = read(f"{path}/wchan").strip("0")
    except PermissionError:
        return ""
    return f" (in {place})" if place else ""


def profiles(survey: Survey) -> Iterator[ShimError]:
    """Without AppArmor's directory CRIU leaves out the profiles, and no profile confines a restored process."""
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
    """CRIU asks for each process's limits; for another user's process that takes CAP_SYS_RESOURCE (prlimit(2))."""
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
    """CRIU restores no personality; a process has that of the CRIU that restores it (restore/plan.py)."""
    own = read(f"{survey.init.path}/personality")
    found = ((" ".join(each.status.get("Name", [])), read(f"{each.path}/personality")) for each in survey.processes)
    for name, number in dict.fromkeys(found):
        if number not in ("", own):
            said = f"a process ({name}) has the personality {int(number, 16):#x}, and comes back with that of the init"
            yield ShimError(f"{said}, {int(own, 16):#x}", "start the container's program with it, by setarch")


def schedulers(survey: Survey) -> Iterator[ShimError]:
    """CRIU dumps every policy of sched(7), and restores some of them."""
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
