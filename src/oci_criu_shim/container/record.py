"""Keep the record of a container: a directory below the runtime's root directory.

<root>/<id>/              its files, whose names stand below
<root>/.<backend>/        the backend's own root directory
"""

from __future__ import annotations

import os

from oci_criu_shim import files
from oci_criu_shim.errors import ShimError
from oci_criu_shim.host import process

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Literal, TypedDict

    from oci_criu_shim.files import Document

    Role = Literal["supervisor", "init"]

    class Streams(TypedDict, total=False):
        """The targets of a container's standard streams."""

        streams: list[str]  # the links in its /proc/PID/fd; empty for a terminal of its own
        outside: list[int]  # the supervisor's descriptors, by which they are looked into
        input: int  # the supervisor's descriptor of its note (intake.py), if it copies standard input

    class Record(TypedDict, total=False):
        """The content of state.json. Fields that don't apply are left out."""

        begun: str  # when it was first created, before all of its restores (files.timestamp())
        bundle: str
        config: Document  # config.json as it was at the start
        backend: str  # name or path
        dialect: str  # crun or runc
        preserved: list[str]  # targets of the descriptors that its caller handed on to it
        own_group: bool  # whether it is an ordinary user's with a control group of its own
        restarts: int  # how often its job was restarted
        supervisor: list[int]  # identity (process.identity()) of the process that holds its streams and checkpoints it
        init: list[int]  # identity of its init
        held: bool  # True from `create` until it runs, for a container that is to be restored
        stdio: Streams


LETTERS = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_")
OTHERS = LETTERS | set("+.@-")
LONGEST_ID = 200
LARGEST_STATE = 16 << 20  # bytes of state.json, which has all of config.json

# In a container's directory.
PID = "pid"  # the supervisor's, for the node's preemption watcher (spank/watcher.c)
STATE = "state.json"  # a Record
INIT_PID = "init.pid"  # a backend writes the init's pid here, if the caller named no file
CONSOLE = "console.sock"  # a backend sends the terminal's master here
STAGE = "stage"  # a restore mounts the root file system, the images and sources of mounts here
STAGE_LINK = "stage."  # followed by a pid: links to files that this process writes, for the job's epilog to remove
RESTORE_LOG = "restore.log"  # CRIU's
CONFIG = "config.json"  # for crun, if it is not the bundle's
RESOURCES = "resources.json"  # config.json's limits, for crun
APPLIED_LAYER = "layer"  # paths that a restore put into the root file system, and paths that it deleted there
CHAIN = "chain.json"  # the newest checkpoint, if an increment may follow it (dump/chain.py)
CHANGES = "changes.json"  # lines that the user was told of what a restore will change (dump/kept.py)
TRACKED = "tracked"  # whether the kernel tells of written memory: "1" or "0"
MEASURED = "measured"  # bytes, begin and end of its last checkpoint (task/estimate.py)
REQUEST = "request"  # exists while somebody waits for a checkpoint
MIGRATION = "migration"  # exists while somebody waits for it to be sent to the place in it (transfer/sender.py)
SENT = "sent"  # the path and manifest of the checkpoint that another node has by now (task/migration.py)
ANSWER = "answer"  # the outcome of that request; if there is none, the process that took the checkpoint was killed
LIMITS = "limits"  # the job's limits as a child heard them from Slurm: "END GRACE"
# How a container stands that must leave the node. "taken": it will start again from a new checkpoint; "failed": it
# could only start from an older one; "stuck": there is none; "ended": it ended by itself; "lost": a checkpoint that
# came to nothing ended it.
DONE = "checkpointed"


def is_id(name: str) -> bool:
    """Whether `name` can be a container's id; the names of backends' directories and of ours can't."""
    return 0 < len(name) <= LONGEST_ID and name[0] in LETTERS and OTHERS.issuperset(name)


class Container:
    """One container's directory. Nothing but its path is kept in memory."""

    def __init__(self, root: str, name: str) -> None:
        if not is_id(name):
            raise ShimError(
                f"invalid container id {name!r}",
                "an id is 1 to 200 letters, digits and any of _ + . @ -, and begins with one of the first three",
            )
        self.root = root
        self.name = name
        self.directory = os.path.join(root, name)

    def path(self, name: str) -> str:
        """Return the path of `name` in this container's directory."""
        return os.path.join(self.directory, name)

    def reserve(self) -> None:
        """Take the id. Raise ShimError if it is taken, or the root directory can't be written."""
        try:
            if not os.path.isdir(self.root):
                os.makedirs(self.root, mode=0o700)
            os.mkdir(self.directory, 0o700)
        except FileExistsError as error:
            if error.filename != self.directory:
                raise ShimError(f"{self.root} is not a directory", "name another --root") from None
            raise self.taken_error() from None
        except OSError as error:
            raise ShimError(
                f"cannot make {self.directory}: {error.strerror}",
                "name a directory of your own with --root",
            ) from None

    def taken_error(self) -> ShimError:
        """Return the error for a caller that wants this id, too."""
        return ShimError(
            f"container {self.name!r} already exists",
            f"choose another id, or end it first: `oci-criu-shim --root {self.root} delete --force {self.name}`",
        )

    def exists(self) -> bool:
        """Whether the id is taken."""
        return os.path.isdir(self.directory)

    def release(self) -> None:
        """Forget the container."""
        files.remove_tree(self.directory)

    def save(self, record: Record) -> None:
        """Write state.json."""
        files.write_json(self.path(STATE), record)

    def load(self) -> Record:
        """Return state.json; empty if it was not written yet. Raise ShimError or OSError if it is not as written."""
        path = self.path(STATE)
        try:
            record: object = files.parse_json(files.read_regular(path, LARGEST_STATE).decode())
        except FileNotFoundError:
            return {}
        except (ValueError, RecursionError):
            record = None
        if not isinstance(record, dict):
            raise ShimError(f"{path} is not what was written there", f"remove the container: rm -r {self.directory}")
        return record  # type: ignore[return-value]  # the container's own user wrote it

    def update(self, fields: Record) -> None:
        """Change fields of state.json."""
        self.save({**self.load(), **fields})

    def alive(self, role: Role) -> int | None:
        """Return the pid of its supervisor or init; None if it is not known or has ended."""
        return living(self.load(), role)

    def signal(self, role: Role, number: int) -> bool:
        """Send its supervisor or init a signal; return whether it was there."""
        pid = self.alive(role)
        if pid is None:
            return False
        try:
            os.kill(pid, number)
        except ProcessLookupError:
            return False
        return True

    def state(self, status: str, pid: int) -> Document:
        """Return its state in the OCI runtime specification's form (runtime.md, State); `pid` is 0 if it has none."""
        record = self.load()
        config = record.get("config", {})
        return {
            "ociVersion": config.get("ociVersion", "1.0.2"),
            "id": self.name,
            "status": status,
            "pid": pid,
            "bundle": record.get("bundle", ""),
            "annotations": config.get("annotations", {}),
        }


def living(record: Record, role: Role) -> int | None:
    """Return the pid of the supervisor or init in `record`; None if it is not known or has ended."""
    noted = record.get(role)
    return noted[0] if noted and process.start_time(noted[0]) == noted[1] else None


def all_of(root: str) -> list[Container]:
    """Return every container below `root`, by name; none if the root is missing."""
    try:
        names = sorted(os.listdir(root))
    except FileNotFoundError:
        return []
    found = [Container(root, name) for name in names if is_id(name)]
    # A link leads to a directory that a job keeps (RunDirectory.keep()).
    return [container for container in found if container.exists() and not os.path.islink(container.directory)]
