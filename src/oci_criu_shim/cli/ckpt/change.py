"""The verbs that make or remove checkpoints: export, import, rm, prune."""

from __future__ import annotations

import contextlib
import os
import time

from oci_criu_shim import config, files, units
from oci_criu_shim.checkpoints import archive, codec, committed, owner, scratch, unpacking
from oci_criu_shim.checkpoints.integrity import Verification
from oci_criu_shim.checkpoints.prune import prune as prune_task
from oci_criu_shim.checkpoints.store import Store
from oci_criu_shim.checkpoints.tree import Tree
from oci_criu_shim.cli.ckpt import look, place, podman
from oci_criu_shim.cli.report import ProgressLine, print_json
from oci_criu_shim.container import ownership
from oci_criu_shim.errors import USAGE, Others, ShimError, line_of
from oci_criu_shim.host import process
from oci_criu_shim.slurm import controller
from oci_criu_shim.task import history, pointers
from oci_criu_shim.task.daily_prune import own_tasks, without

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from oci_criu_shim.checkpoints.committed import Checkpoint
    from oci_criu_shim.checkpoints.compression import Compression
    from oci_criu_shim.cli.ckpt.documents import Drained, Exported, Pruned, Removed
    from oci_criu_shim.cli.invocation import Invocation

FOREVER = float("inf")


def export(call: Invocation) -> int:
    """Write a checkpoint to FILE.tar, .tar.gz or .tar.zst, as podman does, after verifying it."""
    path = os.path.abspath(call.operands[1])
    archive.require_new(path)
    checkpoint = place.checkpoint(call.operands[0], call.value("checkpoint-dir"))
    committed.steadily(checkpoint, lambda checkpoint: _export(checkpoint, path, call))
    _tell(call, path, {"checkpoint": checkpoint.path, "archive": path, "bytes": os.stat(path).st_size})
    return 0


def _tell(call: Invocation, text: str, document: Drained | Exported | Removed | Pruned) -> None:
    """Print what was done, as the user wants it."""
    if call.flag("json"):
        print_json(document)
    elif text:
        print(text)


def _export(checkpoint: Checkpoint, path: str, call: Invocation) -> None:
    verification = Verification(checkpoint)
    unpacked = unpacking.Unpacked(verification)
    with contextlib.ExitStack() as left:
        with ProgressLine("unpacking", sum(checkpoint.sizes.values()), unpacked.done):
            raw = left.enter_context(unpacked)
            if raw is not checkpoint:
                unpacking.complete(raw)
        look.finish(verification, "verifying")
        additions = podman.additions(raw, call.flag("rootfs"))
        size = sum(content.size for content in additions.values() if isinstance(content, Tree))
        with ProgressLine("writing", raw.manifest["bytes"] + size) as progress:
            archive.write(raw, path, additions, progress.tell)


def import_(call: Invocation) -> int:
    """Import an exported archive, as the newest checkpoint in DIR."""
    path, directory = map(os.path.abspath, call.operands)
    ownership.require_own(directory)
    made = not os.path.lexists(directory)
    if made:
        os.mkdir(directory, 0o700)
    try:
        target = Store(directory, ".")
        target.prepare()
        with target.stage() as stage:
            with ProgressLine("reading", os.path.getsize(path) if os.path.isfile(path) else 0) as progress:
                archive.read(path, stage, progress.tell)
            with ProgressLine("comparing", files.tree_size(stage.path), lambda: stage.compared()):
                imported = archive.adopt(path, stage)
    except BaseException:
        if made:
            os.rmdir(directory)
        raise
    _tell(call, imported.path, {"archive": path, "checkpoint": imported.path, "bytes": imported.manifest["bytes"]})
    return 0


def drain(call: Invocation) -> int:
    """Copy a checkpoint that is on this node alone to its task's others, as the job's epilog does."""
    from oci_criu_shim.transfer import holding, local  # every epilog calls `prune`, which needs neither

    base = os.path.abspath(call.operands[0])
    ownership.require_own(base)
    store, begun = holding.store_of(base), time.monotonic()
    if not holding.has_any(base):
        scratch.try_to_remove(base)  # what was to write it was killed
        raise ShimError(f"there is no checkpoint in {base}")
    try:
        with ProgressLine("copying", files.tree_size(base), lambda: files.tree_size(store.stage_path())):
            kept = local.drain(base, _compression(call))
    except (ShimError, OSError) as error:
        failure = error if isinstance(error, ShimError) else ShimError(line_of(error))
        said = f"a checkpoint is on {os.uname().nodename} alone, in {base}: {failure}"
        history.note_copy(store.path, "not-copied", reason=said)
        raise ShimError(said, failure.hint or f"`oci-criu-shim ckpt drain {base}` there tries once more") from None
    document: Drained = {
        "checkpoint": kept.path,
        "source": base,
        "bytes": kept.manifest["bytes"],
        "seconds": time.monotonic() - begun,
    }
    history.note_copy(store.path, "copied", path=kept.path, seconds=document["seconds"])
    _tell(call, f"{kept.path} ({units.size(document['bytes'])} in {document['seconds']:.1f} s)", document)
    return 0


def _compression(call: Invocation) -> Compression | None:
    """Return how what crosses the shared file system is compressed; None if it is not."""
    chosen = codec.parse(config.load().compress)
    if chosen is None or not chosen.is_there():
        return None
    from oci_criu_shim.checkpoints.compression import Compression

    return Compression(chosen, lambda: FOREVER, call.log.debug, always=False)


def remove(call: Invocation) -> int:
    """Remove checkpoints; JOBID names all that the job has."""
    given = call.value("checkpoint-dir")
    paths = list(dict.fromkeys(path for word in call.operands for path in place.paths_of(word, given)))
    jobs = {place.label(path).job for path in paths} - {0}
    if jobs and not call.flag("force"):
        needed = jobs & _known_jobs("add --force to remove them without asking Slurm")
        if needed:
            numbers = ", ".join(map(str, sorted(needed)))
            raise ShimError(f"Slurm still knows job {numbers}, which may need them", "add --force to remove them")
    with ProgressLine("removing", len(paths), shown=str) as progress:
        for number, path in enumerate(paths):
            progress.tell(number)
            _require_own(path)
            Store(os.path.dirname(path), ".").remove(int(os.path.basename(path)))
    _tell(call, "", {"removed": paths})
    return 0


def _require_own(path: str) -> None:
    ownership.require_own(os.path.dirname(path))
    uid = os.lstat(path).st_uid
    if uid != os.geteuid():
        name = process.user_name(uid)
        raise Others(f"{path} belongs to user {name}", committed.OWNERS, name)


def _known_jobs(hint: str) -> set[int]:
    try:
        return controller.known_jobs()
    except ShimError as error:
        raise ShimError(f"cannot tell which jobs have ended: {error}", hint) from None


def prune(call: Invocation) -> int:
    """Remove old checkpoints of jobs that Slurm no longer knows."""
    completed, dry_run = call.flag("completed"), call.flag("dry-run")
    keep = _number(call, "keep", "number, at least 1", int, 1) or 0
    older = _number(call, "older-than", "time such as 12h or 7d", units.parse_time, 0)
    if older is None:
        older = 0 if completed else config.load().keep_ended
    places = place.directories_of(call)
    for directory in places:
        ownership.require_own(directory)
    own = [task for directory in places for task in own_tasks(directory)]
    if completed:
        known, old = _not_completed(own), []
    else:
        known = _known_jobs("run it where Slurm's commands work")
        old = [path for directory in places for path in history.prune(directory, known, dry_run)]
    ended = without(own, known)
    spared = FOREVER if completed else older  # users may not have seen yet what was cut off their files
    gone: dict[str, int] = {}
    kept: list[str] = []
    with ProgressLine("looking at tasks" if dry_run else "pruning tasks", len(ended), shown=str) as progress:
        for number, path in enumerate(ended):
            progress.tell(number)
            there = [os.path.join(path, str(seq)) for seq in Store(path, ".").numbers()]
            gone |= prune_task(Store(path, "."), keep, older, spared, dry_run)
            kept += [path for path in there if path not in gone]
    if not dry_run:
        pointers.sweep()
    document: Pruned = {
        "dry_run": dry_run,
        "removed": [{"path": path, "bytes": size} for path, size in gone.items()],
        "kept": kept,
        "histories": old,
        "bytes": sum(gone.values()),
        "tasks_left": len(own) - len(ended),
    }
    _tell(call, _pruned(document, keep, older), document)
    return 0


def _pruned(done: Pruned, keep: int, older: int) -> str:
    """Return what was removed, and what was not and why, in words."""
    lines = [f"{row['path']}  {units.size(row['bytes'])}" for row in done["removed"]] + done["histories"]
    said = f"{'would remove' if done['dry_run'] else 'removed'} {units.size(done['bytes'])}"
    if kept := len(done["kept"]):
        why = [f"younger than {units.time(older)} (--older-than)"] * bool(older) + [f"the newest {keep}"] * bool(keep)
        said += f"; kept {kept} of jobs that have ended: {' or '.join(why)}"
    if left := done["tasks_left"]:
        said += f"; left alone {left} of jobs that Slurm still knows"
    return "\n".join([*lines, said])


def _not_completed(tasks: list[str]) -> set[int]:
    """Return the tasks' jobs but for those that completed, as far as Slurm still knows them."""
    return {job for job in {owner.job_of(path) for path in tasks} if not controller.job(job).has_completed}


def _number(call: Invocation, option: str, kind: str, parse: Callable[[str], int], least: int) -> int | None:
    """Return the value of an option; None if it was not given."""
    text = call.value(option)
    if text is None:
        return None
    try:
        if (number := parse(text)) >= least:
            return number
    except ValueError:
        pass
    raise ShimError(f"--{option} is a {kind}, not {text!r}", status=USAGE)
