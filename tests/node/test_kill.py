"""Signals: to all of a container's processes, whoever created it, and to one that is held for its restore."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tests.harness.cluster import wait_for
from tests.harness.cluster.waiting import patient
from tests.node.in_a_job import in_a_job, keep, kill
from tests.node.support import Life, Site, Spec

# A process and its child, which says when both are ready. (The shell says on standard error what ends its `sleep`.)
TRAP = """
trap 'wait; echo init; exit 3' TERM
(trap 'echo child; exit 0' TERM; echo ready; while :; do sleep 0.1; done) &
while :; do sleep 0.1; done
"""


def trapping(spec: Spec) -> Spec:
    spec["process"]["args"] = ["bash", "-c", TRAP]
    return spec


@contextmanager
def running(site: Site, user: str) -> Iterator[Life]:
    life = site.container(user, trapping(site.spec(user)))
    try:
        with site.lending(user):
            life.run()
            assert line(life) == "ready"
            yield life
    finally:
        life.stop()


def line(life: Life) -> str:
    assert life.process and life.process.stdout
    return life.process.stdout.readline().strip()


def call(life: Life, *words: str, check: bool = True) -> subprocess.CompletedProcess[str]:
    return life.site.exec(life.argv(*words), life.user, check)


@pytest.mark.parametrize("restored", [False, True], ids=["created", "restored"])
@pytest.mark.parametrize("user", ["root", "alice"])
def test_all(site: Site, user: str, restored: bool) -> None:
    with running(site, user) as life:
        if restored:
            life.checkpoint()
            life.restore()
            wait_for(lambda: "running" in call(life, "state", life.name, check=False).stdout, 20, "its restore")
        call(life, "kill", "--all", life.name, "0")
        assert call(life, "kill", "-a", life.name).stderr == ""
        assert life.process
        assert life.process.communicate(timeout=patient(20))[0] == "child\ninit\n"
        assert life.process.returncode == 3


@pytest.mark.parametrize("backend", ["crun", "runc"])
@pytest.mark.parametrize("user", ["root", "alice"])
def test_all_of_a_container_of_the_backends_alone(site: Site, user: str, backend: str) -> None:
    spec = trapping(site.spec(user))
    spec["process"]["env"] = ["PATH=/usr/bin:/bin"]
    if user != "root":
        spec["linux"] |= {f"{kind}Mappings": [{"containerID": 0, "hostID": 1000, "size": 1}] for kind in ("uid", "gid")}
    life = site.container(user, spec)
    words = " ".join(life.argv(f"--backend={backend}", "run", "--detach", "--bundle", life.bundle, life.name))
    out = f"{life.bundle}/out"

    def lines() -> set[str]:
        return set(site.exec(["cat", out]).stdout.split())

    try:
        site.exec(["sh", "-c", f"{words} </dev/null >{out} 2>/dev/null"], user)
        wait_for(lambda: lines() == {"ready"}, 20, "it to be ready")
        call(life, "kill", "-a", life.name)
        wait_for(lambda: lines() == {"ready", "child", "init"}, 20, "both to be told")
        wait_for(lambda: life.state()["status"] == "stopped", 20, "its end")
        done = call(life, "kill", life.name, check=False)
        assert (done.returncode != 0, done.stderr.count("\n")) == (True, 1)
    finally:
        life.stop()


@pytest.mark.parametrize("user", ["root", "alice"])
def test_one_that_is_held(site: Site, user: str) -> None:
    """As `create` leaves it in a job's next run."""
    life = site.container(user, trapping(site.spec(user)))
    with in_a_job(life):
        assert line(life) == "ready"
        keep(life)
        kill(life)
        life.spec["process"]["env"].append("SLURM_RESTART_COUNT=1")
        life.write()
        words = " ".join(life.argv("create", "--bundle", life.bundle, life.name))
        site.exec(["sh", "-c", f"{words} </dev/null >/dev/null 2>&1"], user)
        state = life.state()
        assert state["status"] == "created"
        assert site.exec(["cat", f"/proc/{state['pid']}/comm"]).stdout
        listed = json.loads(call(life, "list", "--format=json").stdout)
        assert [(one["id"], one["pid"]) for one in listed] == [(life.name, state["pid"])]
        for verb in ("exec", "checkpoint", "pause"):
            assert "is not running yet (hint: start it first)" in call(life, verb, life.name, check=False).stderr
        for name in ("0", "CONT"):
            call(life, "kill", life.name, name)
            assert life.state()["status"] == "created"
        call(life, "kill", "-a", life.name, "KILL")
        wait_for(lambda: life.state()["status"] == "stopped", 10, "its end")
        assert "is not running (hint: " in call(life, "kill", life.name, check=False).stderr
        assert "nobody left to restore it (hint: " in call(life, "start", life.name, check=False).stderr
        call(life, "delete", life.name)
        assert call(life, "list", "--quiet").stdout == ""
