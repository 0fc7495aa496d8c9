"""Decide what of a container a restore brings back: the one list of it, which docs/kept.md shows (tools/kept_md).

Each property is kept, refused or changed. What is refused is refused before anything is frozen, with a line; of what
will be changed, the job's output says so.
"""

from __future__ import annotations

from oci_criu_shim.dump.faults import bundle, descriptors, files, mounts, processes, sockets, sources

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from oci_criu_shim.dump.survey import Place, Survey
    from oci_criu_shim.errors import ShimError

    AtStart = Callable[[Place], Iterator[ShimError]]
    Running = Callable[[Survey], Iterator[ShimError]]

KEPT, REFUSED, CHANGED = "kept", "refused", "changed"


class Property:
    """One row: `what` it is, its `answer`; `how` it comes back, or why it doesn't; and what to do `instead`.

    Two functions yield what they find of it: `at_start` looks at the bundle and the node alone, `running` at the
    running container. If there is only one of them, it tells both. Without any, it is refused or changed elsewhere, as
    the row says.
    """

    def __init__(
        self,
        answer: str,
        what: str,
        how: str,
        instead: str = "",
        at_start: AtStart | None = None,
        running: Running | None = None,
    ) -> None:
        self.answer = answer
        self.what = what
        self.how = how
        self.instead = instead
        self.at_start = at_start
        self.running = running or at_start


def kept(what: str, how: str) -> Property:
    """Return the row of what comes back as it was."""
    return Property(KEPT, what, how)


def refused(
    what: str, why: str, instead: str = "", at_start: AtStart | None = None, running: Running | None = None
) -> Property:
    """Return the row of what no checkpoint is taken of."""
    return Property(REFUSED, what, why, instead, at_start, running)


def changed(what: str, how: str, instead: str = "", running: Running | None = None) -> Property:
    """Return the row of what is different after a restore."""
    return Property(CHANGED, what, how, instead, None, running)


# What is refused is looked for in this order: a process that can't be looked into before anything else asks it.
PROPERTIES = (
    kept(
        "args, env, cwd, user, groups, umask, rlimits, capabilities, no_new_privs, seccomp, oomScoreAdj, scheduler,"
        " nice",
        "by CRIU; a process without groups gets none",
    ),
    kept("hostname, domainname, sysctl `net.*`", "made before CRIU starts, in namespaces that it takes for its own"),
    kept("sysctl `kernel.*`, `fs.mqueue.*`, System V objects", "by CRIU, with the ipc namespace"),
    kept(
        "namespaces, the container's own or the node's",
        "of the same kind again; those named by a path are joined again, except ipc, mount, time and user",
    ),
    kept(
        "id mappings, also ranges of /etc/subuid",
        "by newuidmap and newgidmap, for root's containers by root; the group that is 0 inside may then read the"
        " checkpoint",
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
    kept("apparmorProfile", "by CRIU, if securityfs is mounted and the profile is loaded"),
    kept(
        "files written to the root file system",
        "stay there; if it is a node's own, they are in the checkpoint: [rootfs-changes.md](rootfs-changes.md)",
    ),
    kept(
        "bind, masked and read-only mounts",
        "from the same sources, with the same flags; mount points that are missing on the node are made",
    ),
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
        "each thread's processors (`taskset`), nice value, ioPriority and timer slack; each process's core dump filter",
        "set from outside before anything runs again; a thread that has all of its task's processors gets all of the"
        " new one's; what is not allowed there, the job's output says",
    ),
    kept("personality of the init (`setarch`)", "CRIU is started with it; all processes get it"),
    kept(
        "a system call that waits (`nanosleep`, `poll`, `epoll_wait`, `semop`, …)",
        "begins again, perhaps with all of its time limit; if the process was stopped and continued before (SIGSTOP,"
        " `scontrol suspend`), a `nanosleep`, `poll` or timed wait for a lock may end with EINTR",
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
        "not there: a checkpoint has the container's own program, and what that has started",
        "have the program start it",
        running=processes.added,
    ),
    changed("Landlock rules", "are gone: nothing outside a process tells of them"),
    refused(
        "the scheduling policies SCHED_DEADLINE and SCHED_EXT",
        "CRIU 4.2 dumps them, and restores neither (`validate_sched_parm()`)",
        "another policy",
        running=processes.schedulers,
    ),
    changed(
        "files that are only read",
        "they are read as they are then; if one has changed and is as long as before, a restore says so:"
        " [open-files.md](open-files.md)",
    ),
    changed(
        "events of inotify and fanotify that the program had not read, or that happen before it runs again",
        "they are lost",
        "look through the directory now and then, too",
    ),
    refused(
        "no pid namespace",
        "CRIU restores each process under its number",
        "add one",
        at_start=bundle.shared_pids,
    ),
    refused(
        "an ipc, mount, time or user namespace of somebody else's",
        "the checkpoint would hold what is theirs",
        "none",
        at_start=bundle.joined_namespaces,
    ),
    refused(
        "a user's id that is not 0 inside; root's mappings without a 0",
        "CRIU 4.2 takes on the ids that are 0 inside (`check_user_ns()`)",
        "map it to 0",
        at_start=bundle.ids,
    ),
    refused(
        "a user's processes with ids of /etc/subuid",
        "reading their files in /proc needs a DAC override, which a dump does not hold; groups may be any",
        "run them as 0",
        at_start=bundle.another_user,
        running=processes.of_others,
    ),
    refused(
        "sysctl `kernel.shm_rmid_forced`",
        "CRIU detaches System V memory while it dumps and restores, and the kernel then destroys it",
        "leave it out",
        at_start=bundle.shared_memory,
    ),
    refused(
        "a mount's uidMappings and gidMappings, crun's option `idmap`",
        "CRIU makes no such mount",
        "leave them out",
        at_start=bundle.mapped_mounts,
    ),
    refused(
        "seccomp with SCMP_ACT_NOTIFY",
        "nobody would ask the process outside any more",
        "leave it out",
        at_start=bundle.asked_outside,
    ),
    refused("intelRdt", "a restore sets none", "leave it out", at_start=bundle.cache),
    refused(
        "a user's container with a control group of its own (`--cgroup-manager`)",
        "its restore can make neither the group nor its limits",
        "the task's group",
        at_start=bundle.own_group,
    ),
    refused(
        "a user's paused container",
        "CRIU would wait for ever",
        "resume it",
        running=processes.paused,
    ),
    refused(
        "a process that waits in the kernel for a file system or a device (state D)",
        "CRIU could not stop it; it is waited for, 5 s at most",
        "a checkpoint later",
        running=processes.unstoppable,
    ),
    refused(
        "a user's thread without no_new_privs, if its seccomp filter refuses capset, prctl, futex, munmap and the like",
        "a restore has to do these after it has set the filter, or may not set it any more",
        "set no_new_privs first",
    ),
    refused(
        "a user's process whose program may not be read",
        "who may not trace it may not dump it",
        "make it readable",
        running=processes.closed,
    ),
    refused(
        "a process that is traced (strace, a debugger)", "CRIU traces it, too", "end that", running=processes.traced
    ),
    refused(
        "a process that was stopped since it used its terminal in the background",
        "CRIU keeps those that SIGSTOP or SIGTSTP has stopped",
        "`fg`",
        running=processes.stopped,
    ),
    refused(
        "namespaces that a program has made for itself (unshare, bwrap, a browser's sandbox)",
        "CRIU dumps one user, pid, ipc, UTS, cgroup and time namespace; of several network namespaces, or mount"
        " namespaces with masked files, a restore fails",
        "run it without",
        running=processes.nested,
    ),
    refused(
        "a session that was begun outside of the container",
        "it has no number inside",
        "a runtime that makes one",
        running=processes.sessions,
    ),
    refused(
        "System V memory of the node's",
        "others may use it, too",
        "an ipc namespace",
        running=processes.shared_memory,
    ),
    refused(
        "an init that has changed its root directory",
        "CRIU finds files from there",
        "chroot in a child",
        running=processes.chrooted,
    ),
    refused(
        "root's process with another id, if this root lacks CAP_SYS_RESOURCE",
        "CRIU may not ask for its limits",
        "add the capability",
        running=processes.unlimited,
    ),
    refused(
        "an AppArmor profile if securityfs is not mounted",
        "CRIU would not see the profile, and leave it out",
        "mount it at /sys/kernel/security",
        running=processes.profiles,
    ),
    refused(
        "a user's bind mount with other mounts of the node's below it",
        "CRIU makes each mount by itself; the kernel lets a user namespace have such a directory as a whole only",
        "bind what is needed",
        at_start=bundle.mounts_below_binds,
        running=mounts.below_binds,
    ),
    refused(
        "/sys without a network namespace, as a user",
        "crun then binds the node's /sys, with all mounts below it",
        "bind /sys/devices and /sys/class",
    ),
    refused(
        "root's rshared mounts that are peers of the node's",
        "they would come back as a group of their own",
        "rslave",
        running=mounts.shared,
    ),
    refused(
        "a mount of the node's with another over it",
        "CRIU knows it by its place alone",
        "one of them",
        running=mounts.covered,
    ),
    refused(
        "mounts that a program or a hook has made of the node's files",
        "a restore makes those of config.json",
        "name them there",
        running=mounts.foreign,
    ),
    refused(
        "FUSE, ramfs and other file systems that a program or a hook has mounted; a user's overlay",
        "CRIU makes proc, sysfs, tmpfs, devpts and the like anew, and no others",
        "mount them on the node, and bind them",
        running=mounts.unmakable,
    ),
    refused(
        "a device on a tmpfs that is mounted nowhere",
        "a restore makes those of linux.devices only",
        "name it there",
        running=mounts.unnamed_devices,
    ),
    refused(
        "at a restore, a source with flags here that the mount did not have",
        "a user can't take nosuid, nodev, … off",
        "mount it alike on all nodes",
    ),
    refused(
        "a bind whose source was removed on the node, or replaced while a process has the old one open",
        "a restore finds what has that name now; if nobody has the old one open, the new one takes its place",
        "put it back; close it",
        running=sources.removed,
    ),
    refused(
        "a user's watch (inotify, fanotify) of something whose path is not found within 5 s: it was removed, is a link,"
        " or is among very many files",
        "CRIU may not open it by its number, and restores a watch by its path",
        "end the watch",
        running=descriptors.watching,
    ),
    refused("POSIX message queues", "CRIU 4.2 dumps none", running=mounts.queues),
    refused(
        "the terminal that it was started on",
        "a process outside holds its master",
        "as root, `--shell-job`",
        running=descriptors.terminal,
    ),
    refused(
        "standard streams redirected to a file of the node's",
        "the file is on no mount of the container's",
        "a pipe",
        running=descriptors.redirected,
    ),
    refused(
        "other TCP connections",
        "the other end is outside, and would not find it again",
        "close it and connect again; as root, `--tcp-established`",
        running=sockets.connections,
    ),
    refused(
        "TCP connections in which the kernel speaks TLS (TCP_ULP)",
        "CRIU 4.2 does not know it: the kernel would no longer encrypt",
        "have the library do it",
        running=sockets.layers,
    ),
    refused(
        "in the node's network, what a user's process has not read of an ended TCP connection",
        "reading it from outside needs a capability that a dump does not hold",
        "read it, or a network namespace",
        running=sockets.unread,
    ),
    changed(
        "connections that a listening socket has not accepted",
        "they are lost",
        "connect again",
        running=sockets.unaccepted,
    ),
    changed(
        "in the node's network, a socket bound to one of the node's addresses",
        "only a node with that address can restore it: [restart.md](restart.md)",
        "listen on all addresses",
        running=sockets.fixed,
    ),
    changed(
        "in the node's network, a connected UDP socket",
        "if it can't have its local address again, it gets another",
    ),
    changed("UDP datagrams that were not read", "they are lost, as UDP may lose any"),
    changed(
        "options of sockets that CRIU 4.2 does not know: multicast groups and their options, TCP_CONGESTION,"
        " TCP_USER_TIMEOUT, TCP_DEFER_ACCEPT, TCP_FASTOPEN, IP_MTU_DISCOVER, IP_RECVERR",
        "are the default; a socket is in no group",
        "set them again",
    ),
    refused(
        "what a container still has of `--preserve-fds`",
        "the other end is outside: a pipe would lead nowhere",
        "close it",
        running=descriptors.preserved,
    ),
    refused(
        "an io_uring, which jobs don't find (`hide-io-uring`)",
        "CRIU dumps none",
        "have the program do without",
        running=descriptors.rings,
    ),
    refused(
        "open descriptors of performance counters, userfaultfd, BPF programs, FUSE, KVM, InfiniBand, GPUs and"
        " most other devices",
        "CRIU dumps none",
        "close them before",
        running=descriptors.unknown,
    ),
    refused(
        "sockets of other families than Unix, internet, packet and netlink; MPTCP, SCTP",
        "CRIU dumps none",
        "close them before",
        running=descriptors.families,
    ),
    refused(
        "an epoll set with a file that its process has closed, and another one has open",
        "CRIU asks for it by a descriptor",
        "remove it from the set first",
        running=descriptors.polled,
    ),
    refused(
        "open namespaces that no process is in; pidfds of processes outside and of threads",
        "a restore has none of them",
        "close them before",
        running=descriptors.elsewhere,
    ),
    refused(
        "a deleted file in a directory where you may not make files, also one that a program runs from",
        "CRIU makes it there again, for a moment",
        "start the program again after an upgrade",
        running=files.lost,
    ),
    refused(
        "a deleted file of more than 1 GiB", "it would be in each checkpoint", "don't delete it", running=files.large
    ),
    refused(
        "a file open by a name that was deleted, and with another one, if the container runs on or it is somebody"
        " else's",
        "CRIU gives it a third name, only for a dump that ends the container",
        "open it by that name",
        running=files.renamed,
    ),
    refused(
        "a user's open file or working directory of somebody else's that may not be opened, or no longer",
        "a restore opens it again",
        "close it, leave it",
        running=files.unopenable,
    ),
    refused(
        "an open file that something is mounted over",
        "CRIU finds it by its path",
        "close it first",
        running=files.covered,
    ),
    refused(
        "an open file on a mount that the container doesn't have, or no longer (`umount --lazy`)",
        "CRIU finds it by its mount",
        "close it first",
        running=files.outside,
    ),
    refused(
        "files in the node's /tmp or /dev/shm, if job_container/tmpfs makes that for each job",
        "they are gone when the job is requeued",
        "keep them elsewhere",
        running=files.private,
    ),
)


def check_bundle(place: Place) -> None:
    """Raise ShimError if a container of this bundle could never be checkpointed on this node."""
    for row in PROPERTIES:
        if row.answer == REFUSED and row.at_start:
            for fault in row.at_start(place):
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
