"""The verbs that make or remove checkpoints: export, import, rm, prune."""

from __future__ import annotations

import os
import time

from oci_criu_shim import files, units
from oci_criu_shim.checkpoints import archive, committed, owner, unpacking
from oci_criu_shim.checkpoints.quota import CUT
from oci_criu_shim.checkpoints.store import Store
from oci_criu_shim.checkpoints.tree import Tree
from oci_criu_shim.cli.ckpt import look, place, podman
from oci_criu_shim.cli.ckpt.report import Progress, print_json
from oci_criu_shim.container import ownership
from oci_criu_shim.errors import USAGE, ShimError
from oci_criu_shim.slurm import controller
from oci_criu_shim.task import history

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from oci_criu_shim.checkpoints.committed import Checkpoint
    from oci_criu_shim.cli.ckpt.documents import Exported, Pruned, Removed
    from oci_criu_shim.cli.invocation import Invocation

FOREVER = float("inf")


def export(call: Invocation) -> int:
    """Write a checkpoint to FILE.tar, .tar.gz or .tar.zst, as podman does, after verifying it."""
    path = os.path.abspath(call.operands[1])
    archive.require_new(path)
    checkpoint = place.checkpoint(call.operands[0])
    committed.steadily(checkpoint, lambda checkpoint: _export(checkpoint, path, call))
    _tell(call, path, {"checkpoint": checkpoint.path, "archive": path, "bytes": os.stat(path).st_size})
    return 0


def _tell(call: Invocation, text: str, document: Exported | Removed | Pruned) -> None:
    """Print what was done, as the user wants it."""
    if call.flag("json"):
        print_json(document)
    elif text:
        print(text)


def _export(checkpoint: Checkpoint, path: str, call: Invocation) -> None:
    look.check(checkpoint, "verifying")
    with unpacking.Unpacked(checkpoint) as raw:
        if raw is not checkpoint:
            unpacking.complete(raw)
        additions = podman.additions(raw, call.flag("rootfs"))
        size = sum(content.size for content in additions.values() if isinstance(content, Tree))
        with Progress("writing", raw.manifest["bytes"] + size) as progress:
            archive.write(raw, path, additions, progress.tell)


def import_(call: Invocation) -> int:
    """Make a checkpoint that `export` wrote the newest in DIR."""
    path, directory = map(os.path.abspath, call.operands)
    ownership.require_own(directory)
    made = not os.path.lexists(directory)
    if made:
        os.mkdir(directory, 0o700)
    try:
        target = Store(directory, ".")
        target.prepare()
        with target.stage() as stage, Progress("reading") as progress:
            imported = archive.read(path, stage, progress.tell)
    except BaseException:
        if made:
            os.rmdir(directory)
        raise
    _tell(call, imported.path, {"archive": path, "checkpoint": imported.path, "bytes": imported.manifest["bytes"]})
    return 0


def remove(call: Invocation) -> int:
    """Remove checkpoints."""
    paths = list(map(place.path_of, call.operands))
    jobs = {place.label(path).job for path in paths} - {0}
    if jobs and not call.flag("force"):
        needed = jobs & _known_jobs("add --force to remove them without asking Slurm")
        if needed:
            numbers = ", ".join(map(str, sorted(needed)))
            raise ShimError(f"Slurm still knows job {numbers}, which may need them", "add --force to remove them")
    for path in paths:
        _require_own(path)
        Store(os.path.dirname(path), ".").remove(int(os.path.basename(path)))
    _tell(call, "", {"removed": paths})
    return 0


def _require_own(path: str) -> None:
    ownership.require_own(os.path.dirname(path))
    uid = os.lstat(path).st_uid
    if uid != os.geteuid():
        raise ShimError(f"{path} belongs to user {uid}", committed.OWNERS)


def _known_jobs(hint: str) -> set[int]:
    try:
        return controller.known_jobs()
    except ShimError as error:
        raise ShimError(f"cannot tell which jobs have ended: {error}", hint) from None


def prune(call: Invocation) -> int:
    """Remove the checkpoints of jobs that Slurm no longer knows."""
    keep = _number(call.value("keep"), "--keep", int, "3")
    older = _number(call.value("older-than"), "--older-than", units.parse_time, "12h or 7d")
    directory, dry_run = place.directory(call.operand(0)), call.flag("dry-run")
    ownership.require_own(directory)
    own = _own_tasks(directory)
    if call.flag("completed"):
        known, old = _not_completed(own), []
    else:
        known = _known_jobs("run it where Slurm's commands work")
        old = history.prune(directory, known, dry_run)
    ended = _without(own, known)
    spared = FOREVER if call.flag("completed") else older  # users may not have seen yet what was cut off their files
    gone: dict[str, int] = {}
    for path in ended:
        gone |= _prune(Store(path, "."), keep, older, dry_run, spared)
    _tell_pruned(call, gone, old, len(own) - len(ended))
    return 0


def _tell_pruned(call: Invocation, gone: dict[str, int], histories: list[str], left: int) -> None:
    """Print what was removed; `gone` is {path: bytes}, `left` the number of tasks that were left alone."""
    total, dry_run = sum(gone.values()), call.flag("dry-run")
    lines = [f"{path}  {units.size(size)}" for path, size in gone.items()] + histories
    alone = f"; left alone: {left} of jobs that Slurm still knows" if left else ""
    lines.append(f"{'would remove' if dry_run else 'removed'} {units.size(total)}{alone}")
    document: Pruned = {
        "dry_run": dry_run,
        "removed": [{"path": path, "bytes": size} for path, size in gone.items()],
        "histories": histories,
        "bytes": total,
        "tasks_left": left,
    }
    _tell(call, "\n".join(lines), document)


def prune_ended(directory: str, older: int) -> None:
    """The same, without options and a word, but for tasks and checkpoints younger than `older` seconds."""
    known = controller.known_jobs()
    history.prune(directory, known, dry_run=False)
    for path in _without(_own_tasks(directory), known):
        if time.time() - os.stat(path).st_mtime >= older:
            _prune(Store(path, "."), 0, older, dry_run=False, spared=older)


def _own_tasks(directory: str) -> list[str]:
    """The directories of the caller's tasks on this cluster: Slurm knows nothing of another one's jobs."""
    own = [path for path in _task_directories(directory) if os.lstat(path).st_uid == os.geteuid()]
    names = {path: owner.cluster_of(os.path.dirname(path)) for path in own}
    here = controller.configuration().get("ClusterName", "") if any(names.values()) else ""
    return [path for path in own if names[path] in ("", here)]


def _without(tasks: list[str], jobs: set[int]) -> list[str]:
    return [path for path in tasks if place.label(f"{path}/0").job not in jobs]


def _not_completed(tasks: list[str]) -> set[int]:
    """Return the tasks' jobs but for those that completed, as far as Slurm still knows them."""
    return {job for job in {place.label(f"{path}/0").job for path in tasks} if not controller.job(job).has_completed}


def _number(text: str | None, option: str, parse: Callable[[str], int], example: str) -> int:
    try:
        if (number := parse(text or "0") if text is not None else 0) >= 0:
            return number
    except ValueError:
        pass
    raise ShimError(f"{option} is a number such as {example}, not {text!r}", status=USAGE)


def _task_directories(directory: str) -> list[str]:
    """The directories `<job>/<step>.<task>` below `directory`, which may be a job's or a task's itself."""
    found = []
    for path, names, _ in os.walk(directory):
        if place.KEY.fullmatch(f"{path}/0"):
            found.append(path)
            names.clear()
        names[:] = sorted(name for name in names if not name.startswith("."))
        if path.removeprefix(directory).count("/") >= 2:
            names.clear()
    return found


def _prune(task: Store, keep: int, older: int, dry_run: bool, spared: float) -> dict[str, int]:
    """Remove what the options don't leave of an ended job's task: {path: bytes}."""
    numbers = task.numbers()
    doomed = [seq for seq in numbers[: max(len(numbers) - keep, 0)] if _age(task, seq) >= older]
    all_go = doomed == numbers
    cut_goes = all_go and not _has_cut(task, spared)
    sizes = {seq: files.tree_size(os.path.join(task.path, seq)) for seq in map(str, doomed)}
    if cut_goes and (size := files.tree_size(os.path.join(task.path, CUT))):
        sizes[CUT] = size
    if not dry_run:
        for seq in doomed:
            task.remove(seq)
        if all_go:
            (task.forget if cut_goes else task.clear)()
    return {os.path.join(task.path, name): size for name, size in sizes.items()}


def _has_cut(task: Store, seconds: float) -> bool:
    """Whether there is what was cut off its files, no longer ago than that."""
    try:
        return time.time() - os.stat(os.path.join(task.path, CUT)).st_mtime < seconds
    except FileNotFoundError:
        return False


def _age(task: Store, seq: int) -> int:
    path = os.path.join(task.path, str(seq))
    try:
        return look.age(committed.read(path).manifest["created"])
    except ShimError:
        return int(time.time() - os.lstat(path).st_mtime)
