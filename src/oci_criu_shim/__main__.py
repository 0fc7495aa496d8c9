"""Entry point: signals to defaults, parse, run; exceptions become exit statuses here."""

from __future__ import annotations

import sys

from oci_criu_shim import cli
from oci_criu_shim.errors import ShimError
from oci_criu_shim.log import Log


def main() -> int:
    """Run the command line of this process; the exit status."""
    try:
        return cli.main(sys.argv[1:])
    except ShimError as error:
        Log().error(error.line())
        return error.status
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    sys.exit(main())
