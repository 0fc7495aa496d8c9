"""The containers of this node: one directory each, below the runtime's root directory.

<root>/<id>/pid          the supervisor's pid, for the node's preemption watcher
<root>/<id>/state.json   what the verbs need of it: see Container.save()
<root>/.<backend>/       the backend's own root directory
"""

from __future__ import annotations

import os

from oci_criu_shim import files
from oci_criu_shim.errors import ShimError
from oci_criu_shim.host import process

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

LETTERS = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_")
OTHERS = LETTERS | set("+.@-")
LONGEST_ID = 200
LARGEST_STATE = 16 << 20  # bytes of state.json, which has all of config.json
CHAIN = "chain.json"  # in a container's directory: chain.py


def is_id(name: str) -> bool:
    """Whether `name` can be a container's id; a backend's directory and ours can't."""
    return 0 < len(name) <= LONGEST_ID and name[0] in LETTERS and OTHERS.issuperset(name)


class Container:
    """One container's directory; nothing is kept in memory that the files don't say."""

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
        """The path of `name` in this container's directory."""
        return os.path.join(self.directory, name)

    def reserve(self) -> None:
        """Take the id; ShimError where it exists or the root directory can't be written."""
        try:
            if not os.path.isdir(self.root):
                os.makedirs(self.root, mode=0o700)
            os.mkdir(self.directory, 0o700)
        except FileExistsError as error:
            if error.filename != self.directory:
                raise ShimError(f"{self.root} is not a directory", "name another --root") from None
            raise ShimError(
                f"container {self.name!r} already exists",
                f"choose another id, or end it first: oci-criu-shim delete --force {self.name}",
            ) from None
        except OSError as error:
            raise ShimError(
                f"cannot make {self.directory}: {error.strerror}",
                "name a directory of your own with --root",
            ) from None

    def exists(self) -> bool:
        """Whether the id is taken."""
        return os.path.isdir(self.directory)

    def release(self) -> None:
        """Forget the container."""
        files.remove_tree(self.directory)

    def save(self, record: dict[str, Any]) -> None:
        """Write state.json:

        `bundle`, `config` (config.json as it was at the start), `backend` (name or path) and its `dialect`,
        `preserved`: where descriptors of its caller's lead that it was given; `own_group`: whether it is a user's, with
        a control group of its own; and where they apply
        `supervisor`: the process that holds its streams, and checkpoints it when its job is preempted;
        `init`: its init; both as process.identity() gives them;
        `held`: True from `create` until it runs for a container that is to be restored;
        `stdio`: where its standard streams lead, as Stdio.record() gives it.
        """
        files.write_json(self.path("state.json"), record)

    def load(self) -> dict[str, Any]:
        """state.json; empty while it was not written yet. ShimError, OSError: somebody else has written there."""
        path = self.path("state.json")
        try:
            record: Any = files.parse_json(files.read_regular(path, LARGEST_STATE).decode())
        except FileNotFoundError:
            return {}
        except (ValueError, RecursionError):
            record = None
        if not isinstance(record, dict):
            raise ShimError(f"{path} is not what was written there", f"remove the container: rm -r {self.directory}")
        return record

    def update(self, **fields: object) -> None:
        """Change fields of state.json."""
        self.save({**self.load(), **fields})

    def alive(self, role: str) -> int | None:
        """The pid of its `supervisor` or `init` while it lives and is known."""
        return living(self.load(), role)

    def signal(self, role: str, number: int) -> bool:
        """Whether its `supervisor` or `init` was there to be sent a signal."""
        pid = self.alive(role)
        if pid is None:
            return False
        try:
            os.kill(pid, number)
        except ProcessLookupError:
            return False
        return True

    def state(self, status: str, pid: int) -> dict[str, Any]:
        """Its state as the OCI runtime specification has it (runtime.md, State); `pid` is 0 where there is none."""
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


def living(record: dict[str, Any], role: str) -> int | None:
    """The pid of the `supervisor` or `init` in a `record` (Container.load()) while it lives."""
    noted = record.get(role)
    return noted[0] if noted and process.start_time(noted[0]) == noted[1] else None


def all_of(root: str) -> list[Container]:
    """Every container below `root`, by name; the root may be missing."""
    try:
        names = sorted(os.listdir(root))
    except FileNotFoundError:
        return []
    found = [Container(root, name) for name in names if is_id(name)]
    # Links are to what a job keeps (steps.KEPT).
    return [container for container in found if container.exists() and not os.path.islink(container.directory)]
