"""Entry: run one command in the machine."""

from __future__ import annotations

import argparse
import sys

from tests.harness.cluster.errors import ClusterError

from .machine import run

DESCRIPTION = """\
Run one command, as root and in this checkout, in a virtual machine with Debian's kernel: control groups of version 2
alone, AppArmor, memory tracking, NFS. Needs root, but no hardware for it. `-- bash -c '…'` for more than one command.
"""


def main(argv: list[str]) -> int:
    """Run it; its status. Raise ClusterError."""
    parser = argparse.ArgumentParser(prog="python3 -m tests.harness.vm", description=DESCRIPTION)
    parser.add_argument("command", nargs="+", metavar="COMMAND")
    return run(parser.parse_args(argv).command, lambda text: print(text, file=sys.stderr))


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except ClusterError as error:
        sys.exit(f"machine: {error}")
