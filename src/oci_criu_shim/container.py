"""The containers of this node: one directory each, below the runtime's root directory.

    <root>/<id>/pid          the supervisor's pid, for the node's preemption watcher
               /init.pid     the container's init, as the backend wrote it
               /state.json   what `state` and the other verbs need
               /backend/     the backend's own root directory
"""

from __future__ import annotations

import os
import re

from oci_criu_shim import files, process
from oci_criu_shim.errors import ShimError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

ID = re.compile(r"[A-Za-z0-9_+.@-]{1,200}")


class Container:
    """One container's directory; nothing is kept in memory that the files don't say."""

    def __init__(self, root: str, name: str) -> None:
        if not ID.fullmatch(name) or name in (".", ".."):
            raise ShimError(
                f"invalid container id {name!r}",
                "an id is 1 to 200 letters, digits and any of _ + . @ -",
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

    def require(self) -> None:
        """Raise ShimError where there is no such container."""
        if not os.path.isdir(self.directory):
            raise ShimError(
                f"container {self.name!r} does not exist",
                f"those that do have a directory in {self.root}",
            )

    def release(self) -> None:
        """Forget the container."""
        files.remove_tree(self.directory)

    def save(self, record: dict[str, Any]) -> None:
        """Write state.json."""
        files.write_json(self.path("state.json"), record)

    def load(self) -> dict[str, Any]:
        """state.json; empty while it was not written yet."""
        try:
            record: dict[str, Any] = files.read_json(self.path("state.json"))
        except FileNotFoundError:
            return {}
        return record

    def init(self) -> int | None:
        """The pid of the container's init while it lives; None before and after."""
        record = self.load()
        pid, started = record.get("pid"), record.get("started")
        if pid is None:
            pid = self.written_pid()
            return pid if pid and process.start_time(pid) is not None else None
        return pid if process.start_time(pid) == started else None

    def written_pid(self) -> int | None:
        """The pid the backend has written, None before it has."""
        try:
            with open(self.path("init.pid"), encoding="ascii") as stream:
                return int(stream.read())
        except (FileNotFoundError, ValueError):
            return None

    def supervisor(self) -> int | None:
        """The pid of the supervising `run` while it lives."""
        record = self.load()
        pid = record.get("supervisor")
        if pid and process.start_time(pid) == record.get("supervisor_started"):
            return int(pid)
        return None

    def state(self) -> dict[str, Any]:
        """The state that the OCI runtime specification asks for (runtime.md, State)."""
        record = self.load()
        pid = self.init()
        if pid is not None:
            status = "running"
        elif record.get("pid") is None and self.supervisor() is not None:
            status = "creating"
        else:
            status = "stopped"
        return {
            "ociVersion": record.get("ociVersion", "1.0.2"),
            "id": self.name,
            "status": status,
            "pid": pid or 0,
            "bundle": record.get("bundle", ""),
            "annotations": record.get("annotations", {}),
        }


def all_of(root: str) -> list[Container]:
    """Every container below `root`, by name; the root may be missing."""
    try:
        names = sorted(os.listdir(root))
    except FileNotFoundError:
        return []
    found = [Container(root, name) for name in names if ID.fullmatch(name)]
    return [container for container in found if os.path.isdir(container.directory)]
