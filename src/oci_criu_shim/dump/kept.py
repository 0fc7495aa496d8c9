"""Decide what of a container a restore brings back: the one list of it, which docs/kept.md shows (tools/kept_md).

Each property is kept, refused or changed. What is refused is refused before anything is frozen, with a line; of what
will be changed, the job's output says so.
"""

from __future__ import annotations

from oci_criu_shim.dump import refusals
from oci_criu_shim.dump.answers import CHANGED, REFUSED, changed, kept
from oci_criu_shim.dump.faults import processes, sockets

TYPE_CHECKING = False
if TYPE_CHECKING:
    from oci_criu_shim.dump.survey import Subject, Survey

PROPERTIES = (
    kept(
        "args, env, cwd, user, groups, umask, rlimits, capabilities, no_new_privs, seccomp, oomScoreAdj, scheduler",
        "by CRIU; a process without groups gets none",
    ),
    kept("hostname, domainname, sysctl `net.*`", "made before CRIU starts, in namespaces that it takes for its own"),
    kept("sysctl `kernel.*`, `fs.mqueue.*`, System V objects", "by CRIU, with the ipc namespace"),
    kept(
        "namespaces, the container's own or the node's",
        "of the same kind again; a network, UTS or cgroup namespace that is named by its path is joined again",
    ),
    kept(
        "id mappings, also ranges of /etc/subuid",
        "by newuidmap and newgidmap, for root's containers by root; the group that is 0 inside may then read the"
        " checkpoint. A user is 0 inside, or has their own number or any other, with or without an id that is 0",
    ),
    kept(
        "devices",
        "by CRIU, in the container's /dev; those that crun makes outside of it, for root's user namespace, are made"
        " anew",
    ),
    kept(
        "terminal, with its modes and size",
        "its slave by CRIU; the restoring supervisor holds its master, and copies to and from the terminal that it"
        " runs on",
    ),
    kept("tmpfs and its contents, /dev, /dev/shm", "by CRIU"),
    kept(
        "/tmp, /var/tmp and /dev/shm of a task without a container, and the node's other mounts",
        "packed by tar while it is frozen, and unpacked before CRIU opens files; the others are those of the node on"
        " which it goes on: [bare-jobs.md](bare-jobs.md)",
    ),
    kept("apparmorProfile", "by CRIU, if securityfs is mounted and the profile is loaded"),
    kept(
        "files written to the root file system",
        "stay there; if it is a node's own, they are in the checkpoint: [rootfs-changes.md](rootfs-changes.md)",
    ),
    kept(
        "bind, masked and read-only mounts",
        "from the same sources, with the same flags; mount points that are missing on the node are made",
    ),
    kept(
        "bind mounts that a program makes of what is in other mounts, or in the root file system",
        "by CRIU, from there",
    ),
    kept("mount namespaces that a program makes for itself, and what it mounts there", "by CRIU"),
    kept("rootfsPropagation, rslave, rprivate; a user's rshared", "a slave sees again what the node mounts later"),
    kept(
        "hooks",
        "run at a restore as at a start, in the specification's order, poststop hooks if it fails; createContainer"
        " finds the node's mounts",
    ),
    kept("annotations", "in `state`"),
    kept(
        "resources, cgroupsPath",
        "root's: the group is made again, and limited by `crun update`, or nothing is restored; a user's container is"
        " in its task's group, under the limits of that group, before and after",
    ),
    kept(
        "TCP and UDP sockets without a connection",
        "by CRIU, at their address and port; one whose connection has ended stays so",
    ),
    kept(
        "TCP connections between a user's container's processes, in a network namespace of its own",
        "with the bytes under way, by a restore that drops whatever would answer them before all are back",
    ),
    kept(
        "TCP connections between a user's container's processes, in the node's network",
        "made anew, with what was not read yet, and with the same addresses if they can be had:"
        " [connections.md](connections.md#within-the-container)",
    ),
    kept(
        "each thread's processors (`taskset`), nice value, ioPriority and timer slack; each process's core dump filter",
        "set from outside before anything runs again; a thread that has all of its task's processors gets all of the"
        " new one's; what is not allowed there, the job's output says",
    ),
    kept("personality of the init (`setarch`)", "CRIU is started with it; all processes get it"),
    kept(
        "a system call that waits (`nanosleep`, `poll`, `epoll_wait`, `semop`, …)",
        "begins again, perhaps with all of its time limit; a sleep with what is left of it, if the program asks the"
        " kernel for that, as `sleep` does; if the process was stopped and continued before (SIGSTOP, `scontrol"
        " suspend`), a `nanosleep`, `poll` or timed wait for a lock may end with EINTR",
    ),
    kept("the clocks, CLOCK_REALTIME aside", "by a time namespace: a restored program finds that no time has passed"),
    changed(
        "the personality of other processes than the init (`setarch` in a script)",
        "is the init's",
        "start the script itself with it",
        running=processes.personalities,
    ),
    changed(
        "what was used: clock(), times(2), getrusage(2), RLIMIT_CPU, the clocks of processes and threads",
        "begins at about 0: differences across a restore may be negative, and a limit is counted from there",
        "measure with CLOCK_MONOTONIC",
    ),
    changed(
        "the start time of processes (`ps -o lstart`, /proc/PID/stat), /proc/PID/io",
        "is that of the restore, and begins at 0",
    ),
    changed(
        "control groups that root makes in the container",
        "are gone; their processes are in the container's own",
        "make them again",
        running=processes.grouped,
    ),
    changed(
        "memory policies (`numactl`, set_mempolicy(2), mbind(2))",
        "are the default policy: CRIU knows none",
        "start the job's step with `--mem-bind`",
    ),
    changed(
        "keys and keyrings (keyctl(2))",
        "are gone",
        "request them anew",
    ),
    changed(
        "mlockall(2) for future memory, KSM, utilisation clamps, core scheduling, the machine check policy,"
        " PR_SET_MDWE, PR_SET_TSC, speculation control, a session's nice value (/proc/PID/autogroup)",
        "are the default, or as the supervisor has them",
    ),
    changed(
        "what `exec` has started in the container",
        "is not there: a checkpoint has the container's own program, and what that has started",
        "have the program start it",
        running=processes.added,
    ),
    changed("Landlock rules", "are gone: nothing outside a process tells of them"),
    changed(
        "files that are only read",
        "are read as they are then; if one has changed and is as long as before, a restore says so:"
        " [open-files.md](open-files.md)",
    ),
    changed(
        "events of inotify and fanotify that the program had not read, or that happen before it runs again",
        "are lost",
        "look through the directory now and then, too",
    ),
    changed(
        "in a task without a container, a watch (inotify, fanotify) of something that is missing at the restore",
        "ends with IN_UNMOUNT and IN_IGNORED; the job's output names what is missing",
        "watch what all nodes have",
    ),
    changed(
        "a user's TCP connections in the node's network with other programs, unless the job refuses that",
        "are closed; the program's next call fails as after a reset: [connections.md](connections.md)",
        "connect again",
    ),
    changed(
        "sockets of MPTCP, as Go listens at",
        "are of TCP: whoever connects by MPTCP gets a connection of TCP",
    ),
    changed(
        "connections that a listening socket has not accepted",
        "are lost",
        "have the other end connect again",
        running=sockets.unaccepted,
    ),
    changed(
        "in the node's network, a socket bound to one of the node's addresses",
        "can be restored only on a node with that address ([restart.md](restart.md)), unless it is where the launcher"
        " of a job of one node listens for other nodes ([mpi.md](mpi.md))",
        "listen on all addresses",
        running=sockets.fixed,
    ),
    changed(
        "in the node's network, a connected UDP socket",
        "gets another local address if it can't have its own again",
    ),
    changed(
        "who sent the messages that were not read from a Unix socket (recvfrom(2))",
        "is any that is connected, or nobody",
        "write it into the message",
        running=sockets.senders,
    ),
    changed(
        "who is at the other end of a Unix connection (SO_PEERCRED, SO_PEERPIDFD)",
        "is the process that has made the socket at the restore, as the container's root",
        "ask when it is made",
    ),
    changed(
        "the addresses of a TCP socket whose connection has ended (getsockname(2), SO_PEERNAME)",
        "are none: CRIU would have to connect it again",
        "ask for them before",
    ),
    changed(
        "a file lease that is being broken (F_SETLEASE of fcntl(2)), if another process than its owner has it",
        "is broken once more: the owner is told again",
    ),
    changed("UDP datagrams that were not read", "are lost, as UDP may lose any"),
    changed(
        "options of sockets that CRIU 4.2 does not know: multicast groups and their options, TCP_CONGESTION,"
        " TCP_USER_TIMEOUT, TCP_DEFER_ACCEPT, TCP_FASTOPEN, IP_MTU_DISCOVER, IP_RECVERR",
        "are the default; a socket is in no group",
        "set them again",
    ),
    *refusals.ROWS,
)


def check_bundle(subject: Subject) -> None:
    """Raise ShimError if a container of this bundle could never be checkpointed on this node."""
    for row in PROPERTIES:
        if row.answer == REFUSED and row.at_start:
            for fault in row.at_start(subject):
                raise fault


def check(survey: Survey) -> list[str]:
    """Raise ShimError if the container can't be checkpointed as it is now, or never be restored.

    Return lines that say what will be different after a restore.
    """
    for row in PROPERTIES:
        if row.answer == REFUSED and row.running:
            for fault in row.running(survey):
                raise fault
    changed = (row.running(survey) for row in PROPERTIES if row.answer == CHANGED and row.running)
    return [fault.line() for faults in changed for fault in faults]
