"""The verbs and their options: runc's and crun's, in one table."""

from __future__ import annotations

from oci_criu_shim.cli import commands

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from oci_criu_shim.cli.parse import Invocation


class Option:
    """`names` as they are typed, the first long one being its key; `metavar` where it takes a value."""

    def __init__(self, names: str, metavar: str, help: str) -> None:
        self.names = names.split()
        self.key = next(name for name in self.names if name.startswith("--"))[2:]
        self.metavar = metavar
        self.help = help


class Verb:
    """`operands` as usage shows them: in brackets where they may be left out, with dots where more follow: of the same
    kind (`ID...`, `[ID]...`), or a command line of its own (`[COMMAND...]`).

    The first one is a container id unless there are none.
    """

    def __init__(
        self, call: Callable[[Invocation], int], operands: str, help: str, options: Sequence[Option] = ()
    ) -> None:
        self.call = call
        self.operands = operands
        self.help = help
        self.options = options

    @property
    def least(self) -> int:
        """How many operands it must have."""
        return sum(not word.startswith("[") for word in self.operands.split())

    @property
    def most(self) -> int | None:
        """How many it may have; None where that is not limited."""
        return None if "..." in self.operands else len(self.operands.split())

    @property
    def ends_options(self) -> bool:
        """Whether what follows the first operand is a command line of its own."""
        return "...]" in self.operands


class Group:
    """A verb that stands before others: `table` gives them, and is asked only where one is called."""

    def __init__(self, table: Callable[[], dict[str, Verb]], help: str) -> None:
        self.table = table
        self.help = help


HELP = Option("--help -h -? --usage", "", "show this help")
GLOBAL = (
    Option("--root", "DIR", "where the containers' state is kept"),
    Option("--backend", "NAME", "the runtime that creates the containers: crun, runc, … or a path"),
    Option("--log", "FILE", "write errors to FILE as well"),
    Option("--log-format", "FORMAT", "text or json"),
    Option("--log-level", "LEVEL", "error, warning or debug, which is --debug"),
    Option("--debug", "", "say what is done"),
    Option("--systemd-cgroup", "", "have the backend make control groups by systemd"),
    Option("--cgroup-manager", "NAME", "cgroupfs, systemd (as --systemd-cgroup) or, of crun, disabled"),
    Option("--rootless", "BOOL", "accepted for runc's sake; the user id tells"),
    Option("--criu", "FILE", "accepted for runc's sake; CRIU is found where programs are"),
    Option("--slurm-conf -f", "FILE", "Slurm's configuration, where it is not at its usual place"),
    HELP,
    Option("--version -v -V", "", "show the version"),
)

BUNDLE = Option("--bundle -b", "DIR", "the bundle; the current directory by default")
PID_FILE = Option("--pid-file", "FILE", "write the pid of the container's init to FILE")
CONSOLE = Option("--console-socket", "SOCKET", "send the terminal's master to this socket")
DETACH = Option("--detach -d", "", "do not wait for its end")
KEEP = Option("--keep", "", "leave it, stopped, to `delete` when it has ended")
PRESERVE = Option("--preserve-fds", "N", "pass N more descriptors on")
CREATION = (
    BUNDLE,
    PID_FILE,
    CONSOLE,
    PRESERVE,
    Option("--no-pivot", "", "use chroot instead of pivot_root"),
    Option("--no-new-keyring", "", "keep the session keyring"),
    Option("--no-subreaper", "", "accepted: its caller is told of the container's end"),
    Option("--config -f", "FILE", "in the place of config.json, where the backend can"),
)
IMAGES = Option("--image-path", "DIR", "the checkpoint's directory; ./checkpoint by default")
# runc's and crun's. Those of root's containers need no helper and may reach out of them; those that are "accepted" have
# no meaning here, because what they ask for is always done, or never.
REACHING_OUT = (
    Option("--work-path", "DIR", "for CRIU's log and statistics; the checkpoint's directory by default"),
    Option("--tcp-established", "", "keep open TCP connections (root)"),
    Option("--ext-unix-sk", "", "allow unix sockets that lead out of it (root)"),
    Option("--shell-job", "", "the terminal that it was started on stays behind; a restore gives it its own (root)"),
    Option("--network-lock", "METHOD", "of connections that are kept: nftables (default), iptables or skip"),
    Option("--file-locks", "", "accepted: they are always kept"),
    Option("--link-remap", "", "accepted: deleted files are always kept"),
    Option("--manage-cgroups-mode", "MODE", "accepted: a restored container gets config.json's group and limits"),
    Option("--empty-ns", "KIND", "network: what it has of interfaces is left out; a restore never makes them"),
    Option("--auto-dedup", "", "accepted: earlier dumps stay as they are (not with --parent-path)"),
    Option("--lazy-pages", "", "hand memory out at --page-server's port; fetch it when needed (root)"),
)
CHECKPOINT = (
    IMAGES,
    Option("--leave-running -R", "", "let it run on afterwards"),
    *REACHING_OUT,
    Option("--pre-dump", "", "memory only, and it runs on: where the kernel tracks what is written (root)"),
    Option("--parent-path", "DIR", "only memory that changed since this pre-dump, as seen from --image-path (root)"),
    Option("--page-server", "ADDRESS:PORT", "send memory to this `criu page-server` (root)"),
    Option("--status-fd", "N", "write a null byte to this descriptor once lazy pages can be fetched"),
)
RESTORE = (
    BUNDLE,
    IMAGES,
    PID_FILE,
    CONSOLE,
    Option("--detach -d", "", "leave it to the caller, on the caller's streams"),
    *REACHING_OUT,
    Option("--tcp-close", "", "close TCP connections (root)"),
    Option("--lsm-profile", "TYPE:NAME", "the label or profile of its processes"),
    Option("--lsm-mount-context", "CONTEXT", "the context of its mounts"),
    Option("--no-pivot", "", "accepted: CRIU changes the root"),
    Option("--no-subreaper", "", "accepted: the caller is told of the init's end if it is one"),
)
FORMAT = Option("--format -f", "FORMAT", "table or json")
REGEX = Option("--regex -r", "", "ID is a regular expression, and all that match are meant")
EXEC = (
    CONSOLE,
    DETACH,
    PID_FILE,
    PRESERVE,
    Option("--cwd", "DIR", "the working directory"),
    Option("--env -e", "NAME=VALUE", "add to the environment"),
    Option("--tty -t", "", "give it a terminal"),
    Option("--user -u", "UID[:GID]", "run as this user"),
    Option("--additional-gids -g", "GID", "a further group"),
    Option("--process -p", "FILE", "take all of it from this process.json"),
    Option("--process-label", "LABEL", "its label (SELinux)"),
    Option("--apparmor", "PROFILE", "its AppArmor profile"),
    Option("--no-new-privs", "", "set no_new_privs"),
    Option("--cap -c", "CAPABILITY", "add a capability"),
    Option("--cgroup", "PATH", "a control group below the container's"),
    Option("--ignore-paused", "", "even in a paused container, where the backend can"),
)
UPDATE = (
    Option("--resources -r", "FILE", "take all limits from this JSON file"),
    *(
        Option(f"--{name}", "VALUE", "as in linux.resources of config.json")
        for name in (
            *("blkio-weight", "cpu-period", "cpu-quota", "cpu-rt-period", "cpu-rt-runtime", "cpu-share"),
            *("cpuset-cpus", "cpuset-mems", "kernel-memory", "kernel-memory-tcp", "memory", "memory-reservation"),
            *("memory-swap", "pids-limit", "l3-cache-schema", "mem-bw-schema"),
        )
    ),
)


def _checkpoints() -> dict[str, Verb]:
    from oci_criu_shim.cli import ckpt

    return ckpt.VERBS


def _jobs() -> dict[str, Verb]:
    from oci_criu_shim.cli import job

    return job.VERBS


VERBS = {
    "create": Verb(commands.create, "ID", "create a container, without starting its program", CREATION),
    "start": Verb(commands.start, "ID", "start the program of a created container"),
    "run": Verb(commands.run, "ID", "create and start a container, and wait for its end", (*CREATION, DETACH, KEEP)),
    "state": Verb(commands.state, "ID", "print a container's state as JSON"),
    "kill": Verb(
        commands.kill,
        "ID [SIGNAL]",
        "send a signal to a container's init (TERM by default)",
        (Option("--all -a", "", "to all its processes"), REGEX),
    ),
    "delete": Verb(
        commands.delete,
        "ID",
        "remove what is left of a stopped container",
        (Option("--force -f", "", "end it first if it runs"), REGEX),
    ),
    "list": Verb(
        commands.listing,
        "",
        "list the containers",
        (FORMAT, Option("--quiet -q", "", "ids only")),
    ),
    "ps": Verb(commands.pass_on, "ID [PS-OPTIONS...]", "list a container's processes", (FORMAT,)),
    "exec": Verb(commands.pass_on, "ID [COMMAND...]", "run one more program in a running container", EXEC),
    "pause": Verb(commands.pass_on, "ID", "freeze a container"),
    "resume": Verb(commands.pass_on, "ID", "let a paused container go on"),
    "update": Verb(commands.pass_on, "ID", "change a container's limits", UPDATE),
    "events": Verb(
        commands.pass_on,
        "ID",
        "print a container's statistics, where the backend can",
        (
            Option("--interval", "TIME", "how often"),
            Option("--stats", "", "once"),
        ),
    ),
    "checkpoint": Verb(
        commands.checkpoint,
        "ID",
        "checkpoint a running container",
        CHECKPOINT,
    ),
    "restore": Verb(commands.restore, "ID", "restore a container, and wait for its end", RESTORE),
    "spec": Verb(
        commands.spec,
        "",
        "write a config.json to start from",
        (
            BUNDLE,
            Option("--rootless", "", "for a user without privileges"),
            Option("--file -f", "FILE", "what it is called, where the backend can"),
        ),
    ),
    "features": Verb(commands.features, "", "print what this runtime can do as JSON"),
    "doctor": Verb(
        commands.doctor,
        "",
        "check this node and its Slurm, and say what to do",
        (Option("--json", "", "an array of {name, status, found, hint}"),),
    ),
}

GROUPS = {
    "ckpt": Group(_checkpoints, "look after the checkpoints of jobs: `ckpt --help` lists how"),
    "job": Group(_jobs, "what becomes of a job that asked for checkpoints: `job --help`"),
}
