"""What each process and thread has of its own."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tests.harness.cluster.suite import SUITE
from tests.node.support import Life, Site

USERS = pytest.mark.parametrize("user", ["root", "alice"])
PROGRAM = ("python3", "-I", "/attributes.py")
LOG_IN = 'echo 1234 >/proc/self/loginuid && exec "$@"'
ONE = ("taskset", "--cpu-list", "1")


@contextmanager
def running(site: Site, user: str, *command: str, env: str = "", before: tuple[str, ...] = ()) -> Iterator[Life]:
    spec = site.spec(user)
    spec["process"]["args"] = list(command)
    spec["process"]["env"] += [env] if env else []
    life = site.container(user, spec)
    life.before = before
    try:
        with site.lending(user):
            life.run()
            yield life
    finally:
        life.stop()


@USERS
def test_same_after(site: Site, user: str) -> None:
    """And after a second restore."""
    with running(site, user, *PROGRAM) as life:
        before = life.look()
        assert [before[which]["processors"] for which in ("main", "thread", "child")] == [[0], [1], [1]]
        assert [before[which]["timer_slack"] for which in ("main", "thread", "child")] == [77000, 123000, 88000]
        for _ in range(2):
            life.checkpoint()
            life.restore()
            assert life.look() == before
            site.exec(["rm", "-r", life.images], user)
        assert "processors" not in life.said()
        assert life.end() == 0


def test_roots_login(site: Site) -> None:
    """The container is still its login's (loginuid of proc_pid(5))."""
    with running(site, "root", *PROGRAM, before=("sh", "-c", LOG_IN, "sh")) as life:
        life.look()
        life.before = ()
        life.checkpoint()
        life.restore()
        life.look()
        assert site.exec(["cat", f"/proc/{life.state()['pid']}/loginuid"]).stdout == "1234"


@USERS
def test_fewer_processors(site: Site, user: str) -> None:
    """Where the container is restored: of those that a thread was bound to, it has those that are there."""
    with running(site, user, *PROGRAM) as life:
        life.look()
        life.checkpoint()
        life.before = ONE
        life.restore()
        after = life.look()
        assert [after[which]["processors"] for which in ("main", "thread", "child")] == [[1], [1], [1]]
        line = "bound to processors 0, of which this job has none here: it runs on 1 (in the container, thread 1)"
        assert line in life.said()
        assert life.said().count("bound to") == 1


@USERS
def test_all_processors_are_those_of_the_task(site: Site, user: str) -> None:
    """A program that has all that its task has gets all that the new task has."""
    first, second = (ONE, ()) if SUITE.crun_keeps_processors else ((), ONE)
    seen = {ONE: "2", (): "3"}
    with running(site, user, "python3", "-I", "/inside.py", before=first) as life:
        assert life.look()["status"]["Cpus_allowed"] == seen[first]
        life.checkpoint()
        life.before = second
        life.restore()
        assert life.look()["status"]["Cpus_allowed"] == seen[second]


@USERS
@pytest.mark.parametrize("options", ["-R", "linux32 -R", "-3", "--uname-2.6 -X"])
def test_personality(site: Site, user: str, options: str) -> None:
    with running(site, user, "setarch", *options.split(), *PROGRAM) as life:
        before = life.look()
        life.checkpoint()
        life.restore()
        assert life.look() == before
        assert life.end() == 0


@USERS
def test_another_personality_is_told(site: Site, user: str) -> None:
    with running(site, user, *PROGRAM, env="PERSONALITY=yes") as life:
        before = life.look()
        assert before["child"]["personality"] == "00040000"
        said = life.checkpoint().stderr
        assert "a process (python3) has the personality 0x40000, and comes back with that of the init, 0x0" in said
        life.restore()
        assert life.look() == before | {"child": before["child"] | {"personality": "00000000"}}


DROP = """
import ctypes, os
ctypes.CDLL(None).prctl(24, 8, 0, 0, 0)
os.execvp("python3", ["python3", "-I", "/inside.py"])
"""


@USERS
def test_a_capability_that_was_dropped_for_good(site: Site, user: str) -> None:
    """CAP_SETPCAP is still in the inheritable set."""
    spec = site.spec(user)
    for kind in ("bounding", "effective", "permitted", "inheritable"):
        spec["process"]["capabilities"][kind] = ["CAP_SETPCAP", "CAP_KILL"]
    spec["process"]["args"] = ["python3", "-I", "-c", DROP]
    life = site.container(user, spec)
    try:
        with site.lending(user):
            life.run()
            before = life.look()["status"]
            assert (int(before["CapInh"], 16), int(before["CapBnd"], 16)) == (1 << 8 | 1 << 5, 1 << 5)
            life.checkpoint()
            life.restore()
            assert life.look()["status"] == before
            assert life.end() == 0
    finally:
        life.stop()
