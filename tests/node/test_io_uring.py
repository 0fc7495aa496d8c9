"""io_uring, which CRIU can't dump: programs of a job that asked for checkpoints find none, and go on without it."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from tests.node.in_a_job import go_on, in_a_job, keep, kill
from tests.node.support import Life, Site
from tests.node.test_options import SETTINGS

# For each line that it reads: what a thread of its own that has run from the start gets of io_uring_setup(2), what it
# gets itself, and which filters there are.
PROGRAM = """
import ctypes, errno, json, queue, sys, threading
libc = ctypes.CDLL(None, use_errno=True)
asked, answered = queue.Queue(), queue.Queue()
def setup():
    parameters = (ctypes.c_char * 120)()
    number = libc.syscall(425, 4, parameters)
    return "made" if number >= 0 else errno.errorcode[ctypes.get_errno()]
def serve():
    while asked.get():
        answered.put(setup())
threading.Thread(target=serve, daemon=True).start()
for line in sys.stdin:
    asked.put(1)
    status = open("/proc/self/status").read()
    filters = status.partition("Seccomp_filters:")[2].split()[0]
    print(json.dumps({"thread": answered.get(), "main": setup(), "filters": filters}), flush=True)
"""
HIDDEN = {"thread": "ENOSYS", "main": "ENOSYS", "filters": "1"}
ONCE = PROGRAM.replace("for line in sys.stdin:", "for line in [1]:")


def container(site: Site, user: str) -> Life:
    spec = site.spec(user)
    spec["process"]["args"] = ["python3", "-I", "-c", PROGRAM]
    return site.container(user, spec)


def executed(life: Life) -> object:
    """What a process gets that is added to the container."""
    argv = life.argv("exec", life.name, "python3", "-I", "-c", ONCE)
    return json.loads(life.site.exec(argv, life.user).stdout)


def again(life: Life) -> None:
    """Checkpoint it, and have its job go on from there after its node has failed."""
    keep(life)
    kill(life)
    go_on(life)


def test_a_job_finds_none(site: Site) -> None:
    """Before and after a restore, in all of its processes and threads."""
    life = container(site, "alice")
    with in_a_job(life):
        assert (life.look(), executed(life)) == (HIDDEN, HIDDEN)
        again(life)
        assert (life.look(), executed(life)) == (HIDDEN, HIDDEN)
        again(life)
        assert life.look() == HIDDEN


def test_a_filter_of_the_bundles(site: Site) -> None:
    """It goes on to decide about all other calls."""
    life = container(site, "alice")
    rules = [{"names": ["io_uring_setup", "io_uring_enter"], "action": "SCMP_ACT_ALLOW"}]
    rules.append({"names": ["ptrace"], "action": "SCMP_ACT_KILL"})
    life.spec["linux"]["seccomp"] = {"defaultAction": "SCMP_ACT_ALLOW", "syscalls": rules}
    with in_a_job(life):
        assert (life.look(), executed(life)) == (HIDDEN, HIDDEN)
        again(life)
        assert (life.look(), executed(life)) == (HIDDEN, HIDDEN)


@pytest.fixture
def not_hidden(site: Site) -> Iterator[None]:
    site.exec(["cp", SETTINGS, "/tmp/settings"])
    site.exec(["sh", "-c", f"echo 'hide-io-uring = false' >>{SETTINGS}"])
    yield
    site.exec(["mv", "/tmp/settings", SETTINGS])


def test_one_that_is_not_hidden(site: Site, not_hidden: None) -> None:
    """It is refused, and the process named."""
    life = container(site, "alice")
    with in_a_job(life):
        assert life.look() == {"thread": "made", "main": "made", "filters": "0"}
        said = keep(life, check=False)
        assert " (python3) has an io_uring, which CRIU can't dump" in said and "CRIU could not" not in said
        assert life.look()["main"] == "made"


def test_other_containers_have_it(site: Site) -> None:
    """A job that did not ask for checkpoints; outside of jobs, config.json alone says what is filtered."""
    for user in ("root", "alice"):
        life = container(site, user)
        if user == "alice":
            life.spec["process"]["env"].remove("SLURM_CHECKPOINT=preempt")
            life.write()
        try:
            life.run()
            assert life.look() == {"thread": "made", "main": "made", "filters": "0"}
            assert life.end() == 0
        finally:
            life.stop()
