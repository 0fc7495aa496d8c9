"""The verbs that only look: list, show, verify, diff."""

from __future__ import annotations

import calendar
import functools
import time

from oci_criu_shim import units
from oci_criu_shim.checkpoints import committed, images
from oci_criu_shim.checkpoints.integrity import Verification
from oci_criu_shim.cli.ckpt import place
from oci_criu_shim.cli.ckpt.report import Progress, print_json, print_table
from oci_criu_shim.errors import ShimError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from oci_criu_shim.checkpoints.committed import Checkpoint
    from oci_criu_shim.cli.invocation import Invocation

MANIFEST_KEYS = ("container", "created", "node", "kernel", "criu", "reason", "bytes")
# How many of its bytes were written for it, and the number of the one that has the others; None where it has them all.
SHARES = ("written", "increment_of")
COLUMNS = ("JOB", "STEP", "TASK", "SEQ", "CREATED", "AGE", "NODE", "SIZE", "WRITTEN", "REASON", "PATH")
PAUSE = 0.05


def listing(call: Invocation) -> int:
    """List the checkpoints in a directory."""
    found = [_row(path) for path in place.find(place.directory(call.container or None))]
    if call.flag("json"):
        print_json(found)
        return 0
    rows: list[list[object]] = [list(COLUMNS)]
    for row in found:
        rows.append(["-" if row[key] is None else row[key] for key in ("job", "step", "task", "seq")])
        if row["damaged"]:
            rows[-1] += [*"-----", "damaged", row["path"]]
        else:
            parent = f" more than {row['increment_of']}" if row["increment_of"] else ""
            sizes = units.size(row["bytes"]), units.size(row["written"]) + parent
            rows[-1] += [row["created"], units.time(row["age"]), row["node"], *sizes, row["reason"], row["path"]]
    print_table(rows)
    return 0


def _row(path: str) -> dict[str, Any]:
    row = {**place.label(path).fields(), "seq": int(path.rpartition("/")[2]), "path": path, "damaged": None}
    keys = ("created", "node", "bytes", "reason")
    try:
        found = committed.read(path)
    except ShimError as error:
        return {**row, **dict.fromkeys((*keys, *SHARES, "age")), "damaged": str(error)}
    said = {key: found.manifest[key] for key in keys}
    return {**row, **said, **_shares(found), "age": age(said["created"])}


def _shares(checkpoint: Checkpoint) -> dict[str, int | None]:
    """What it has by itself: see SHARES."""
    return dict(zip(SHARES, (checkpoint.written, checkpoint.parent), strict=True))


def age(created: str) -> int:
    """How many seconds ago a manifest's time was; 0 where it is none."""
    try:
        return max(int(time.time()) - calendar.timegm(time.strptime(created, "%Y-%m-%dT%H:%M:%SZ")), 0)
    except ValueError:
        return 0


def show(call: Invocation) -> int:
    """Show what is in a checkpoint."""
    found = _describe(place.checkpoint(call.container))
    if call.flag("json"):
        print_json(found)
        return 0
    task = f"{found['job']}, step {found['step']}, task {found['task']}" if found["job"] else "none"
    where = f"on {found['node']}, Linux {found['kernel']}, CRIU {found['criu']}"
    print_table(
        [
            ["checkpoint", found["path"]],
            ["job", task],
            ["container", found["container"]],
            ["created", f"{found['created']} ({units.time(age(found['created']))} ago) {where}"],
            ["reason", found["reason"]],
            ["size", units.size(found["bytes"]) + _increment(found) + _compression(found)],
            ["memory", units.size(found["memory"])],
        ]
    )
    tree = {"processes": _forest(found["processes"])}
    _print_list("processes", tree, ("pid", "ppid", "threads", "memory", "command"))
    _print_list("files", found, ("pid", "fd", "kind", "name"))
    _print_list("sockets", found, ("pid", "fd", "kind", "name"))
    _print_list("mounts", found, ("mountpoint", "source", "root"))
    return 0


def _forest(processes: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The same with commands below their parents', as `ps --forest` has them. In images a process comes after its
    parent and before that one's next child (pstree_item_next() in criu/pstree.c)."""
    depths: dict[int, int] = {}
    for row in processes:
        depths[row["pid"]] = depths.get(row["ppid"], -1) + 1
    branches = {pid: "    " * (depth - 1) + " \\_ " if depth else "" for pid, depth in depths.items()}
    return [{**row, "command": branches[row["pid"]] + row["command"]} for row in processes]


def _print_list(name: str, found: dict[str, Any], keys: tuple[str, ...]) -> None:
    print(f"{name}: {len(found[name])}")
    if found[name]:
        rows = [[units.size(row[key]) if key == "memory" else row[key] for key in keys] for row in found[name]]
        print_table([[key.upper() for key in keys], *rows], "  ")


def _describe(checkpoint: Checkpoint) -> dict[str, Any]:
    Verification(checkpoint)  # what is damaged is named, and not interpreted
    known = {"path": checkpoint.path, **place.label(checkpoint.path).fields()}
    known.update((key, checkpoint.manifest[key]) for key in MANIFEST_KEYS)
    known |= _shares(checkpoint)
    packed = checkpoint.manifest.get("compressed", {})
    known |= {"dumped": checkpoint.dumped, "compressed": sorted({about["codec"] for about in packed.values()})}
    return {**known, **images.describe(checkpoint.images)}


def _increment(found: dict[str, Any]) -> str:
    """`, 3.0 MiB more than 2`; nothing where it is whole."""
    return f", {units.size(found['written'])} more than {parent}" if (parent := found["increment_of"]) else ""


def _compression(found: dict[str, Any]) -> str:
    """`, 200.0 MiB before zstd`; nothing where it was not compressed."""
    return f", {units.size(found['dumped'])} before {', '.join(codecs)}" if (codecs := found["compressed"]) else ""


def verify(call: Invocation) -> int:
    """Compare checkpoints with their checksums; the exit status."""
    named = [path for word in call.operands for path in place.paths_of(word)]
    paths = named if call.operands else place.find(place.directory(None))
    rows = []
    for number, path in enumerate(paths, 1):
        row: dict[str, Any] = {"path": path, "verified": False, "damaged": None}
        said = "not verified: it has no checksums of its memory"
        try:
            what = f"verifying {number} of {len(paths)}"
            row["verified"] = committed.steadily(committed.read(path), functools.partial(check, what=what))
        except ShimError as error:
            row["damaged"], said = str(error), "damaged"
            call.log.error(error.line())
        rows.append(row)
        if not call.flag("json"):
            print(f"{path}: {'ok' if row['verified'] else said}")
    if call.flag("json"):
        print_json(rows)
    return int(any(row["damaged"] for row in rows))


def check(checkpoint: Checkpoint, what: str) -> bool:
    """Compare all of it; whether there was a checksum of all. ShimError where it is damaged."""
    verification = Verification(checkpoint)
    verification.start()
    try:
        with Progress(what, checkpoint.manifest["bytes"]) as progress:
            while verification.hashing and verification.hashing.running:
                progress.tell(verification.hashing.bytes)
                time.sleep(PAUSE)
        verification.require()
    finally:
        verification.stop()
    return verification.complete


def diff(call: Invocation) -> int:
    """Show what changed from one checkpoint to another."""
    before, after = (_describe(place.checkpoint(word)) for word in call.operands)
    found = compare(before, after)
    if call.flag("json"):
        print_json(found)
        return 0
    for key in ("bytes", "memory"):
        print(f"{key}: {units.size(found[key][0])} to {units.size(found[key][1])}")
    for process in found["processes"]["changed"]:
        sizes = " to ".join(map(units.size, process["memory"]))
        print(f"~ process {process['pid']} {process['command']}: {sizes}")
    for kind, texts in (("processes", _process), ("files", _file), ("sockets", _file), ("mounts", _mount)):
        for sign, rows in (("-", found[kind]["gone"]), ("+", found[kind]["new"])):
            for row in rows:
                print(f"{sign} {texts(row)}")
    return 0


def compare(before: dict[str, Any], after: dict[str, Any]) -> dict[str, Any]:
    """What changed: `bytes` and `memory` of both; of each list what is `gone` and what is `new`, and of processes
    that are in both those whose memory `changed`."""
    found: dict[str, Any] = {key: [before[key], after[key]] for key in ("bytes", "memory")}
    for kind in ("files", "sockets", "mounts"):
        old, new = (list(map(_lasting, one[kind])) for one in (before, after))
        found[kind] = {"gone": [row for row in old if row not in new], "new": [row for row in new if row not in old]}
    was, now = ({(row["pid"], row["command"]): row for row in one["processes"]} for one in (before, after))
    both = [key for key in was if key in now and was[key]["memory"] != now[key]["memory"]]
    found["processes"] = {
        "gone": [row for key, row in was.items() if key not in now],
        "new": [row for key, row in now.items() if key not in was],
        "changed": [{**now[key], "memory": [was[key]["memory"], now[key]["memory"]]} for key in both],
    }
    return found


def _lasting(row: dict[str, Any]) -> dict[str, Any]:
    """Without a pipe's number, which is another one after each restore."""
    return {**row, "name": ""} if row.get("kind") == "PIPE" else row


def _process(row: dict[str, Any]) -> str:
    return f"process {row['pid']} {row['command']}, {units.size(row['memory'])}"


def _file(row: dict[str, Any]) -> str:
    return f"process {row['pid']} descriptor {row['fd']}: {row['kind']} {row['name']}"


def _mount(row: dict[str, Any]) -> str:
    return f"mount {row['mountpoint']} of {row['source']} {row['root']}"
