"""Preempts real programs on a live cluster, and compares their results with those of runs without a preemption.

Writes docs/programs.md, if all of them were run: `make programs`, or `PROGRAM="redis go"` for some.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import textwrap
from collections.abc import Sequence

from tests.harness.cluster import Cluster, ClusterError
from tests.harness.cluster.cluster import quiet
from tests.harness.cluster.rootfs import NODE, ensure, with_packages
from tests.harness.pages import DOCS
from tests.programs.site import WAYS, Site
from tests.programs.table import PROGRAMS, Program

PAGE = DOCS / "programs.md"
HEAD = """\
# Programs that were tried

Made by `make programs`: each program was preempted once while it was at work, and went on on
another node. *Right* means that its result is the one of a run without a preemption. The scripts
are in `tests/programs/scripts`, the programs Debian's.

| program | version | without a container | in a container |
|---|---|---|---|
"""


def row(site: Site, program: Program, name: str, ways: Sequence[str]) -> list[str]:
    """Try a program; return its row of the page."""
    return [program.title, version(site, program), *(verdict(site, program, f"{name}-{way[:2]}", way) for way in ways)]


def version(site: Site, program: Program) -> str:
    """Return the version of its first package, without Debian's revision; empty if it needs none."""
    if not program.packages:
        return ""
    argv = ["dpkg-query", "--show", "--showformat=${Version}", program.packages[0]]
    return re.sub(r"^\d+:|-[^-]*$|\+dfsg.*|\+ds.*", "", site.cluster.exec("n1", argv).stdout)


def verdict(site: Site, program: Program, name: str, way: str) -> str:
    """Run a program as two jobs, of which one is preempted; return what the page says of it."""
    whole, attempt = (site.submit(program, f"{name}-{kind}", way) for kind in ("whole", "preempted"))
    site.preempt([attempt])
    wanted, found = whole.outcome(), attempt.outcome()
    said = found.verdict(wanted.result)
    print(f"{program.title}, {way}: {said}", flush=True)
    if said != "right":
        quoted = [*wanted.said.splitlines()[-5:], "preempted:", *found.said.splitlines()[-15:]]
        print(textwrap.indent("\n".join(quoted), "    "), flush=True)
    return said


def main(argv: list[str]) -> int:
    """Try the programs of these scripts, or all; return 0 if all have the right result."""
    parser = argparse.ArgumentParser(prog="python3 -m tests.programs", description=__doc__)
    parser.add_argument("scripts", nargs="*", help="of tests/programs/scripts, without .sh (default: all)")
    parser.add_argument("--way", choices=WAYS, help="(default: both)")
    options = parser.parse_args(argv)
    programs = [program for program in PROGRAMS if not options.scripts or program.script in options.scripts]
    ways = [options.way] if options.way else WAYS
    packages = tuple(sorted({name for program in PROGRAMS for name in program.packages}))
    try:
        with Cluster("programs", nodes=2, grace_time=60, packages=packages) as cluster:
            # The containers have the nodes' root file system as well, without a copy.
            site = Site(cluster, ensure(with_packages(NODE, packages), quiet))
            site.go()
            with site.serving():
                rows = [row(site, program, str(number), ways) for number, program in enumerate(programs)]
    except (ClusterError, subprocess.TimeoutExpired) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    if not options.scripts and not options.way:
        PAGE.write_text(HEAD + "".join(f"| {' | '.join(found)} |\n" for found in rows))
    return 0 if all(verdict == "right" for found in rows for verdict in found[2:]) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
