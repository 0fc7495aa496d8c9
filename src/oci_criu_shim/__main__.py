"""Run the command line of this process; exceptions become exit statuses here."""

from __future__ import annotations

import os
import sys

from oci_criu_shim.cli import parse
from oci_criu_shim.errors import ShimError
from oci_criu_shim.log import Log


def main() -> int:
    """Run the command line of this process and end it; return the exit status if its output can't be written."""
    status = run()
    try:
        for stream in (sys.stdout, sys.stderr):
            if stream:  # None if the descriptor was closed
                stream.flush()
    except OSError:
        return status  # Python's own exit reports that
    os._exit(status)  # that exit takes the interpreter apart, which costs milliseconds


def run() -> int:
    """Run the command line; return the exit status."""
    try:
        return parse.main(sys.argv[1:])
    except ShimError as error:
        Log().error(error.line())
        return error.status
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    sys.exit(main())
