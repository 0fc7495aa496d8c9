"""Entry: run the command line, turn errors into exit codes."""

from __future__ import annotations

import signal
import sys

from .cli import main
from .errors import ClusterError

try:
    sys.exit(main(sys.argv[1:]))
except ClusterError as error:
    print(f"cluster: {error}", file=sys.stderr)
    sys.exit(1)
except KeyboardInterrupt:
    sys.exit(128 + signal.SIGINT)
