"""Entry of the privileged worker, by its path: `python3 -I -S worker.py [JOB [report]]`."""

import os
import sys

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))

from oci_criu_shim.privileged import worker  # the path comes first

sys.exit(worker.main(int(sys.argv[1]) if len(sys.argv) > 1 else None, sys.argv[2:] == ["report"]))
