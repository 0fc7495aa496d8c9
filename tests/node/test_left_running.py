"""A container that runs on after its checkpoints, is killed, and goes on from the last of them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from tests.harness.cluster import wait_for
from tests.harness.cluster.waiting import patient
from tests.node.in_a_job import go_on, in_a_job, keep, kill, store
from tests.node.support import Life, Site

USERS = pytest.mark.parametrize("user", ["root", "alice"])
FILES = ("/data/appended", "/data/offset", "/in-root")
IN_ROOT = "/home/alice/base/rootfs/in-root"


def write(life: Life, line: str) -> None:
    life.send(line + "\n")


def read(life: Life) -> dict[str, Any]:
    assert life.process and life.process.stdout
    line = life.process.stdout.readline()
    assert line, f"nothing was answered: {life.said()}"
    answer: dict[str, Any] = json.loads(line)
    assert answer["wrong"] == [], life.said()
    return answer


def ask(life: Life) -> int:
    write(life, "next")
    return int(read(life)["count"])


@contextmanager
def growing(site: Site, user: str, *command: str) -> Iterator[Life]:
    """A job's container that holds files open."""
    spec = site.spec(user)
    life = site.container(user, spec)
    data = f"{life.bundle}/data"
    site.exec(["mkdir", data], user)
    spec["mounts"].append({"destination": "/data", "type": "none", "source": data, "options": ["bind", "rw"]})
    spec["process"]["args"] = list(command or ("python3", "-I", "/growing.py", *FILES))
    site.exec(["install", f"--owner={user}", "/dev/null", IN_ROOT])
    try:
        with in_a_job(life):
            yield life
    finally:
        site.exec(["rm", IN_ROOT])


@USERS
def test_killed_after_its_third_checkpoint(site: Site, user: str) -> None:
    with growing(site, user) as life:
        assert ask(life) == 1
        reached = 1
        for _ in range(3):
            write(life, "1")
            write(life, "waits to be read while the other sleeps")
            keep(life)
            assert [read(life)["count"], read(life)["count"]] == [reached + 1, reached + 2]
            reached = ask(life)
        kill(life)

        go_on(life)
        at_checkpoint = reached - 3
        # What had not been read then, is read now, and so is what was read since then.
        assert [read(life)["count"] for _ in range(3)] == [at_checkpoint + 1, at_checkpoint + 2, reached]
        assert ask(life) == reached + 1
        said = life.said()
        cut = "".join(f"{number}\n" for number in range(at_checkpoint + 1, reached + 1))
        size = len("".join(f"{number}\n" for number in range(1, at_checkpoint + 1)))
        for file in FILES:
            line = f"oci-criu-shim: {file} goes back to its length at the checkpoint ({size} bytes); "
            assert said.count(line) == 1, said
            kept = said.split(line)[1].split("is kept in ")[1].split("\n")[0]
            assert kept.startswith(f"{store(life)}/cut/")
            assert site.exec(["cat", kept], user).stdout == cut
        assert f"restored job 1 step 0 task 0 from {store(life)}/3 " in said
        assert life.end() == 0
        left = site.exec(["ls", store(life)], user).stdout.split()
        assert "cut" in left and not [name for name in left if name.isdecimal()]


@USERS
def test_a_child_that_nobody_has_waited_for(site: Site, user: str) -> None:
    def zombies() -> list[str]:
        argv = ["ps", "--format=state=", f"--ppid={life.state()['pid']}"]
        return site.exec(argv, check=False).stdout.split()

    with growing(site, user, "sh", "-c", f"true & exec python3 -I /growing.py {' '.join(FILES)}") as life:
        assert ask(life) == 1
        wait_for(lambda: zombies() == ["Z"], 10, "the child's end")
        keep(life)
        kill(life)
        go_on(life)
        assert ask(life) == 2
        assert zombies() == ["Z"]
        assert life.end() == 0


@USERS
def test_shorter_is_an_error_with_its_name(site: Site, user: str) -> None:
    with growing(site, user) as life:
        ask(life)
        keep(life)
        kill(life)
        site.exec(["truncate", "--size=0", f"{life.bundle}/data/offset"], user)
        go_on(life)
        assert life.process and life.process.wait(patient(20))
        assert "data/offset has bad size 0 (expect 2)" in life.said()
        assert "a file that it had open has changed since the checkpoint" in life.said()
        assert "could not be restored from any checkpoint" in life.said()


@USERS
def test_turned_off(site: Site, user: str) -> None:
    path = "/etc/oci-criu-shim/config.toml"
    with growing(site, user) as life:
        ask(life)
        keep(life)
        ask(life)
        kill(life)
        site.cluster.exec(site.node, ["tee", path], "root", input="rollback = false\n")
        try:
            go_on(life)
            assert life.process and life.process.wait(patient(20))
        finally:
            site.cluster.exec(site.node, ["tee", path], "root", input="")
        assert "has bad size 4 (expect 2)" in life.said()
        assert "goes back" not in life.said()


HOLD = "echo 1 >/data/one; exec 3>>/data/one; ln /data/one /data/two; rm /data/one; echo; read line; echo 2 >&3"


@USERS
def test_a_file_with_another_name_needs_a_dump_that_ends_the_container(site: Site, user: str) -> None:
    with growing(site, user, "sh", "-c", HOLD) as life:
        assert life.process and life.process.stdout
        life.process.stdout.readline()
        assert "a name that was removed" in keep(life, check=False)
        assert site.exec(["ls", "-A", f"{life.bundle}/data"], user).stdout == "two\n"
        write(life, "go on")
        assert life.end() == 0
        assert site.exec(["cat", f"{life.bundle}/data/two"], user).stdout == "1\n2\n"
