"""Entry of what makes scrun's bundles, by its path: see etc/scrun.lua."""

import os
import sys

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))

from oci_criu_shim.bundles import scrun  # the path comes first

sys.exit(scrun.main(sys.argv[1:]))
