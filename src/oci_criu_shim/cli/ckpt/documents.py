"""Types of what `ckpt` prints with --json. Sizes are in bytes.

Only types are here: other modules import them under TYPE_CHECKING.
"""

from __future__ import annotations

from typing import Generic, TypedDict, TypeVar

Thing = TypeVar("Thing")


class Owner(TypedDict):
    """The task that a checkpoint is of; all are None if it is no job's."""

    job: int | None
    step: str | None
    task: int | None


class CheckpointRow(Owner):
    """A checkpoint in a list. If it is `damaged`, that says how. All that follows is None then, and if the `owner` is
    another user than the caller."""

    seq: int
    path: str
    owner: str
    damaged: str | None
    created: str | None
    node: str | None
    bytes: int | None
    reason: str | None
    written: int | None  # for this checkpoint alone
    increment_of: int | None  # the number of the checkpoint that has the rest; None if this one has it all
    age: int | None  # seconds


class DumpedProcess(TypedDict):
    """A process; `memory` is in bytes."""

    pid: int
    ppid: int
    command: str
    threads: int
    memory: int


class OpenFile(TypedDict):
    """An open file or socket of a process, by CRIU's word for its kind."""

    pid: int
    fd: int
    kind: str
    name: str


class Mounted(TypedDict):
    """A mount of the container."""

    mountpoint: str
    source: str
    root: str


class Contents(TypedDict):
    """What is in a container; `memory` is the bytes of all processes."""

    memory: int
    processes: list[DumpedProcess]
    files: list[OpenFile]
    sockets: list[OpenFile]
    mounts: list[Mounted]


class Description(Owner, Contents):
    """What is in a checkpoint."""

    path: str
    container: str
    created: str
    node: str
    kernel: str
    criu: str
    reason: str
    bytes: int
    written: int  # as in CheckpointRow
    increment_of: int | None
    dumped: int  # as `written`, before compression
    compressed: list[str]  # the codecs


class Verified(TypedDict):
    """Whether all of a checkpoint was compared and is right; what is damaged."""

    path: str
    verified: bool
    damaged: str | None


class Difference(TypedDict, Generic[Thing]):
    """What one checkpoint has and the next has not, and the other way round."""

    gone: list[Thing]
    new: list[Thing]


class Resized(TypedDict):
    """A process whose memory changed: as in DumpedProcess, but `memory` is its size before and after."""

    pid: int
    ppid: int
    command: str
    threads: int
    memory: list[int]


class ProcessDifference(Difference[DumpedProcess]):
    """A Difference in processes, with those that are in both and changed."""

    changed: list[Resized]


class Comparison(TypedDict):
    """What changed from one checkpoint to another; `bytes` and `memory` are those of both."""

    bytes: list[int]
    memory: list[int]
    files: Difference[OpenFile]
    sockets: Difference[OpenFile]
    mounts: Difference[Mounted]
    processes: ProcessDifference


class Exported(TypedDict):
    """What `export` and `import` did; `bytes` are the size of what was written."""

    checkpoint: str
    archive: str
    bytes: int


class Drained(TypedDict):
    """What `drain` copied, and from where."""

    checkpoint: str
    source: str
    bytes: int
    seconds: float


class Removed(TypedDict):
    """What `rm` removed."""

    removed: list[str]


class Gone(TypedDict):
    """A checkpoint that `prune` removed, or what rolled back files had lost (`cut`)."""

    path: str
    bytes: int


class Pruned(TypedDict):
    """What `prune` removed, or would remove in a `dry_run`."""

    dry_run: bool
    removed: list[Gone]
    kept: list[str]  # of jobs that have ended
    histories: list[str]
    bytes: int
    tasks_left: int  # of jobs that Slurm still knows
