"""Check whether this node can checkpoint and restore containers, and say what to do if it can't.

Each check is a function that returns what it found, or raises ShimError if something is wrong, Caution if something
may be wrong, or Skipped if it can't be checked here. Checks change nothing and need no privilege.
"""

from __future__ import annotations

import json

from oci_criu_shim.cli.doctor import node, site
from oci_criu_shim.cli.doctor.verdicts import Caution, Skipped
from oci_criu_shim.errors import ShimError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from oci_criu_shim.cli.doctor.verdicts import Result


def main(as_json: bool) -> int:
    """Print a line for each check, or JSON: [{name, status, found, hint}]; return 1 if a check has failed."""
    results = [examine(name, check) for name, check in (*node.CHECKS, *site.checks())]
    print(json.dumps(results, indent=2) if as_json else table(results))
    return int(any(result["status"] == "failed" for result in results))


def examine(name: str, check: Callable[[], str]) -> Result:
    """Run a check; return its result."""
    try:
        return {"name": name, "status": "ok", "found": check(), "hint": ""}
    except Skipped as reason:
        status, error = "skipped", ShimError(str(reason), reason.hint)
    except Caution as reason:
        status, error = "warning", ShimError(str(reason), reason.hint)
    except ShimError as reason:
        status, error = "failed", reason
    except OSError as reason:
        status, error = "failed", ShimError(str(reason))
    return {"name": name, "status": status, "found": str(error), "hint": error.hint}


def table(results: Sequence[Result]) -> str:
    """Return a line for each result, and one for each line of a hint."""
    width = max(len(result["name"]) for result in results)
    lines = []
    for result in results:
        lines.append(f"{result['status']:8} {result['name']:{width}}  {' '.join(result['found'].split())}")
        for number, line in enumerate(result["hint"].splitlines()):
            lines.append(f"{'':8} {'':{width}}  {'  ' if number else '->'} {line}")
    return "\n".join(lines)
