"""Ask Slurm how a job was submitted, and by whom: scontrol, sacct and the batch script tell."""

from __future__ import annotations

import os
import re
import shlex

from oci_criu_shim.errors import ShimError
from oci_criu_shim.slurm.commands import ask, number_of, run

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from typing import TypedDict

    from oci_criu_shim.files import Document

    class Submission(TypedDict):
        """What is known of it; texts may be empty."""

        job: int
        uid: int
        states: list[str]
        directory: str  # the job's working directory
        line: str  # the command line, without quotes
        output: str  # paths of the batch script's output
        error: str


OPTION = "--checkpoint-dir"
SBATCH = re.compile(r"#SBATCH\s+(.*)")
FIELDS = "JobIDRaw,UID,WorkDir,State,SubmitLine"


def look(name: str) -> Submission:
    """Return how job `name` (12, 12_3 or 12+1) was submitted; ShimError if Slurm can't tell.

    slurmdbd, if there is one, remembers jobs that slurmctld has forgotten.
    """
    try:
        found = ask(name, _submission)
    except ShimError as error:
        try:
            return _remembered(name)
        except ShimError:
            raise error from None
    return next((one for one in found if str(one["job"]) == name), found[0])


def _submission(record: Document) -> Submission:
    return {
        "job": number_of(record["het_job_id"]) or record["job_id"],
        "uid": record["user_id"],
        "states": record["job_state"],
        "directory": record["current_working_directory"],
        "line": record.get("submit_line", ""),  # Slurm 25.05 and newer
        # Slurm 25.05 and newer have them as they were asked for (%j.out), too.
        "output": record.get("stdout_expanded") or record["standard_output"],
        "error": record.get("stderr_expanded") or record["standard_error"],
    }


def _remembered(name: str) -> Submission:
    text = run("sacct", "--allocations", "--noheader", "--parsable2", f"--jobs={name}", f"--format={FIELDS}")
    found = re.match(r"(\d+)\|(\d+)\|([^|\n]*)\|([^|\n]*)\|(.*)", text)
    if not found:
        raise ShimError(f"sacct knows no job {name}")
    job, uid, directory, state, line = found.groups()
    return {
        "job": int(job),
        "uid": int(uid),
        "states": state.split()[:1],  # `CANCELLED by 1000`
        "directory": directory,
        "line": line,
        "output": "",
        "error": "",
    }


def checkpoint_directories(name: str, found: Submission) -> Iterator[str]:
    """Yield the directories that --checkpoint-dir named, as far as Slurm remembers: the likeliest first."""
    for read in (_line, _script):
        for value in _values(read(name, found)):
            yield os.path.normpath(os.path.join(found["directory"], value))


def _line(name: str, found: Submission) -> list[str]:
    line = found["line"]
    if not line:  # slurmctld before 25.05 does not tell it
        try:
            line = _remembered(name)["line"]
        except ShimError:
            return []
    return _split(line)


def _script(name: str, _: Submission) -> list[str]:
    """Return the options in the job's batch script."""
    try:
        text = run("scontrol", "write", "batch_script", name, "-")
    except ShimError:
        return []  # it has none, or slurmctld has forgotten it
    return [word for line in text.splitlines() if (given := SBATCH.match(line)) for word in _split(given[1])]


def _split(line: str) -> list[str]:
    try:
        return shlex.split(line, comments=True)
    except ValueError:
        return line.split()


def _values(words: Sequence[str]) -> Iterator[str]:
    for number, word in enumerate(words):
        name, equals, value = word.partition("=")
        if name == OPTION and equals:
            yield value
        elif name == OPTION and words[number + 1 :]:
            yield words[number + 1]
