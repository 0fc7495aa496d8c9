"""`preflight.py DIRECTORY RUNS`: looks at the running container with that directory as before a dump.

Prints how many seconds each look took, as JSON.
"""

from __future__ import annotations

import json
import sys
import time

sys.path.insert(0, "/usr/lib/oci-criu-shim")

from oci_criu_shim.container.bundle import Bundle  # the path comes first
from oci_criu_shim.container.record import Container
from oci_criu_shim.dump import kept
from oci_criu_shim.dump.survey import Survey


def main(directory: str, runs: str) -> None:
    """Look at it so often."""
    root, _, name = directory.rpartition("/")
    record = Container(root, name).load()
    seconds = []
    for _ in range(int(runs)):
        begun = time.monotonic()
        kept.check(Survey(record["init"][0], Bundle(record["bundle"], record["config"])))
        seconds.append(time.monotonic() - begun)
    print(json.dumps(seconds))


main(*sys.argv[1:])
