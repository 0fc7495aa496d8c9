"""Print results of checks for people: a line for each, in colour on a terminal, and a sum at the end."""

from __future__ import annotations

import os
import sys

from oci_criu_shim.cli.doctor.verdicts import FAILED, OK, SKIPPED, WARNING

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from oci_criu_shim.cli.doctor.verdicts import Result

COLOURS = {OK: "32", WARNING: "33", FAILED: "1;31", SKIPPED: "2"}  # console_codes(4), SGR


def text(results: Sequence[Result], quiet: bool) -> str:
    """Return the lines; if `quiet`, only those of failures and warnings, and nothing if there are none."""
    shown = [result for result in results if not quiet or result["status"] in (FAILED, WARNING)]
    if quiet and not shown:
        return ""
    width = max((len(result["name"]) for result in shown), default=0)
    lines = [line for result in shown for line in _lines(result, width)]
    return "\n".join([*lines, summary(results)])


def _lines(result: Result, width: int) -> Iterator[str]:
    """Yield a line for a result, and one for each line of its hint."""
    status = coloured(f"{result['status']:8}", result["status"])
    yield f"{status} {result['name']:{width}}  {' '.join(result['found'].split())}"
    for number, line in enumerate(result["hint"].splitlines()):
        yield f"{'':8} {'':{width}}  {'  ' if number else '->'} {line}"


def summary(results: Sequence[Result]) -> str:
    """Return how many checks there were, and how many of them are not ok."""
    counts = {name: sum(result["status"] == name for result in results) for name in (FAILED, WARNING, SKIPPED)}
    words = {WARNING: "warnings" if counts[WARNING] > 1 else "warning"}
    found = [coloured(f"{count} {words.get(name, name)}", name) for name, count in counts.items() if count]
    return f"{len(results)} checks: {', '.join(found) or 'all ok'}"


def coloured(words: str, status: str) -> str:
    """Return words in the colour of a status if standard output is a terminal (NO_COLOR: no-color.org)."""
    if not sys.stdout.isatty() or os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb":
        return words
    return f"\033[{COLOURS[status]}m{words}\033[m"
