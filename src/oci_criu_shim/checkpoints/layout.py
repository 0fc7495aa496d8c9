"""Find the tasks in a checkpoint directory, which has `<job>/<step>.<task>/<seq>`."""

from __future__ import annotations

import os
import re

DEPTH = 3  # of a checkpoint below its checkpoint directory
CHECKPOINT = re.compile(r".*/(?P<job>\d+)/(?P<step>batch|\d+)\.(?P<task>\d+)/\d+")  # its path


def task_directories(directory: str) -> list[str]:
    """Return the directories `<job>/<step>.<task>` below `directory`, which may be a job's or a task's itself."""
    found = []
    for path, names, _ in os.walk(directory):
        if _of_task(path):
            found.append(path)
            names.clear()
        names[:] = sorted(name for name in names if not name.startswith("."))
        if path.removeprefix(directory).count("/") >= DEPTH - 1:
            names.clear()
    return found


def job_of(task: str) -> int:
    """Return the number of the job that a task's directory belongs to; 0 if it is no task's."""
    found = _of_task(task)
    return int(found["job"]) if found else 0


def _of_task(path: str) -> re.Match[str] | None:
    return CHECKPOINT.fullmatch(f"{path}/0")
