"""`job logs`: where a job's output is, and what the shim and CRIU have said of its checkpoints."""

from __future__ import annotations

import errno

from oci_criu_shim import files
from oci_criu_shim.cli import directories
from oci_criu_shim.cli.job.status import require_own
from oci_criu_shim.cli.report import print_json
from oci_criu_shim.errors import ShimError
from oci_criu_shim.log import NAME
from oci_criu_shim.task import history

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from oci_criu_shim.cli.invocation import Invocation
    from oci_criu_shim.cli.job.documents import CriuLog, LogsDocument, Output

OURS = (f"{NAME}: ", f"slurmstepd: error: {NAME}: ")
END = 8 << 20  # bytes of a file that are looked at
ERRORS = 10  # lines of CRIU's that are shown


def logs(call: Invocation) -> int:
    """Show where a job's output is, and what was said of its checkpoints there, and by CRIU if one was refused."""
    found = _find(call.operands[0], call.value("checkpoint-dir"))
    if call.flag("json"):
        print_json(found)
        return 0
    for output in found["output"]:
        print(f"output: {output['path']}" + (" (can't be read on this host)" if output["lines"] is None else ""))
        _print(output["lines"] or [])
    for log in found["logs"]:
        print(f"CRIU's log of a checkpoint that was refused: {log['path']}")
        _print(log["lines"])
    if not found["output"]:
        print("where its output is, is not known any more")
    return 0


def _print(lines: list[str]) -> None:
    for line in lines:
        print("  " + "".join(letter if letter.isprintable() or letter == "\t" else "?" for letter in line))


def _find(word: str, given: str | None) -> LogsDocument:
    """Return what there is of a job; ShimError if there is nothing, or it is another user's."""
    submitted = directories.submission_of(word)
    try:
        directory, job = directories.of_job(word, given)
    except ShimError:
        if submitted is None:
            raise
        directory, job = "", submitted["job"]
    else:
        require_own(directory, job)
    paths = [submitted["output"], submitted["error"]] if submitted else []
    criu: list[CriuLog] = []
    if directory:
        events = [event for events in history.read(directory, job).values() for event in events]
        paths += [event["output"] for event in events if "output" in event]
        criu = [_criu(path) for path in history.logs(directory, job)]
    outputs = [_output(path) for path in dict.fromkeys(paths) if path not in ("", "/dev/null")]
    return {"job": job, "output": outputs, "logs": criu}


def _output(path: str) -> Output:
    try:
        return {"path": path, "lines": _lines(path, lambda line: line.startswith(OURS))}
    except OSError as error:
        if error.errno not in (errno.ENOENT, errno.EACCES, errno.EINVAL, errno.EISDIR, errno.ENOTDIR):
            raise
        return {"path": path, "lines": None}


def _criu(path: str) -> CriuLog:
    """Return CRIU's errors in a log, after its first line, which says why the checkpoint was refused."""
    lines = _lines(path, lambda _: True)
    return {"path": path, "lines": [*lines[:1], *[line for line in lines[1:] if "Error (" in line][-ERRORS:]]}


def _lines(path: str, wanted: Callable[[str], bool]) -> list[str]:
    text = files.read_end(path, END).decode(errors="replace")
    return [line for line in text.split("\n") if line and wanted(line)]
