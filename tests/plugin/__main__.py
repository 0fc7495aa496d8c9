"""`python3 -m tests.plugin [-k NAME]`: some of the plugin's tests, or all, with unittest's own words."""

from __future__ import annotations

import sys

from tests.harness.cluster.errors import ClusterError
from tests.plugin.inside import run

if __name__ == "__main__":
    try:
        sys.exit(run(sys.argv[1:]))
    except ClusterError as error:
        sys.exit(f"error: {error}")
