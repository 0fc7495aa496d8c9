"""Runs benchmarks by name, all of them by default: `python3 -m bench [NAME…]`, as root; `scale` needs no root.

A missed goal is a finding, not a failure: the exit status tells only whether they could be measured.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from types import ModuleType
from typing import Any

from bench import disk, migrate, page, preempt, preflight, scale, startup, steady, store, verbs
from bench.report import Progress, Result
from tests.harness.cluster import ClusterError

MODULES = (startup, verbs, preempt, disk, migrate, preflight, steady, store, scale)
BENCHES: dict[str, ModuleType] = {module.__name__.rpartition(".")[2]: module for module in MODULES}
FILES = {"migrate": "migration"}
"""Names of results, if they are not their benchmark's."""


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python3 -m bench", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"{', '.join(BENCHES)} (default: all)")
    parser.add_argument(
        "--program", nargs="+", choices=disk.RUNS, default=(), help="disk's and migrate's (default: all)"
    )
    parser.add_argument("--runs", type=int, help="of each of these programs")
    options = parser.parse_args(argv)
    if unknown := [name for name in options.names if name not in BENCHES]:
        parser.error(f"no benchmark {unknown[0]!r}; there are: {', '.join(BENCHES)}")
    more: dict[str, dict[str, Any]] = {
        "disk": {"programs": options.program, "runs": options.runs},
        "migrate": {"names": options.program, "runs": options.runs},
    }
    missed = []
    for name in options.names or BENCHES:
        print(f"{name}: starting", flush=True)
        try:
            result: Result = BENCHES[name].measure(Progress(name), **more.get(name, {}))
        except (ClusterError, subprocess.TimeoutExpired) as error:
            print(f"bench: {name}: {error}", file=sys.stderr)
            return 1
        result.about = BENCHES[name].__doc__ or ""
        print(f"{result.table()}\nwritten to {result.write(FILES.get(name, name))} and {page.write()}\n", flush=True)
        missed += [f"{name}.{measure}" for measure in result.missed()]
    print(f"bench: goals MISSED: {', '.join(missed)}" if missed else "bench: all goals met")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
