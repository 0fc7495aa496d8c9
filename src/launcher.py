#!/usr/bin/python3 -IS
# Isolated and without `site`: half the start-up time, and nothing in the user's environment changes what runs.
import gc
import sys

gc.disable()  # most verbs are over before there is garbage
sys.path.insert(0, "/usr/lib/oci-criu-shim")
# Debian's packages (pycriu, jsonschema) come last, for the few verbs that import them.
sys.path += "/usr/lib/python3/dist-packages".split(":")
from oci_criu_shim.__main__ import main  # noqa: E402 - the path comes first

sys.exit(main())
