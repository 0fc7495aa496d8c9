"""Writes docs/kernels.md: what works with which Linux, CRIU and crun, by running tests with each (`make kernels`).

Each suite's nodes are tried on this machine's kernel, and on that of their own release in the virtual machine.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Iterator

from tests.harness.cluster import ClusterError, cgroups
from tests.harness.cluster.process import run
from tests.harness.cluster.rootfs import CONTAINED, NODE, ensure
from tests.harness.cluster.settings import REPOSITORY
from tests.harness.cluster.suite import SUITES, VARIABLE
from tests.harness.pages import DOCS
from tests.harness.vm import machine

PAGE = DOCS / "kernels.md"
TRIED = {
    "a container": "tests/node/test_verbs.py::test_stopped_after_a_restore",
    "no container": "tests/node/test_bare.py::test_comes_back",
    "TCP within": "tests/node/test_inner_connections.py::test_each_state",
    "seccomp": "tests/node/test_seccomp.py::test_kept",
    "io_uring hidden": "tests/node/test_io_uring.py",
    "pages lazily": "tests/node/test_elsewhere.py::test_lazily",
    "increments": "tests/vm/test_pre_dump.py",
    "AppArmor": "tests/vm/test_apparmor.py",
}
"""{what the page calls it: the tests that show it}."""
IN_THE_MACHINE = ("pages lazily", "increments", "AppArmor")
"""What takes more of the kernel than this machine's need have."""
PYTEST = ("-B", "-m", "pytest", "-v", "--color=no", "--override-ini=timeout=1200", "-p", "no:cacheprovider")
VERSIONS = r"uname -r; dpkg-query --show --showformat '${Package} ${Version}\n' criu crun"
HEAD = """\
# Linux, CRIU and crun

Made by `make kernels`, which runs tests of each capability with each kernel, CRIU and crun.
Pages that are sent lazily, for which root must be allowed large pipes, increments, which take
`CONFIG_MEM_SOFT_DIRTY`, and AppArmor are tried in the virtual machine only.
If CRIU is too old for a kernel, dumps are refused, and `oci-criu-shim doctor` says so.

"""


def main(argv: list[str]) -> int:
    """Write the page; with a word, print the rows of the suite that SUITE names. Return 0 if all was run."""
    if argv:
        print(json.dumps(list(rows())))
        return 0
    head = ["Linux", "groups", "CRIU", "crun", *TRIED]
    table = [head, ["---"] * len(head)]
    for name in SUITES:
        environment = {**os.environ, VARIABLE: name}
        words = [sys.executable, "-B", "-m", "tests.kernels", "rows"]
        done = subprocess.run(words, cwd=REPOSITORY, env=environment, stdout=subprocess.PIPE, text=True, check=True)
        table += json.loads(done.stdout)
    PAGE.write_text(HEAD + "".join(f"| {' | '.join(row)} |\n" for row in table))
    return 0


def rows() -> Iterator[list[str]]:
    """Yield a row of the page for each kernel. Raise ClusterError if its tests can't be run."""
    root = str(ensure(NODE, print_progress))
    versions = run([*CONTAINED, "chroot", root, "/bin/sh", "-c", VERSIONS]).stdout
    tests = [test for name, test in TRIED.items() if name not in IN_THE_MACHINE]
    done = subprocess.run([sys.executable, *PYTEST, *tests], cwd=REPOSITORY, stdout=subprocess.PIPE, text=True)
    unified = any(tree.is_v2 for tree in cgroups.hierarchies())
    yield row(versions, "2" if unified else "1", done.stdout)
    with tempfile.TemporaryFile("w+") as output:
        script = f"{VERSIONS}; {shlex.join(['python3', *PYTEST, *TRIED.values()])}"
        machine.run(["bash", "-c", script], print_progress, output.fileno())
        output.seek(0)
        said = output.read()
    yield row(said, "2", said)


def row(versions: str, groups: str, said: str) -> list[str]:
    """Return a row from what tells of the versions and what pytest said."""
    kernel = re.search(r"^(\d+\.\d+\.\d+)", versions, re.MULTILINE)
    programs = (re.search(rf"^{name} ([^-\s]+)", versions, re.MULTILINE) for name in ("criu", "crun"))
    found = [each[1] if each else "" for each in (kernel, *programs)]
    print(f"Linux {found[0]}, CRIU {found[1]}, crun {found[2]}", file=sys.stderr)
    print(said, file=sys.stderr)
    return [found[0], groups, *found[1:], *(verdict(said, tests) for tests in TRIED.values())]


def verdict(said: str, tests: str) -> str:
    """Return what the page says of some tests, from what pytest said of them."""
    outcomes = set(re.findall(rf"^{re.escape(tests)}\S* +([A-Z]+)", said, re.MULTILINE))
    return {frozenset({"PASSED"}): "yes", frozenset(): "not run"}.get(frozenset(outcomes), "no")


def print_progress(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except ClusterError as error:
        sys.exit(f"kernels: {error}")
