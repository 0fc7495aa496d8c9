"""Types of what `job` prints with --json. Times are seconds since the epoch, lengths are seconds.

Only types are here: other modules import them under TYPE_CHECKING.
"""

from __future__ import annotations

from typing import TypedDict

TYPE_CHECKING = False
if TYPE_CHECKING:
    from oci_criu_shim.files import Document
    from oci_criu_shim.task.history import Event

    class CheckpointDocument(Event):
        """A checkpoint, and whether it was removed since."""

        seq: int | None
        removed: bool


class Answer(TypedDict):
    """What `job checkpoint` says of one container, or of a node that has none."""

    job: int
    node: str
    container: str | None
    taken: bool
    said: str
    checkpoint: Document | None  # its path, seq, bytes and more, as in the job's history; None if it was not taken


class Output(TypedDict):
    """A file with a job's output, and the lines in it that are ours; None if it can't be read here."""

    path: str
    lines: list[str] | None


class Migrated(TypedDict):
    """What `job migrate` has done."""

    job: int
    source: str
    to: str
    bytes: int  # of memory that the program had
    sent: int  # of them, over the network
    transfer: float  # seconds
    seconds: float  # from the command until the job ran again


class CriuLog(TypedDict):
    """CRIU's log of a checkpoint that was refused: the reason, and the errors in it."""

    path: str
    lines: list[str]


class LogsDocument(TypedDict):
    """What `job logs` finds; CRIU's newest log last."""

    job: int
    output: list[Output]
    logs: list[CriuLog]


class RunDocument(TypedDict):
    """A run: see story.Run."""

    node: str
    restarts: int
    begin: float
    end: float | None
    outcome: str
    status: int | None
    waited: float | None
    kept: float
    lost: float
    bound: str
    restored: Event | None
    origin: str  # JOB:SEQ of the checkpoint that it was restored from, or its path; empty if there is none
    until: float  # the end, as far as it is known
    lost_from: float


class TaskDocument(TypedDict):
    """The runs of one task, `<step>.<task>`, and what happened in all of them."""

    task: str
    runs: list[RunDocument]
    checkpoints: list[CheckpointDocument]
    problems: list[Event]
    ended: Event | None  # the job's end, if Slurm has told it
    fate: str  # that end, as a run's outcome; empty if it is not known
    given_up: float | None  # when it ended while the task waited to go on


class JobDocument(TypedDict):
    """A job with the sums of its tasks: see story.Story."""

    job: int
    id: str  # for Slurm's commands: 12_3 of an array
    name: str
    state: str
    reason: str
    begin: float
    end: float
    nodes: list[str]
    kept: float
    safe: float | None  # None if it does not go on
    lost: float
    bound: str
    waited: float
    frozen: float
    tasks: list[TaskDocument]
