"""Read the site's settings from /etc/oci-criu-shim/config.toml; SETTINGS describes each of them.

etc/config.toml (tools/config_toml) and oci-criu-shim-config(5) (tools/man_config) are made from SETTINGS.
The file is read only by commands that concern checkpoints.
"""

from __future__ import annotations

from oci_criu_shim import values
from oci_criu_shim.errors import ShimError
from oci_criu_shim.values import Setting

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

    from oci_criu_shim.files import Document

PATH = "/etc/oci-criu-shim/config.toml"
INTRODUCTION = """
Settings of oci-criu-shim, the same on all nodes. Each is shown with its default. An unknown setting is an error.
"""
PER_PARTITION = ("checkpoint",)


def _partitions(tables: Document) -> Document:
    for name, table in tables.items():
        place = f"[partitions.{name}]"
        if not isinstance(table, dict) or not set(table) <= set(PER_PARTITION):
            raise ShimError(f"{place} may have {', '.join(PER_PARTITION)} only")
        for key, value in table.items():
            SETTINGS[key].read(value, f"{place}: ")
    return tables


_SETTINGS = (
    Setting(
        "backend",
        "",
        values.PROGRAM,
        """
        The runtime that creates containers: crun, runc, nvidia-container-runtime, or the path of another one with
        runc's command line. The option --backend of a command line in oci.conf overrides this, and so does the
        annotation oci-criu-shim.backend of a config.json, which may name one of the three. Empty means crun.
        """,
    ),
    Setting(
        "checkpoint-dir",
        "~/.local/state/oci-criu-shim",
        values.PLACE,
        """
        The directory for checkpoints if a job gives no --checkpoint-dir. It must be the same directory on all nodes,
        and the job's user must own it. It is made if its parent allows that to the user. It is absolute, or begins
        with ~, the user's home directory. $USER and $HOME in it are the user's, too: "/scratch/$USER/checkpoints".
        """,
    ),
    Setting(
        "keep",
        2,
        values.at_least(1),
        """
        How many checkpoints of a task are kept. A restart falls back on an older one if the newest is damaged. At
        least 1.
        """,
    ),
    Setting(
        "quota",
        "",
        values.QUOTA,
        """
        How large all checkpoints in a user's checkpoint directory together may be: "20G", "1.5T". If a checkpoint
        would be too large even without the task's older ones, it is refused, and its container runs on. Another
        --checkpoint-dir has a quota of its own: to bound a user, use the file system's quota. Empty means as large as
        the file system lets them.
        """,
    ),
    Setting(
        "fresh-start",
        False,
        values.ANY,
        """
        Whether a restarted job that has no usable checkpoint may begin again from its beginning. If false, it fails
        and says why, since its work so far would be done twice.
        """,
    ),
    Setting(
        "keep-ended",
        "7d",
        values.TIME,
        """
        How long checkpoints of failed or cancelled jobs stay. After that, a later job of the same user removes them, or
        `ckpt prune` does: "12h", "7d". Those of completed jobs go at once.
        """,
    ),
    Setting(
        "rollback",
        True,
        values.ANY,
        """
        Whether files that a job had open for writing, and that have grown since the checkpoint from which the job goes
        on, are cut back to their length at it. The part that is cut off is kept beside the job's checkpoints. If
        false, a job that had such files open for appending writes once more what is there already, and any other job
        can't go on from that checkpoint.
        """,
    ),
    Setting(
        "layers",
        "auto",
        values.LAYER,
        """
        Whether checkpoints include the job's changes to its root file system, so that another node has them, too:
        "auto", if that is on a file system of the node's own and not read-only; "always", also if it is on a shared
        one; or "never".
        """,
    ),
    Setting(
        "increments",
        True,
        values.ANY,
        """
        Whether checkpoints of a job that runs on may have only the memory that has changed since the previous one, if
        the kernel tells. For each, CRIU reads page maps of the previous checkpoint, with capabilities that the user
        lacks, although these files belong to the user. They are compared with what was written, but if this is false,
        no dump reads any.
        """,
    ),
    Setting(
        "hide-io-uring",
        True,
        values.ANY,
        """
        Whether containers of jobs that ask for checkpoints find no io_uring (io_uring_setup() fails with ENOSYS): CRIU
        can't dump a process that has one, and every Node.js has. Programs go on without it, some of them slower. A
        filter of the bundle's own that forbids the call stays as it is. Only crun can be told of this.
        """,
    ),
    Setting(
        "tcp",
        "close",
        values.TCP,
        """
        What becomes of a user's TCP connections with other programs in the node's network, if the job gives no
        --checkpoint-tcp. "close": a restore closes them, and the program's next call on them fails as after a reset.
        "refuse": as long as there are any, no checkpoint is taken. Those within a container are kept.
        """,
    ),
    Setting(
        "bare-jobs",
        "all",
        values.NAMES,
        """
        Whose tasks may be checkpointed if they run without a container, with --checkpoint: "all", "none", or names of
        users and, after an @, of groups: "alice, @physics". Such a task runs in a user namespace, in which setuid
        programs (sudo, ping) give no rights. A node needs tini or catatonit.
        """,
    ),
    Setting(
        "bare-tmp",
        "4G",
        values.QUOTA,
        """
        How much the files in /tmp, /var/tmp and /dev/shm of a task without a container may have together, if a
        checkpoint is to be taken. The task has these directories for itself, in memory, and a checkpoint has all that
        is in them. Empty means that they are the node's, and that nothing in them is kept.
        """,
    ),
    Setting(
        "max-restarts",
        3,
        values.at_least(0),
        """
        How often a job is restored from the same checkpoint, or tried in vain on another node, before it fails and
        says why. Otherwise a job that ends each time before it has a newer checkpoint would be started for ever. 0
        means for ever.
        """,
    ),
    Setting(
        "feature",
        "",
        values.FEATURE,
        """
        A feature of nodes (slurm.conf) that requeued jobs ask for, besides what they ask for themselves. Name one that
        all nodes have which can restore each other's checkpoints. Empty means none.
        """,
    ),
    Setting(
        "checkpoint",
        "preempt",
        values.WHEN,
        """
        The meaning of --checkpoint without a value: preempt, timeout, interval:30m, interval:auto, signal:USR1, any of
        them with commas between, or none.
        """,
    ),
    Setting(
        "margin",
        "10s",
        values.TIME,
        """
        How long before its time limit a job with `timeout` has its checkpoint done. The time that the checkpoint takes
        is predicted.
        """,
    ),
    Setting(
        "hook-limit",
        "5s",
        values.LONG,
        """
        How long each run of a job's --checkpoint-hook may take. It is ended then, and the checkpoint is taken all the
        same. In a job that must go, it may take no more than a third of what is left of the time.
        """,
    ),
    Setting(
        "mtbf",
        "30d",
        values.LONG,
        """
        The mean time between failures of one node. interval:auto computes its interval from it (Young's optimum), by
        the number of a job's nodes.
        """,
    ),
    Setting(
        "dump-rate",
        "200M",
        values.RATE,
        "Assumed checkpoint speed of a node, in bytes per second, until some have been measured.",
    ),
    Setting(
        "compress",
        values.AUTO,
        values.COMPRESS,
        """
        How memory in checkpoints is compressed: "auto", "off", "zstd", "lz4", or either of these two with a level, as
        "zstd:3" (1 to 19, by default 1) or "lz4:9" (0 to 12, by default 0). "auto" is zstd where a checkpoint is sooner
        on the disk with it, and off elsewhere. The others compress what was written raw once it is committed. A node
        needs python3-zstandard or python3-lz4, to restore them too. All of the job's processors take part.
        """,
    ),
    Setting(
        "pace-dir",
        "",
        values.SHARED,
        """
        A directory of root's on the shared file system, with a file for each checkpoint that may be written there at
        once. When many jobs are preempted together, those that find all of these files taken compute on, as long as
        their grace time allows, and are checkpointed as soon as one is free. docs/pacing.md has how to make them, and
        how many. Empty means that nobody waits.
        """,
    ),
    Setting(
        "local-dir",
        "",
        values.SHARED,
        """
        A directory on a disk of each node's own, that lasts beyond jobs. A checkpoint that would not be done in a job's
        grace time is written there, and copied to the job's checkpoint directory after the job's end on the node, by
        its epilog: local-seconds in plugstack.conf is how long that may take. If the node fails before, the job goes on
        from an older checkpoint. Empty means that all are written to the checkpoint directory.
        """,
    ),
    Setting(
        "partitions",
        dict[str, object](),
        ("", _partitions),
        """
        `checkpoint` for one partition, instead of the one above. Put this at the end of the file.
        """,
        example='[partitions.low]\ncheckpoint = "preempt,timeout"',
    ),
)
SETTINGS = {setting.name: setting for setting in _SETTINGS}
DEFAULTS = {name: setting.default for name, setting in SETTINGS.items()}


class Settings:
    """The values of SETTINGS, under their names with `_` for `-`: sizes are in bytes, times in seconds."""

    backend: str
    checkpoint_dir: str  # absolute
    keep: int
    quota: int  # 0: none
    fresh_start: bool
    keep_ended: int
    rollback: bool
    layers: str
    increments: bool
    hide_io_uring: bool
    tcp: str
    bare_jobs: list[str]
    bare_tmp: int  # 0: the directories are the node's
    max_restarts: int
    feature: str
    checkpoint: str
    margin: int
    hook_limit: int
    mtbf: int
    dump_rate: int
    compress: str  # as parse_compression() reads it
    pace_dir: str
    local_dir: str
    partitions: dict[str, dict[str, str]]

    def __init__(self, values: Mapping[str, object]) -> None:
        for setting in _SETTINGS:
            setattr(self, setting.name.replace("-", "_"), setting.read(values[setting.name]))

    def closes(self, asked: str) -> bool:
        """Return whether TCP connections in the node's network are closed; `asked` is --checkpoint-tcp, if given."""
        return (asked or self.tcp) == "close"

    def when(self, partition: str) -> str:
        """Return the meaning of `--checkpoint` without a value in a partition."""
        return self.partitions.get(partition, {}).get("checkpoint", self.checkpoint)


def load(path: str = PATH) -> Settings:
    """Return the settings in `path`, which may be missing; ShimError names the first fault in it."""
    return read(path)[0]


def read(path: str = PATH) -> tuple[Settings, Document]:
    """Return the settings in `path`, and the part of them that is not the default, as the file has it."""
    values = _parse(path)
    for name in values:
        if name not in SETTINGS:
            raise ShimError(f"{path}: unknown setting {name!r}", f"known: {', '.join(SETTINGS)}")
    try:
        settings = Settings(DEFAULTS | values)
    except ShimError as error:
        raise ShimError(f"{path}: {error}", error.hint) from None
    return settings, {name: value for name, value in values.items() if value != DEFAULTS[name]}


def backend(path: str = PATH) -> str:
    """Return the setting `backend`, for which every start of a container asks."""
    return str(_single("backend", path))


def increments(path: str = PATH) -> bool:
    """Return the setting `increments`, for which the worker of every increment asks."""
    return bool(_single("increments", path))


def hook_limit(path: str = PATH) -> int:
    """Return the setting `hook-limit`, in seconds."""
    return int(str(_single("hook-limit", path)))


def _single(name: str, path: str) -> object:
    """Return one setting; if no line of the file begins with its name, it needs no parser. The others may be wrong."""
    try:
        with open(path, encoding="utf-8", errors="replace") as stream:
            is_there = any(line.lstrip().startswith(name) for line in stream)
    except FileNotFoundError:
        is_there = False
    except OSError as error:
        raise _unreadable(path, error) from None
    values = _parse(path) if is_there else {}
    try:
        return SETTINGS[name].read(values.get(name, DEFAULTS[name]))
    except ShimError as error:
        raise ShimError(f"{path}: {error}", error.hint) from None


def _parse(path: str) -> Document:
    try:
        with open(path, encoding="utf-8", newline="\n") as stream:
            text = stream.read()
        if all(line.lstrip()[:1] in ("", "#") for line in text.splitlines()):
            return {}  # importing tomllib takes as long as half of a start
        import tomllib

        return tomllib.loads(text)
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise _unreadable(path, error) from None
    except ValueError as error:  # of TOML, or of UTF-8
        raise ShimError(f"{path}: {error}", "correct the file") from None


def _unreadable(path: str, error: OSError) -> ShimError:
    hint = f"chmod 644 {path}" if isinstance(error, PermissionError) else "correct the file"
    return ShimError(f"{path}: {error.strerror}", hint)
