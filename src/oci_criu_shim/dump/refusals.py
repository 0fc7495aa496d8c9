"""What no checkpoint is taken of: the rows of kept.py's list that are refused."""

from __future__ import annotations

from oci_criu_shim.dump.answers import refused
from oci_criu_shim.dump.faults import bundle, descriptors, files, mounts, processes, sessions, sockets, sources

# They are looked for in this order: a process that can't be looked into before anything else asks it.
ROWS = (
    refused(
        "the scheduling policies SCHED_DEADLINE and SCHED_EXT",
        "CRIU 4.2 dumps them, and restores neither (`validate_sched_parm()`)",
        "use another policy",
        running=processes.schedulers,
    ),
    refused(
        "no pid namespace of its own",
        "CRIU restores each process under its number",
        "add one",
        at_start=bundle.shared_pids,
    ),
    refused(
        "an ipc, mount, time or user namespace of somebody else's",
        "the checkpoint would hold what is theirs",
        "name no path",
        at_start=bundle.joined_namespaces,
    ),
    refused(
        "a user's id that is not mapped; root's mappings without a 0",
        "CRIU 4.2 takes on an id of the namespace (`check_user_ns()`): root's the one that is 0, a user's their own",
        "map it",
        at_start=bundle.taken_on,
    ),
    refused(
        "a user's processes with ids of /etc/subuid",
        "reading their files in /proc needs a DAC override, which a dump does not hold; groups may be any",
        "run them as yourself, which is 0, or your own number by `oci-criu-shim spec --keep-id`",
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
        "sysctls that limit System V objects and message queues, if the user is not 0 inside",
        "they belong to number 0, and a restore runs as the user",
        "leave them out",
        at_start=bundle.ipc_limits,
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
        "use the task's group",
        at_start=bundle.own_group,
    ),
    refused(
        "a user's paused container",
        "CRIU would wait for ever",
        "resume it",
        running=processes.paused,
    ),
    refused(
        "a process that waits in the kernel for a file system, a device or a child of vfork(2) (state D)",
        "CRIU could not stop it; it is waited for, 5 s at most",
        "checkpoint later",
        running=processes.unstoppable,
    ),
    refused(
        "a user's thread without no_new_privs or CAP_SYS_ADMIN, if its seccomp filter refuses capset, prctl, futex,"
        " munmap and the like",
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
        "a process that is traced (strace, a debugger)",
        "CRIU has to trace it",
        "end the tracer",
        running=processes.traced,
    ),
    refused(
        "a process whose first thread has ended (pthread_exit), and others run on",
        "CRIU 4.2 dumps none",
        "wait for the others",
        running=processes.leaderless,
    ),
    refused(
        "a process that was stopped since it used its terminal in the background",
        "CRIU keeps those that SIGSTOP or SIGTSTP has stopped",
        "continue it by `fg`",
        running=processes.stopped,
    ),
    refused(
        "namespaces that a program has made for itself (unshare, bwrap, a browser's sandbox), but mount namespaces",
        "CRIU dumps one user, pid, ipc, UTS, cgroup and time namespace; of several network namespaces, a restore fails",
        "run the program without",
        running=processes.nested,
    ),
    refused(
        "a session that was begun outside of the container",
        "it has no number inside",
        "use a runtime that makes one",
        running=sessions.outside,
    ),
    refused(
        "a daemon in a session of its own that another process than the container's first has adopted"
        " (PR_SET_CHILD_SUBREAPER)",
        "CRIU has a session begun by an ancestor, or by a child of the first process",
        "have it adopted by the first process",
        running=sessions.orphaned,
    ),
    refused(
        "a process in a group whose first process has left it",
        "that one makes the group at a restore, or somebody else if it has ended",
        "have it stay",
        running=sessions.abandoned,
    ),
    refused(
        "System V memory of the node's",
        "others may use it, too",
        "use an ipc namespace",
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
        "use rslave",
        running=mounts.shared,
    ),
    refused(
        "mounts that came to a peer (rshared) of where a program made them, and that it has made a slave, or a peer of"
        " others, since",
        "CRIU has them come there again, and makes them private at most",
        "leave them, or make them private",
        running=mounts.propagated,
    ),
    refused(
        "a mount of the node's with another over it",
        "CRIU knows it by its place alone",
        "leave one of them out",
        running=mounts.covered,
    ),
    refused(
        "bind mounts that a program has made of what the container has nowhere else now, or of a file that was removed;"
        " all that are not in config.json, if it has hooks",
        "a restore makes those of config.json",
        "name them there",
        running=mounts.foreign,
    ),
    refused(
        "mounts of the node's files in a mount namespace that a program has made for itself, if the container's own has"
        " them nowhere",
        "CRIU takes them from there",
        "mount them for the whole container",
        running=mounts.elsewhere,
    ),
    refused(
        "a user's Unix socket with a name in such a mount namespace only",
        "CRIU looks for the name in the container's own",
        "bind it where the container has it, too",
        running=mounts.named_elsewhere,
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
        "put it back, or close the old one",
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
        "interpreters that a program has registered with a binfmt_misc of its own",
        "CRIU is built without that",
        "do without",
        running=mounts.handlers,
    ),
    refused(
        "the terminal that it was started on",
        "a process outside holds its master",
        "as root, use `--shell-job`",
        running=descriptors.terminal,
    ),
    refused(
        "standard streams redirected to a file of the node's",
        "the file is on no mount of the container's",
        "use a pipe",
        running=descriptors.redirected,
    ),
    refused(
        "a rank of MPI that Slurm has started, once it has joined the others; any task of several, if that is by PMI2",
        "the ranks find each other through slurmstepd, which does not come along",
        "start them by mpirun in one container or task; `srun --mpi=none` for others: [mpi.md](mpi.md)",
        running=sockets.launched,
    ),
    refused(
        "a user's launcher of MPI in the node's network, with ranks on other nodes",
        "a restore closes the connections between them, and MPI does not go on after that",
        "start all ranks on one node: [mpi.md](mpi.md)",
        running=sockets.launching,
    ),
    refused(
        "TCP connections with other programs, except a user's in the node's network, unless the job refuses that"
        " (`--checkpoint-tcp=refuse`); root's also within the container",
        "the other end is outside, and would not find it again",
        "close it and connect again; as root, use `--tcp-established`",
        running=sockets.connections,
    ),
    refused(
        "connections of MPTCP that would be kept",
        "CRIU 4.2 knows only TCP",
        "for Go programs, `GODEBUG=multipathtcp=0`",
        running=sockets.multipath,
    ),
    refused(
        "TCP connections that would be kept, and in which the kernel speaks TLS (TCP_ULP)",
        "CRIU 4.2 does not know it: the kernel would no longer encrypt",
        "have a library encrypt",
        running=sockets.layers,
    ),
    refused(
        "in the node's network, what a user's process has not read of an ended TCP connection, with"
        " `--checkpoint-tcp=refuse`",
        "reading it from outside needs a capability that a dump does not hold",
        "read it, or use a network namespace",
        running=sockets.unread,
    ),
    refused(
        "an empty message that was not read from a Unix socket (SOCK_DGRAM, SOCK_SEQPACKET)",
        "CRIU takes it for the end, and would lose what follows it",
        "checkpoint later",
        running=sockets.empty,
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
        "sockets of other families than Unix, internet, packet and netlink; SCTP",
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
        "a deleted file of more than 1 GiB",
        "it would be in each checkpoint",
        "don't delete it while it is open",
        running=files.large,
    ),
    refused(
        "more than `bare-tmp` of `config.toml` in the own /tmp, /var/tmp and /dev/shm of a task without a container",
        "they would be in each checkpoint",
        "keep them elsewhere",
        running=files.crowded,
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
        "close it, or leave the directory",
        running=files.unopenable,
    ),
    refused(
        "what a user's process has open, works in or runs in a directory that only the container's root may search, and"
        " a tmpfs there",
        "CRIU looks for it by its path, with the user's rights",
        "`chmod u+x` the directory",
        running=files.unreachable,
    ),
    refused(
        "an open file that something is mounted over, or a directory above it",
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
