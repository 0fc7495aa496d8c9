"""The verbs that only look: list, show, verify, diff."""

from __future__ import annotations

import functools
import os

from oci_criu_shim import units
from oci_criu_shim.checkpoints import committed, integrity
from oci_criu_shim.checkpoints.integrity import Verification
from oci_criu_shim.cli import directories
from oci_criu_shim.cli.ckpt import images, place
from oci_criu_shim.cli.report import ProgressLine, print_json, print_table
from oci_criu_shim.errors import Others, ShimError
from oci_criu_shim.host.process import user_name

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from oci_criu_shim.checkpoints.committed import Checkpoint
    from oci_criu_shim.cli.ckpt.documents import (
        CheckpointRow,
        Comparison,
        Description,
        Difference,
        DumpedProcess,
        Mounted,
        OpenFile,
        Thing,
        Verified,
    )
    from oci_criu_shim.cli.invocation import Invocation

COLUMNS = ("JOB", "STEP", "TASK", "SEQ", "CREATED (UTC)", "AGE", "NODE", "SIZE", "WRITTEN", "REASON", "PATH")


def listing(call: Invocation) -> int:
    """List a job's checkpoints, those in DIR, or all of yours."""
    places = place.named(call)
    closed: list[str] = []
    found = [_row(path) for directory in places for path in place.find(directory, closed=closed)]
    if call.flag("json"):
        print_json(found)
    elif found:
        print_table([list(COLUMNS), *map(_fields, found)])
    elif not closed:
        print(f"no checkpoints in {', '.join(places)}")
    owners = {*(row["owner"] for row in found), *map(place.owner_of, closed)}
    for name in sorted(owners - {user_name(os.geteuid()), ""}):
        how = call.owners_way(name) or committed.OWNERS
        call.log.event(f"checkpoints of {name} in {', '.join(places)} can't be read (hint: {how})")
    return 0


def _row(path: str) -> CheckpointRow:
    row: CheckpointRow = {
        **place.label(path).fields(),
        "seq": int(path.rpartition("/")[2]),
        "path": path,
        "owner": place.owner_of(path),
        "damaged": None,
        "created": None,
        "node": None,
        "bytes": None,
        "reason": None,
        "written": None,
        "increment_of": None,
        "age": None,
    }
    try:
        found = committed.read(path)
    except Others as error:
        return {**row, "owner": error.owner}
    except ShimError as error:
        return {**row, "damaged": str(error)}
    return {
        **row,
        "created": found.manifest["created"],
        "node": found.manifest["node"],
        "bytes": found.manifest["bytes"],
        "reason": found.manifest["reason"],
        "written": found.written,
        "increment_of": found.parent,
        "age": committed.age(found.manifest["created"]),
    }


def _fields(row: CheckpointRow) -> list[object]:
    label = ["-" if field is None else field for field in (row["job"], row["step"], row["task"], row["seq"])]
    if row["bytes"] is None:
        return [*label, *"-----", "damaged" if row["damaged"] else f"{row['owner']}'s", row["path"]]
    written = units.size(row["written"] or 0) + (f" more than {row['increment_of']}" if row["increment_of"] else "")
    sizes = units.size(row["bytes"] or 0), written
    return [*label, row["created"], units.time(row["age"] or 0), row["node"], *sizes, row["reason"], row["path"]]


def show(call: Invocation) -> int:
    """Show the processes, memory, files, sockets and mounts in a checkpoint; JOBID is the job's newest."""
    found = _describe(place.checkpoint(call.operands[0], call.value("checkpoint-dir")))
    if call.flag("json"):
        print_json(found)
        return 0
    task = f"{found['job']}, step {found['step']}, task {found['task']}" if found["job"] else "none"
    where = f"on {found['node']}, Linux {found['kernel']}, CRIU {found['criu']}"
    size = units.size(found["bytes"]) + _increment(found) + _compression(found["dumped"], found["compressed"])
    print_table(
        [
            ["checkpoint", found["path"]],
            ["job", task],
            ["container", found["container"]],
            ["created", f"{found['created']} ({units.time(committed.age(found['created']))} ago) {where}"],
            ["reason", found["reason"]],
            ["size", size],
            ["memory", units.size(found["memory"])],
        ]
    )
    processes = [{**row, "memory": units.size(row["memory"])} for row in _forest(found["processes"])]
    _print_list("processes", processes, ("pid", "ppid", "threads", "memory", "command"))
    _print_list("files", found["files"], ("pid", "fd", "kind", "name"))
    _print_list("sockets", found["sockets"], ("pid", "fd", "kind", "name"))
    _print_list("mounts", found["mounts"], ("mountpoint", "source", "root"))
    return 0


def _forest(processes: list[DumpedProcess]) -> list[DumpedProcess]:
    """Return the processes with their commands indented below their parents', as `ps --forest` has them.

    In images a process comes after its parent and before that one's next child (pstree_item_next() in criu/pstree.c).
    """
    depths: dict[int, int] = {}
    for row in processes:
        depths[row["pid"]] = depths.get(row["ppid"], -1) + 1
    branches = {pid: "    " * (depth - 1) + " \\_ " if depth else "" for pid, depth in depths.items()}
    return [{**row, "command": branches[row["pid"]] + row["command"]} for row in processes]


def _print_list(name: str, found: Sequence[Mapping[str, object]], keys: Sequence[str]) -> None:
    print(f"{name}: {len(found)}")
    if found:
        print_table([[key.upper() for key in keys], *([row[key] for key in keys] for row in found)], "  ")


def _describe(checkpoint: Checkpoint) -> Description:
    Verification(checkpoint)  # names what is damaged, before anything interprets it
    manifest, contents = checkpoint.manifest, images.describe(checkpoint.images)
    return {
        "path": checkpoint.path,
        **place.label(checkpoint.path).fields(),
        "container": manifest["container"],
        "created": manifest["created"],
        "node": manifest["node"],
        "kernel": manifest["kernel"],
        "criu": manifest["criu"],
        "reason": manifest["reason"],
        "bytes": manifest["bytes"],
        "written": checkpoint.written,
        "increment_of": checkpoint.parent,
        "dumped": checkpoint.dumped,
        "compressed": sorted({about["codec"] for about in manifest.get("compressed", {}).values()}),
        "memory": contents["memory"],
        "processes": contents["processes"],
        "files": contents["files"],
        "sockets": contents["sockets"],
        "mounts": contents["mounts"],
    }


def _increment(found: Description) -> str:
    """Return `, 3.0 MiB more than 2`; empty if the checkpoint is whole by itself."""
    return f", {units.size(found['written'])} more than {parent}" if (parent := found["increment_of"]) else ""


def _compression(dumped: int, codecs: Sequence[str]) -> str:
    """Return `, 200.0 MiB before zstd`; empty if there was no compression."""
    return f", {units.size(dumped)} before {', '.join(codecs)}" if codecs else ""


def verify(call: Invocation) -> int:
    """Compare all bytes of checkpoints with their checksums; by default those of all checkpoints."""
    given = call.value("checkpoint-dir")
    places = [] if call.operands else directories.all_of(given)
    paths = [path for word in call.operands for path in place.below(word, given)]
    paths += [path for directory in places for path in place.find(directory)]
    rows: list[Verified] = []
    failed = False
    for number, path in enumerate(paths, 1):
        row: Verified = {"path": path, "verified": False, "damaged": None}
        try:
            what = f"verifying {number} of {len(paths)}"
            gap = committed.steadily(committed.read(path), functools.partial(_verify, what=what))
            row["verified"], said = not gap, f"not verified: {gap}"
        except ShimError as error:
            others, failed = isinstance(error, Others), True
            row["damaged"], said = (None, "not verified") if others else (str(error), "damaged")
            call.failed(error)
        rows.append(row)
        if not call.flag("json"):
            print(f"{path}: {'ok' if row['verified'] else said}")
    if call.flag("json"):
        print_json(rows)
    elif not paths:
        print(f"no checkpoints in {', '.join(places)}")
    return int(failed)


def _verify(checkpoint: Checkpoint, what: str) -> str:
    """Compare a checkpoint with its checksums; return why they don't cover all of it, empty if they do."""
    verification = Verification(checkpoint)
    finish(verification, what)
    return verification.gap


def finish(verification: Verification, what: str) -> None:
    """Verify the rest of a checkpoint; raise ShimError if it is damaged."""
    verification.start()
    try:
        with ProgressLine(what, sum(integrity.large(verification.checkpoint).values()), verification.hashed):
            verification.require()
    finally:
        verification.stop()


def diff(call: Invocation) -> int:
    """Show what changed from one checkpoint to another."""
    before, after = (_describe(place.checkpoint(word, call.value("checkpoint-dir"))) for word in call.operands)
    found = compare(before, after)
    if call.flag("json"):
        print_json(found)
        return 0
    for name, sizes in (("bytes", found["bytes"]), ("memory", found["memory"])):
        print(f"{name}: {' to '.join(map(units.size, sizes))}")
    for process in found["processes"]["changed"]:
        sizes = process["memory"]
        print(f"~ process {process['pid']} {process['command']}: {' to '.join(map(units.size, sizes))}")
    _print_difference(found["processes"], _process)
    _print_difference(found["files"], _file)
    _print_difference(found["sockets"], _file)
    _print_difference(found["mounts"], _mount)
    return 0


def _print_difference(changes: Difference[Thing], text: Callable[[Thing], str]) -> None:
    for row in changes["gone"]:
        print(f"- {text(row)}".rstrip())
    for row in changes["new"]:
        print(f"+ {text(row)}".rstrip())


def compare(before: Description, after: Description) -> Comparison:
    """Return what changed. A process is the same one in both if its pid and command are."""
    was, now = ({(row["pid"], row["command"]): row for row in one["processes"]} for one in (before, after))
    both = [(row, now[key]) for key, row in was.items() if key in now and row["memory"] != now[key]["memory"]]
    return {
        "bytes": [before["bytes"], after["bytes"]],
        "memory": [before["memory"], after["memory"]],
        "files": _difference(_lasting(before["files"]), _lasting(after["files"])),
        "sockets": _difference(before["sockets"], after["sockets"]),
        "mounts": _difference(before["mounts"], after["mounts"]),
        "processes": {
            "gone": [row for key, row in was.items() if key not in now],
            "new": [row for key, row in now.items() if key not in was],
            "changed": [{**new, "memory": [old["memory"], new["memory"]]} for old, new in both],
        },
    }


def _difference(before: list[Thing], after: list[Thing]) -> Difference[Thing]:
    return {"gone": [row for row in before if row not in after], "new": [row for row in after if row not in before]}


def _lasting(files: list[OpenFile]) -> list[OpenFile]:
    """Return the files without the numbers of pipes, which are others after each restore."""
    return [{**row, "name": ""} if row["kind"] == "PIPE" else row for row in files]


def _process(row: DumpedProcess) -> str:
    return f"process {row['pid']} {row['command']}, {units.size(row['memory'])}"


def _file(row: OpenFile) -> str:
    return f"process {row['pid']} descriptor {row['fd']}: {row['kind']} {row['name']}"


def _mount(row: Mounted) -> str:
    return f"mount {row['mountpoint']} of {row['source']} {row['root']}"
