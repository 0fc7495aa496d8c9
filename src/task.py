#!/usr/bin/python3 -ISXutf8
# In place of the program of a task without a container: spank/bare.c has slurmstepd execute this. Its words and
# variables are bytes, whatever the locale.
import gc
import os
import sys

gc.disable()
sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
sys.path += "/usr/lib/python3/dist-packages".split(":")
from oci_criu_shim.bundles import task  # noqa: E402 - the path comes first

os._exit(task.main(sys.argv[1:]))  # nothing is buffered, and Python's own exit takes milliseconds
