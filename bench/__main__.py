"""Runs benchmarks by name, all of them by default: `python3 -m bench [NAME…]`, as root.

A missed goal is a finding, not a failure: the exit status tells only whether they could be measured.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable

from bench import disk, preempt, preflight, startup, steady, store, verbs
from bench.report import Progress, Result
from tests.harness.cluster import ClusterError

BENCHES: dict[str, Callable[[Progress], Result]] = {
    "startup": startup.measure,
    "verbs": verbs.measure,
    "preempt": preempt.measure,
    "disk": disk.measure,
    "preflight": preflight.measure,
    "steady": steady.measure,
    "store": store.measure,
}


def main(names: list[str]) -> int:
    unknown = [name for name in names if name not in BENCHES]
    if unknown:
        print(f"bench: no benchmark {unknown[0]!r}; there are: {', '.join(BENCHES)}", file=sys.stderr)
        return 2
    missed = []
    for name in names or BENCHES:
        print(f"{name}: starting a cluster", flush=True)
        try:
            result = BENCHES[name](Progress(name))
        except (ClusterError, subprocess.TimeoutExpired) as error:
            print(f"bench: {name}: {error}", file=sys.stderr)
            return 1
        print(f"{result.table()}\nwritten to {result.write(name)}\n", flush=True)
        missed += [f"{name}.{measure}" for measure in result.missed()]
    print(f"bench: goals MISSED: {', '.join(missed)}" if missed else "bench: all goals met")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
