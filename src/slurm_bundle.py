"""Entry of a task of Slurm's that chose this runtime, by its path: see etc/slurm-oci/run."""

import os
import sys

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
sys.path += "/usr/lib/python3/dist-packages".split(":")

from oci_criu_shim.bundles import slurm  # the path comes first

sys.exit(slurm.main(sys.argv[1:]))
