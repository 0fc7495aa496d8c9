"""The table of the command line: runc's and crun's verbs and options, and ours.

Help, the manual page and bash's completion are made from it.
"""

from __future__ import annotations

from oci_criu_shim.cli import commands
from oci_criu_shim.cli.option import Group, Option, Verb

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

    from oci_criu_shim.cli.invocation import Invocation

HELP = Option("--help -h -? --usage", "", "show this help")
GLOBAL = (
    Option("--root", "DIR", "keep the containers' state in DIR"),
    Option("--backend", "NAME", "the runtime that creates containers: crun, runc, … or a path"),
    Option("--log", "FILE", "write errors to FILE as well"),
    Option("--log-format", "text|json", "the format of the --log file; text by default"),
    Option("--log-level", "error|warning|debug", "debug is the same as --debug"),
    Option("--debug", "", "report each step"),
    Option("--systemd-cgroup", "", "have the backend make control groups through systemd"),
    Option("--cgroup-manager", "cgroupfs|systemd|disabled", "systemd is --systemd-cgroup; disabled is for crun only"),
    Option("--rootless", "BOOL", "accepted for compatibility with runc; the user id decides"),
    Option("--criu", "FILE", "accepted for compatibility with runc; CRIU is looked for in the system's directories"),
    Option("--slurm-conf -f", "FILE", "Slurm's configuration file, if it is not at its usual place"),
    HELP,
    Option("--version -v -V", "", "show the version"),
)

BUNDLE = Option("--bundle -b", "DIR", "the bundle; the current directory by default")
PID_FILE = Option("--pid-file", "FILE", "write the pid of the container's init to FILE")
CONSOLE = Option("--console-socket", "SOCKET", "send the terminal's master end to SOCKET")
DETACH = Option("--detach -d", "", "return once it runs, without waiting for its end")
KEEP = Option("--keep", "", "keep the ended container, stopped, until `delete`")
PRESERVE = Option("--preserve-fds", "N", "pass on N descriptors besides the standard ones")
CREATION = (
    BUNDLE,
    PID_FILE,
    CONSOLE,
    PRESERVE,
    Option("--no-pivot", "", "use chroot instead of pivot_root"),
    Option("--no-new-keyring", "", "keep the session keyring"),
    Option("--no-subreaper", "", "accepted, no effect"),
    Option("--config -f", "FILE", "use FILE instead of config.json, if the backend can"),
)
IMAGES = Option("--image-path", "DIR", "the checkpoint's directory; ./checkpoint by default")
# runc's and crun's. Those marked (root) are for root's containers, which need no helper and may reach out of
# themselves; those that are "accepted" mean nothing here, because what they ask for is always done, or never.
REACHING_OUT = (
    Option("--work-path", "DIR", "put CRIU's log and statistics there; the checkpoint's directory by default"),
    Option("--tcp-established", "", "keep open TCP connections (root)"),
    Option("--ext-unix-sk", "", "allow unix sockets that lead out of the container (root)"),
    Option("--shell-job", "", "leave the container's terminal behind; a restore uses that of its caller (root)"),
    Option("--network-lock", "iptables|nftables|skip", "how to lock connections that are kept; nftables by default"),
    Option("--file-locks", "", "accepted: file locks are always kept"),
    Option("--link-remap", "", "accepted: deleted files are always kept"),
    Option(
        "--manage-cgroups-mode",
        "ignore|soft|full|strict",
        "accepted: a restored container gets the control group and limits of its config.json",
    ),
    Option("--empty-ns", "network", "leave the network namespace's interfaces out; a restore never makes them"),
    Option("--auto-dedup", "", "accepted: earlier dumps stay as they are (not with --parent-path)"),
    Option("--lazy-pages", "", "hand memory out at the port of --page-server; fetch it when needed (root)"),
)
CHECKPOINT = (
    IMAGES,
    Option("--leave-running -R", "", "let the container run on"),
    *REACHING_OUT,
    Option("--pre-dump", "", "dump memory only, and let it run on; the kernel must track writes (root)"),
    Option("--parent-path", "DIR", "dump only what changed since the pre-dump in DIR, relative to --image-path (root)"),
    Option("--page-server", "ADDRESS:PORT", "send memory to this `criu page-server` (root)"),
    Option("--status-fd", "N", "write a null byte to descriptor N once lazy pages can be fetched"),
)
RESTORE = (
    BUNDLE,
    IMAGES,
    PID_FILE,
    CONSOLE,
    Option("--detach -d", "", "leave the container to the caller, on the caller's streams"),
    *REACHING_OUT,
    Option("--tcp-close", "", "close TCP connections (root)"),
    Option("--lsm-profile", "TYPE:NAME", "the security label or profile of the processes"),
    Option("--lsm-mount-context", "CONTEXT", "the security context of the mounts"),
    Option("--no-pivot", "", "accepted: CRIU changes the root"),
    Option("--no-subreaper", "", "accepted, no effect"),
)
FORMAT = Option("--format -f", "table|json", "how to print; table by default")
REGEX = Option("--regex -r", "", "take ID as a regular expression, for all containers that match")
EXEC = (
    CONSOLE,
    DETACH,
    PID_FILE,
    PRESERVE,
    Option("--cwd", "DIR", "the working directory"),
    Option("--env -e", "NAME=VALUE", "add to the environment; may be repeated", repeats=True),
    Option("--tty -t", "", "give it a terminal"),
    Option("--user -u", "UID[:GID]", "run as this user"),
    Option("--additional-gids -g", "GID", "add a group; may be repeated", repeats=True),
    Option("--process -p", "FILE", "read all of this from FILE, a process.json"),
    Option("--process-label", "LABEL", "the process's SELinux label"),
    Option("--apparmor", "PROFILE", "the process's AppArmor profile"),
    Option("--no-new-privs", "", "set no_new_privs"),
    Option("--cap -c", "CAPABILITY", "add a capability; may be repeated", repeats=True),
    Option("--cgroup", "PATH", "a control group below the container's"),
    Option("--ignore-paused", "", "run even in a paused container, if the backend can"),
)
UPDATE = (
    Option("--resources -r", "FILE", "take all limits from FILE, in JSON"),
    *(
        Option(f"--{name}", "VALUE", "as in linux.resources of config.json")
        for name in (
            *("blkio-weight", "cpu-period", "cpu-quota", "cpu-rt-period", "cpu-rt-runtime", "cpu-share"),
            *("cpuset-cpus", "cpuset-mems", "kernel-memory", "kernel-memory-tcp", "memory", "memory-reservation"),
            *("memory-swap", "pids-limit", "l3-cache-schema", "mem-bw-schema"),
        )
    ),
)

DOCTOR = (
    Option("--json", "", "print an array of {host, name, status, found, hint}"),
    Option("--quiet -q", "", "print failures and warnings only, and nothing if there are none"),
)


def _complete(call: Invocation) -> int:
    """Print a script that completes this command's words in bash.

    The script calls this verb again, with the words before the cursor, and then it prints what may stand there.
    """
    from oci_criu_shim.cli import completion

    print(completion.answer(call.operands[1:], PROGRAM, GLOBAL))
    return 0


VERBS = {
    "create": Verb(commands.create, "ID", CREATION),
    "start": Verb(commands.start, "ID"),
    "run": Verb(commands.run, "ID", (*CREATION, DETACH, KEEP)),
    "state": Verb(commands.state, "ID"),
    "kill": Verb(commands.kill, "ID [SIGNAL]", (Option("--all -a", "", "send it to all processes"), REGEX)),
    "delete": Verb(commands.delete, "ID", (Option("--force -f", "", "end the container first if it runs"), REGEX)),
    "list": Verb(commands.listing, "", (FORMAT, Option("--quiet -q", "", "print ids only"))),
    "ps": Verb(commands.ps, "ID [PS-OPTIONS...]", (FORMAT,)),
    "exec": Verb(commands.pass_on, "ID [COMMAND...]", EXEC, "run one more program in a running container"),
    "pause": Verb(commands.pass_on, "ID", help="freeze a container"),
    "resume": Verb(commands.pass_on, "ID", help="let a paused container run on"),
    "update": Verb(commands.pass_on, "ID", UPDATE, "change a container's limits"),
    "events": Verb(
        commands.pass_on,
        "ID",
        (Option("--interval", "TIME", "how often"), Option("--stats", "", "once only")),
        "print a container's statistics, if the backend can",
    ),
    "checkpoint": Verb(commands.checkpoint, "ID", CHECKPOINT),
    "restore": Verb(commands.restore, "ID", RESTORE),
    "spec": Verb(
        commands.spec,
        "",
        (
            BUNDLE,
            Option("--rootless", "", "for a user without privileges"),
            Option("--keep-id", "", "for a user without privileges, whose ids are the same inside"),
            Option("--file -f", "FILE", "write to FILE instead, if the backend can"),
        ),
    ),
    "features": Verb(commands.features, ""),
    "doctor": Verb(commands.doctor, "", DOCTOR),
    "completion": Verb(_complete, "bash [WORD...]"),
}


def _checkpoints() -> Mapping[str, Verb]:
    from oci_criu_shim.cli import ckpt

    return ckpt.VERBS


def _jobs() -> Mapping[str, Verb]:
    from oci_criu_shim.cli import job

    return job.VERBS


GROUPS = {
    "ckpt": Group(_checkpoints, "list, check, copy and remove checkpoints: `oci-criu-shim ckpt --help` lists how"),
    "job": Group(_jobs, "show a job's status, checkpoint it now, run more in it: `oci-criu-shim job --help` lists how"),
}
PROGRAM = Group(lambda: {**VERBS, **GROUPS}, "An OCI runtime that checkpoints and restores Slurm's container jobs")
