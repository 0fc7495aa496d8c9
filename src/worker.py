"""Entry of the privileged worker, by its path: `python3 -I -S worker.py [JOB GROUP [report]]`."""

import os
import sys

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))

from oci_criu_shim.privileged import worker  # the path comes first

job = (int(sys.argv[1]), sys.argv[2]) if len(sys.argv) > 1 else None
sys.exit(worker.main(job, sys.argv[3:] == ["report"]))
