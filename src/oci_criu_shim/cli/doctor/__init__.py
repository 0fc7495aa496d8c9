"""Check whether this node can checkpoint and restore containers, and say what to do if it can't.

Each check is a function that returns what it found, or raises ShimError if something is wrong, Caution if something
may be wrong, or Skipped if it can't be checked here. Checks change nothing and need no privilege. What one has told,
others don't repeat: they are skipped. Root runs nothing that others may write (roots.py).
"""

from __future__ import annotations

import json
import os

from oci_criu_shim.cli.doctor import node, report, site
from oci_criu_shim.cli.doctor.verdicts import FAILED, OK, SKIPPED, WARNING, Caution, Skipped
from oci_criu_shim.errors import ShimError, line_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from oci_criu_shim.cli.doctor.verdicts import Result


def main(as_json: bool, quiet: bool) -> int:
    """Print a line for each check, or JSON: [{host, name, status, found, hint}]; return 1 if a check has failed."""
    results = [examine(name, check) for name, check in (*node.CHECKS, *site.checks())]
    if lines := json.dumps(results, indent=2) if as_json else report.text(results, quiet):
        print(lines)
    return int(any(result["status"] == FAILED for result in results))


def examine(name: str, check: Callable[[], str]) -> Result:
    """Run a check; return its result."""
    try:
        status, found, hint = OK, check(), ""
    except Skipped as reason:
        status, found, hint = SKIPPED, str(reason), reason.hint
    except Caution as reason:
        status, found, hint = WARNING, str(reason), reason.hint
    except ShimError as reason:
        status, found, hint = FAILED, str(reason), reason.hint
    except OSError as reason:
        status, found, hint = FAILED, line_of(reason), ""
    return {"host": os.uname().nodename, "name": name, "status": status, "found": found, "hint": hint}
