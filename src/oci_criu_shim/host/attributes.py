"""The type of a thread's attributes.

There is nothing else here, and other modules import it under TYPE_CHECKING: importing typing takes longer than most of
this package.
"""

from typing import TypedDict


class Attributes(TypedDict, total=False):
    """Attributes of a thread that CRIU 4.2 does not restore (threads.note()); those that a restore gives it anyway are
    left out."""

    processors: list[int]  # the numbers of those that it is bound to (sched_setaffinity(2))
    nice: int
    io_priority: int  # as ioprio_get(2) returns it
    timer_slack: int  # nanoseconds
    coredump_filter: int  # of the first thread of a process
