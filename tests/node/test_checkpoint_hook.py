"""A container's hook is told of its checkpoints, inside, and is gone when they begin."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tests.harness.cluster import wait_for
from tests.node import configured
from tests.node.in_a_job import go_on, in_a_job, kill
from tests.node.support import Life, Site

USERS = pytest.mark.parametrize("user", ["root", "alice"])
ANNOTATION = "oci-criu-shim.checkpoint-hook"
SETTINGS = "/etc/oci-criu-shim/config.toml"
NOTE = 'echo "$OCI_CRIU_SHIM_HOOK $OCI_CRIU_SHIM_REASON $OCI_CRIU_SHIM_RESULT" >>/log/notes; '
PLACE = 'echo "$WORD $PWD $(id -u) $(readlink /proc/self/ns/pid) $(cat /proc/1/comm)" >/log/place; '
LONG = "setsid sleep 987 & sleep 987"
MARKED = ["pgrep", "-f", "sleep 987"]


def told(*words: str, container: str) -> str:
    moment, reason, why = words
    return f"oci-criu-shim: error: the checkpoint hook of {container} ({moment}, {reason}) failed: {why}\n"


@contextmanager
def hooked(site: Site, user: str, command: str, *variables: str) -> Iterator[Life]:
    """A container with that hook, and a directory for what it notes; it is not started."""
    spec = site.spec(user)
    life = site.container(user, spec)
    spec["annotations"] = {ANNOTATION: command}
    spec["process"]["cwd"] = "/var"
    spec["process"]["env"] += ["WORD=a b", *variables]
    spec["mounts"].append(configured.bind(life.bundle, "/log", "log", ["bind", "rw"]))
    life.write()
    site.exec(["mkdir", f"{life.bundle}/log"], user)
    try:
        yield life
    finally:
        life.stop()


@contextmanager
def limit(site: Site, seconds: str) -> Iterator[None]:
    site.exec(["sh", "-c", f"echo 'hook-limit = \"{seconds}\"' >{SETTINGS}"])
    try:
        yield
    finally:
        site.exec(["sh", "-c", f": >{SETTINGS}"])


def notes(life: Life) -> list[str]:
    """All that it was told."""
    return life.site.exec(["cat", f"{life.bundle}/log/notes"], life.user, check=False).stdout.splitlines()


def processes(site: Site) -> list[str]:
    return site.exec(MARKED, check=False).stdout.split()


@USERS
def test_each_moment(site: Site, user: str) -> None:
    """As the container's user, in its namespaces, with its environment and working directory."""
    with hooked(site, user, PLACE + NOTE) as life:
        with site.lending(user):
            life.run()
            life.look()
            life.checkpoint("--leave-running")
            assert notes(life) == ["pre-dump demand ", "post-dump demand taken"]
            life.look()
            life.checkpoint()
            assert notes(life)[2:] == ["pre-dump demand "]
        life.restore()
        links = life.look()["namespaces"]
        wait_for(lambda: notes(life)[3:] == ["post-restore demand "], 10, "the restore")
        place = site.exec(["cat", f"{life.bundle}/log/place"]).stdout
        assert place == f"a b /var 0 {links['pid']} python3\n"
        assert life.end() == 0


def test_left_to_the_caller(site: Site) -> None:
    """As podman has it: `restore` ends when its hook has."""
    with hooked(site, "root", NOTE) as life:
        life.spec["process"]["args"] = ["sleep", "1000"]
        life.write()
        for verb in ("run", "restore"):
            images = f"--image-path={life.images} " if verb == "restore" else ""
            words = " ".join(life.argv(verb, "--detach", f"--bundle={life.bundle}"))
            site.exec(["sh", "-c", f"{words} {images}{life.name} </dev/null >/dev/null 2>&1"])
            assert notes(life) == (["pre-dump demand ", "post-restore demand "] if images else [])
            if not images:
                life.checkpoint()
                assert notes(life) == ["pre-dump demand "]


def test_what_fails_is_told_of_it(site: Site) -> None:
    """There is no helper, so there is no dump."""
    with hooked(site, "alice", NOTE) as life:
        life.run()
        life.look()
        assert life.checkpoint(check=False).returncode == 1
        assert notes(life) == ["pre-dump demand ", "post-dump demand failed"]


@USERS
def test_a_hook_that_fails_changes_nothing_else(site: Site, user: str) -> None:
    with hooked(site, user, "exit 3") as life:
        with site.lending(user):
            life.run()
            life.look()
            done = life.checkpoint()
        assert told("pre-dump", "demand", "exit status 3", container=life.name) in done.stderr
        life.restore()
        life.look()
        wait_for(lambda: told("post-restore", "demand", "exit status 3", container=life.name) in life.said(), 10, "it")
        assert life.end() == 0


@USERS
def test_nothing_of_it_is_left_in_the_checkpoint(site: Site, user: str) -> None:
    """Not even what has left its session, or has been adopted by the container's first process."""
    script = f'case "$OCI_CRIU_SHIM_HOOK" in pre-dump) {LONG};; esac'
    with hooked(site, user, script) as life:
        with site.lending(user), limit(site, "1s"):
            life.run()
            life.look()
            done = life.checkpoint("--leave-running")
            assert (
                told("pre-dump", "demand", "it took longer than 1 s, and was ended", container=life.name) in done.stderr
            )
            assert not processes(site)
            life.checkpoint()
        life.restore()
        life.look()
        assert not processes(site)
        assert life.end() == 0


def test_what_it_leaves_running_is_ended(site: Site) -> None:
    """Also what is just about to begin a program, which has no environment then."""
    with hooked(site, "alice", "(setsid sleep 987 &) & wait") as life, site.lending("alice"):
        life.run()
        life.look()
        for _ in range(10):
            done = life.checkpoint("--leave-running", "--image-path", f"{life.images}.again")
            line = f"oci-criu-shim: what the checkpoint hook of {life.name} (pre-dump) left running was ended: "
            assert line in done.stderr
            assert not processes(site)
            site.exec(["rm", "-r", f"{life.images}.again"], "alice")


@USERS
def test_in_a_job(site: Site, user: str) -> None:
    """At its intervals, and when it goes on; the option counts, and not the annotation."""
    with hooked(site, user, "exit 4") as life:
        option = [f"SLURM_CHECKPOINT_HOOK={NOTE}"]
        with in_a_job(life, "interval:3s", option):
            life.look()
            wait_for(lambda: "post-dump interval taken" in notes(life), 20, "a checkpoint")
            kill(life)
            go_on(life)
            life.look()
            wait_for(lambda: "post-restore interval " in notes(life), 20, "the restore")
        assert "failed" not in life.said()
