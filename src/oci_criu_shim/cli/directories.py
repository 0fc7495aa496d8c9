"""Find the directory in which a job keeps its checkpoints, by the job's number.

It is that of --checkpoint-dir, if that is given. Otherwise it is the first of these which has anything of the job's:
that of the variable OCI_CRIU_SHIM_CHECKPOINT_DIR, the one that the job has noted in its user's home (task/pointers.py),
the site's, and those with which the job was submitted, as far as Slurm remembers. All but the site's are what a user
wrote, so root goes by them for jobs of root's own only.
"""

from __future__ import annotations

import os

from oci_criu_shim import config
from oci_criu_shim.checkpoints import committed
from oci_criu_shim.cli.jobs import is_name, job_number
from oci_criu_shim.container import ownership
from oci_criu_shim.errors import Others, ShimError
from oci_criu_shim.host import process
from oci_criu_shim.slurm import controller, submission
from oci_criu_shim.task import history, pointers

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from oci_criu_shim.slurm.submission import Submission

    Place = tuple[str, int | None]
    """A checkpoint directory, and the number of a job that may keep its checkpoints there."""

VARIABLE = "OCI_CRIU_SHIM_CHECKPOINT_DIR"
OWNER = "only its owner may look at it"
OTHERS = "`oci-criu-shim job status` lists the jobs that are known; --checkpoint-dir names another directory"
NONE_YET = "if it was submitted with --checkpoint-dir, give that here, too; without --checkpoint it has none"


def require(path: str) -> str:
    """Return the absolute path of a directory that was named; raise ShimError if it is not there."""
    path = os.path.abspath(path)
    try:
        os.scandir(path).close()
    except PermissionError as error:
        raise ShimError(f"{path}: {error.strerror}", committed.OWNERS) from None
    except OSError:
        raise ShimError(f"{path} is not a directory", "name the one that --checkpoint-dir named") from None
    return path


def all_of(given: str | None) -> list[str]:
    """Return the directories with the caller's checkpoints: the `given` one, or all that are known and there.

    If there is none, return the site's.
    """
    if given:
        return [require(given)]
    known = [*_named(), config.load().checkpoint_dir, *pointers.directories()]
    there: dict[str, str] = {}
    for path in known:
        if os.access(path, os.R_OK | os.X_OK):
            there.setdefault(os.path.realpath(path), path)
    return list(there.values()) or [config.load().checkpoint_dir]


def of_job(word: str, given: str | None) -> tuple[str, int]:
    """Return where job `word` (12, 12_3 or 12+1) keeps its checkpoints, and its number.

    A `given` directory is taken as it is. Raise ShimError if nothing of the job's is found, or it is another user's.
    All tasks of a heterogeneous job are kept as its first component's.
    """
    name = word.partition("+")[0] if is_name(word) else str(job_number(word))
    looked: list[str] = []
    for directory, number in [(path := require(given), _number(name, path))] if given else _places(name):
        if number and (given or history.has_anything(directory, number)):
            return directory, number
        looked.append(directory)
    hint = NONE_YET if not given and _submission(name) else OTHERS
    raise ShimError(f"job {word} has no history in {', '.join(dict.fromkeys(looked))}", hint)


def _places(name: str) -> Iterator[Place]:
    if ownership.is_root():
        _require_own(name, _submission(name))
    for directory in _named():
        yield directory, _number(name, directory)
    yield from _noted(name)
    yield (site := config.load().checkpoint_dir), _number(name, site)
    if found := _submission(name):
        _require_own(name, found)
        for directory in submission.checkpoint_directories(name, found):
            yield directory, found["job"]


def _named() -> list[str]:
    named = os.environ.get(VARIABLE)
    return [os.path.abspath(named)] if named else []


def _number(name: str, directory: str) -> int | None:
    """Return the number of job `name`, which only a history tells of an array's."""
    return history.job_named(directory, name) if "_" in name else int(name)


def _noted(name: str) -> list[Place]:
    """Return what jobs of that name have noted; if clusters share the home, only what those of this one have."""
    found = pointers.find(name)
    if len({cluster for cluster, _, _ in found}) > 1:
        here = controller.configuration().get("ClusterName", "")
        found = [one for one in found if one[0] == here]
    return [(directory, job) for _, job, directory in found]


def submission_of(word: str) -> Submission | None:
    """Return how job `word` was submitted; None if Slurm does not know it. Raise ShimError if it is another user's."""
    name = word if is_name(word) else str(job_number(word))
    found = _submission(name)
    _require_own(name, found)
    return found


def _submission(name: str) -> Submission | None:
    """Return how the job was submitted; None if Slurm does not know it any more, or does not answer."""
    try:
        return submission.look(name) if controller.conf_directory() else None
    except ShimError:
        return None


def _require_own(name: str, found: Submission | None) -> None:
    if found and found["uid"] != os.geteuid():
        owner = process.user_name(found["uid"])
        raise Others(f"job {name} belongs to user {owner}", OWNER, owner)
